"""Group norm, and its mixtures of several rows, against the two-pass formula in float64; so their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.models import group_norm


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
  got = jax.jit(group_norm.group_norm)(y, spread * before, scale, bias)
  expected = two_pass(y + spread * before, scale, bias)
  np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * max(1, offset**2))


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (4, 4), (15, 15), (16, 16), (24, 24), (32, 16), (192, 16)])
def test_groups_of_16_where_16_divides(channels, size):
  assert group_norm.group_size(channels) == size


def test_epsilon_is_pytorchs():
  """Of voxels +d and -d the deviation is d: the result is d / sqrt(d^2 + 1e-5), by hand 1/sqrt(2) for d^2 = 1e-5."""
  y = np.array([1e-5**0.5, -(1e-5**0.5)], np.float32).reshape(1, 2, 1, 1, 1)
  got = group_norm.group_norm(y, np.zeros(1), np.ones(1), np.zeros(1))
  np.testing.assert_allclose(got.ravel(), [0.5**0.5, -(0.5**0.5)], rtol=1e-5)


def test_a_constant_volume_becomes_the_shift():
  got = group_norm.group_norm(np.full((1, 4, 4, 4, 4), 110.0, np.float32), np.zeros(4), np.ones(4), np.arange(4.0))
  np.testing.assert_allclose(got, np.broadcast_to(np.arange(4), (1, 4, 4, 4, 4)), atol=1e-2)


# What is read of the raw arrays, whether it is added up, and the lengths of the voxel axes. A raw array of one row with
# more edges is shared by them.
RELU, LINEAR = True, False
LAYOUTS = {
  "one-raw": ((group_norm.Rows((2, 1), (RELU, RELU)),), False, (3, 2, 4)),
  "two-raws": ((group_norm.Rows((1, 3), (RELU, LINEAR)), group_norm.Rows((2,), (LINEAR,))), False, (3, 2, 4)),
  "shared": ((group_norm.Rows((3,), (LINEAR,)), group_norm.Rows((2,), (RELU,))), False, (5, 2, 2)),
  "mixed": ((group_norm.Rows((2, 2), (LINEAR, RELU)), group_norm.Rows((2,), (RELU,))), True, (3, 2, 4)),
  "mixed-linear": ((group_norm.Rows((1, 1), (LINEAR, LINEAR)),), True, (3, 2, 4)),
  # As the operations that double: the blocks are voxels, too.
  "mixed-shared": ((group_norm.Rows((2,), (RELU,)), group_norm.Rows((2, 2), (RELU, LINEAR))), True, (2, 1, 2, 8)),
}
SHARED = {"shared": 0, "mixed-shared": 0}
CASES = pytest.mark.parametrize(
  ("name", "channels"), [(name, channels) for name in LAYOUTS for channels in (4, 32)], ids=str
)


def arguments(name, channels):
  """Raws, bias, scale, shift and weight of a layout, for two samples; the rows differ in mean and deviation."""
  layout, _, lengths = LAYOUTS[name]
  random = np.random.default_rng(channels)
  raws = []
  for place, rows in enumerate(layout):
    count = 1 if SHARED.get(name) == place else sum(rows.edges)
    drawn = random.standard_normal((2, *lengths, count, channels), np.float32)
    raws.append(np.float32(2 + place) + np.arange(1, count + 1, dtype=np.float32)[:, None] * drawn)
  total = sum(sum(rows.edges) for rows in layout)
  bias, scale, shift = random.standard_normal((3, total, channels), np.float32)
  return raws, bias, scale, shift, random.uniform(0.2, 2, total).astype(np.float32)


def obvious(xp, raws, bias, scale, shift, weight, layout, mixed):
  """One operation at a time, in two passes."""
  outputs, first = [], 0
  for raw, (edges, relu) in zip(raws, layout, strict=True):
    shared, start = raw.shape[-2] == 1, first
    for count, clipped in zip(edges, relu, strict=True):
      rows = slice(first, first + count)
      y = (raw if shared else raw[..., first - start : first - start + count, :]) + bias[rows]
      size = 16 if y.shape[-1] % 16 == 0 else y.shape[-1]
      groups = y.reshape(y.shape[0], -1, count, y.shape[-1] // size, size)
      away = groups - groups.mean((1, 4), keepdims=True)
      deviation = xp.sqrt((away**2).mean((1, 4), keepdims=True) + 1e-5)
      z = (away / deviation).reshape(y.shape) * scale[rows] + shift[rows]
      outputs.append(weight[rows, None] * (xp.where(z > 0, z, 0) if clipped else z))
      first += count
  return [sum(outputs)] if mixed else outputs


def in_double(tree):
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@CASES
def test_normalized_equals_one_operation_at_a_time(name, channels):
  layout, mixed, _ = LAYOUTS[name]
  given = arguments(name, channels)
  got = jax.jit(group_norm.normalized, static_argnums=(5, 6))(*given, layout, mixed)
  expected = obvious(np, *in_double(given), layout, mixed)
  assert len(got) == (1 if mixed else sum(len(rows.edges) for rows in layout))
  for ours, theirs in zip(got, expected, strict=True):
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5)


def slopes(function, name, given):
  """The gradient by all five arguments; and the gradient of that gradient along one way."""
  layout, mixed, _ = LAYOUTS[name]
  random = np.random.default_rng(7)
  way = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(leaf.dtype), given)

  def value(*given):
    outputs = function(*given, layout, mixed)
    # Not a sum: that of normalised values does not depend on what is normalised.
    return sum(jnp.vdot(jnp.sin(jnp.arange(z.size, dtype=z.dtype)), jnp.square(z).ravel() + z.ravel()) for z in outputs)

  gradient = jax.grad(value, argnums=range(5))

  def along(*given):
    return sum(jnp.vdot(part, own) for part, own in zip(*map(jax.tree.leaves, (gradient(*given), way)), strict=True))

  return jax.jit(lambda *given: (gradient(*given), jax.grad(along, argnums=range(5))(*given)))(*given)


@pytest.mark.parametrize(("name", "channels"), [("two-raws", 32), ("shared", 4), ("mixed-shared", 32)])
def test_first_and_second_gradients_are_those_of_one_operation_at_a_time(name, channels):
  given = arguments(name, channels)
  got = slopes(group_norm.normalized, name, given)
  with jax.enable_x64(True):
    expected = slopes(functools.partial(obvious, jnp), name, in_double(given))
  for order, (ours, theirs) in enumerate(zip(got, expected, strict=True), 1):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs) == jax.tree.structure(given)
    for own, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
      assert own.dtype == np.float32
      assert other.dtype == np.float64, "the expectation is of another precision"
      assert np.abs(other).max() > 1e-2, "nothing to see"
      np.testing.assert_allclose(own, other, rtol=0, atol=1e-4 * order * np.abs(other).max())


def test_a_mixture_by_hand():
  """+3 and -3 have mean 0 and deviation 3, whatever the bias; weight * activation(scale * +-1 + shift)."""
  y = np.repeat(np.float32([3, -3]), 2).reshape(1, 2, 2, 1)
  ones, layout = np.ones((2, 1), np.float32), (group_norm.Rows((1, 1), (RELU, LINEAR)),)
  rows = (7 * ones, np.float32([[1], [2]]), np.float32([[0], [1]]), np.float32([0.5, 3]))
  normalized = jax.jit(group_norm.normalized, static_argnums=(5, 6))
  relu, linear = normalized([y], *rows, layout, False)
  np.testing.assert_allclose(relu.ravel(), [0.5, 0], atol=1e-4)
  np.testing.assert_allclose(linear.ravel(), [9, -3], atol=1e-4)
  (mixture,) = normalized([y], *rows, layout, True)
  np.testing.assert_allclose(mixture.ravel(), [9.5, -3], atol=1e-4)


def test_half_precision_has_statistics_in_single():
  """At 100 half precision has steps of 0.5: a mean or a square of that precision would be of no use."""
  name = "mixed"
  layout, mixed, _ = LAYOUTS[name]
  raws, *rows = arguments(name, 4)
  raws = [jnp.asarray(100 + 3 * raw, jnp.bfloat16) for raw in raws]

  @jax.jit
  def value_and_gradients(*given):
    (z,), backward = jax.vjp(lambda *given: group_norm.normalized(*given, layout, mixed), *given)
    return z, backward((jnp.ones_like(z),))

  got, (of_raws, *of_rows) = value_and_gradients(raws, *rows)
  (expected,) = obvious(np, *in_double((raws, *rows)), layout, mixed)
  assert got.dtype == jnp.bfloat16
  # 8 bits of mantissa round by 2^-9 of the value; what else there is comes from 100^2 in single precision.
  np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=2**-8, atol=5e-3)
  assert {gradient.dtype for gradient in of_raws} == {jnp.dtype(jnp.bfloat16)}
  assert {gradient.dtype for gradient in of_rows} == {jnp.dtype(jnp.float32)}
  y = raws[0][..., 0, :]
  assert group_norm.group_norm(y, *np.ones((3, 4), np.float32)).dtype == y.dtype
