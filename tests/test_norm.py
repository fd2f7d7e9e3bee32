"""Group norm against the two-pass formula in float64."""

import jax
import numpy as np
import pytest

from nas3d_jax import norm


def two_pass(y, scale, bias):
  """(y - mean) / deviation over the voxels and channels of a group, sample by sample."""
  n, *lengths, channels = y.shape
  size = {4: 4, 12: 12, 16: 16, 24: 24, 48: 16}[channels]
  groups = np.asarray(y, np.float64).reshape(n, -1, channels // size, size)
  mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
  return ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(n, *lengths, channels) * scale + bias


@pytest.mark.parametrize(("offset", "spread"), [(0, 1), (30, 1), (0, 1e-3)])
@pytest.mark.parametrize("channels", [4, 12, 16, 24, 48])
def test_group_norm_equals_two_passes(channels, offset, spread):
  random = np.random.default_rng(channels)
  y = (offset + spread * random.standard_normal((2, 3, 5, 4, channels))).astype(np.float32)
  before, scale, bias = random.standard_normal((3, channels), np.float32)
  got = norm.group_norm(y, spread * before, scale, bias)
  expected = two_pass(y + spread * before, scale, bias)
  np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * max(1, offset**2))


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (4, 4), (15, 15), (16, 16), (24, 24), (32, 16), (192, 16)])
def test_groups_of_16_where_16_divides(channels, size):
  assert norm.group_size(channels) == size


def test_epsilon_is_pytorchs():
  """Of voxels +d and -d the deviation is d: the result is d / sqrt(d^2 + 1e-5), by hand 1/sqrt(2) for d^2 = 1e-5."""
  y = np.array([1e-5**0.5, -(1e-5**0.5)], np.float32).reshape(1, 2, 1, 1, 1)
  got = norm.group_norm(y, np.zeros(1), np.ones(1), np.zeros(1))
  np.testing.assert_allclose(got.ravel(), [0.5**0.5, -(0.5**0.5)], rtol=1e-5)


def test_a_constant_volume_becomes_the_shift():
  got = norm.group_norm(np.full((1, 4, 4, 4, 4), 110.0, np.float32), np.zeros(4), np.ones(4), np.arange(4.0))
  np.testing.assert_allclose(got, np.broadcast_to(np.arange(4), (1, 4, 4, 4, 4)), atol=1e-2)


def test_rows_are_normalised_apart():
  """An axis of edges is no part of a group."""
  random = np.random.default_rng(1)
  y = random.standard_normal((2, 3, 2, 4, 5, 4), np.float32) * np.arange(1, 6)[:, None]
  bias, scale, shift = random.standard_normal((3, 5, 4), np.float32)
  a, b = norm.group_affine(*norm.moments(y, (1, 2, 3)), bias, scale, shift)
  got = y * norm.over_voxels(a, y) + norm.over_voxels(b, y)
  for edge in range(5):
    expected = two_pass(y[..., edge, :] + bias[edge], scale[edge], shift[edge])
    np.testing.assert_allclose(got[..., edge, :], expected, atol=1e-4)


def test_moments_by_hand():
  mean, square = norm.moments(np.array([[1.0, 2.0], [3.0, -6.0]]), (0,))
  np.testing.assert_array_equal(mean, [2, -2])
  np.testing.assert_array_equal(square, [5, 20])


def test_moments_count_the_zeros_that_are_left_out():
  y = np.random.default_rng(2).standard_normal((1, 3, 4), np.float32)
  filled = np.concatenate([y, np.zeros((1, 21, 4), np.float32)], axis=1)
  for part, whole in zip(norm.moments(y, (1,), 8), norm.moments(filled, (1,)), strict=True):
    np.testing.assert_allclose(part, whole, rtol=1e-5, atol=1e-6)


def test_half_precision_has_statistics_in_single():
  y = (100 + np.random.default_rng(3).standard_normal((1, 8, 8, 8, 4))).astype(jax.numpy.bfloat16)
  mean, square = norm.moments(y, (1, 2, 3))
  assert mean.dtype == square.dtype == np.float32
  np.testing.assert_allclose(mean, np.asarray(y, np.float64).mean((1, 2, 3)), rtol=1e-5)
  assert norm.group_norm(y, np.zeros(4), np.ones(4), np.zeros(4)).dtype == y.dtype
