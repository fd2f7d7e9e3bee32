"""The Dice loss against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.training.losses import dice_loss

EPS = 1e-6


def volumes(*regions):
  """[1, 1, 1, voxels, regions] from one list of voxels a region."""
  return np.array(regions, np.float32).T[None, None, None]


@pytest.mark.parametrize(
  ("probabilities", "target", "loss"),
  [
    ([1, 1, 0, 0], [1, 1, 0, 0], 0),
    ([1, 1, 0, 0], [0, 0, 1, 1], 1),
    # 2 * 1 / (2 + 1)
    ([1, 0, 0, 0], [1, 1, 0, 0], 1 / 3),
    # 2 * (0.5 + 0.25) / (2 + 1)
    ([0.5, 0.25, 0.25, 0], [1, 1, 0, 0], 1 / 2),
    # Nothing there and nothing found: eps / eps.
    ([0, 0, 0, 0], [0, 0, 0, 0], 0),
    # Nothing there: eps / (eps + 1).
    ([1, 0, 0, 0], [0, 0, 0, 0], 1 - EPS / (1 + EPS)),
  ],
)
def test_one_region(probabilities, target, loss):
  got = dice_loss(volumes(probabilities), volumes(target))
  assert (got.shape, got.dtype) == ((), jnp.float32)
  np.testing.assert_allclose(got, loss, atol=1e-6)


def test_mean_over_regions_and_batch_of_each_ones_own_coefficient():
  """By hand 1 - (1 + 2/3 + 0 + 1) / 4 = 1/3."""
  first = volumes([1, 1, 0, 0], [1, 0, 0, 0]), volumes([1, 1, 0, 0], [1, 1, 0, 0])
  second = volumes([1, 1, 1, 0], [0, 0, 0, 1]), volumes([0, 0, 0, 1], [0, 0, 0, 1])
  probabilities, target = (np.concatenate(pair) for pair in zip(first, second, strict=True))
  np.testing.assert_allclose(dice_loss(probabilities, target), 1 / 3, atol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32])
def test_targets_of_any_dtype(dtype):
  p, y = volumes([0.5, 0.25, 0.25, 0]), volumes([1, 1, 0, 0])
  assert dice_loss(p, y.astype(dtype)) == dice_loss(p, y)


def test_half_precision_sums_in_single():
  """4096 voxels of 1 cannot be counted in bfloat16, which ends at 256."""
  ones = jnp.ones((1, 16, 16, 16, 1), jnp.bfloat16)
  half = jnp.zeros((1, 16, 16, 16, 1), bool).at[:, :8].set(True)
  np.testing.assert_allclose(dice_loss(ones, half), 1 - 2 * 2048 / (2048 + 4096), rtol=1e-6)


def test_gradient_by_hand():
  """d/dp of 1 - 2 sum(y p) / (sum y + sum p) at p = 1/2: -2 (y S - T) / S^2 with S = 2 + 2 = 4, T = 1."""
  p, y = volumes([0.5] * 4), volumes([1, 1, 0, 0])
  expected = [-2 * (4 - 1) / 16] * 2 + [2 / 16] * 2
  np.testing.assert_allclose(jax.grad(dice_loss)(p, y).ravel(), expected, rtol=1e-5)
  np.testing.assert_allclose(jax.jit(jax.grad(dice_loss))(p, y).ravel(), expected, rtol=1e-5)


def test_shape_without_values():
  shape = jax.ShapeDtypeStruct((2, 4, 4, 4, 3), jnp.float32)
  assert jax.eval_shape(dice_loss, shape, shape).shape == ()
