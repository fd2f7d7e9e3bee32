import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from nas3d_jax.data.patches.augment import (
  Transform,
  apply_transform,
  augment,
  axis_orders,
  draw_transform,
  source_index,
)
from nas3d_jax.errors import InputError

still = jax.jit(functools.partial(augment, scale_std=0))
moving = jax.jit(augment)
move = jax.jit(apply_transform)


def transform(order=(0, 1, 2), flip=(False,) * 3, factor=(1.0,) * 3):
  return Transform(jnp.array(order), jnp.array(flip), jnp.array(factor, jnp.float32))


def symmetries(volume):
  """All that flips, and rotations by NumPy that keep the shape, make of a volume."""
  found, fresh = {}, [volume]
  while fresh:
    known = fresh.pop()
    if known.tobytes() in found:
      continue
    found[known.tobytes()] = known
    fresh += [np.flip(known, axis) for axis in range(3)]
    turned = [np.rot90(known, axes=plane) for plane in ((0, 1), (0, 2), (1, 2))]
    fresh += [t for t in turned if t.shape == volume.shape]
  return found


@pytest.mark.parametrize(
  ("shape", "orders"),
  [
    ((5, 5, 5), 6),
    ((4, 6, 4), 2),
    ((3, 4, 5), 1),
  ],
)
def test_every_symmetry_of_the_shape_and_nothing_else(shape, orders):
  assert len(axis_orders(shape)) == orders
  volume = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
  count = 1000
  batch = np.broadcast_to(volume, (count, *shape))
  image, target = still(jax.random.key(0), batch[..., None], batch)
  expected = symmetries(volume)
  assert len(expected) == 8 * orders
  assert {v.tobytes() for v in np.asarray(target)} == set(expected)
  np.testing.assert_array_equal(image[..., 0], target)


@pytest.fixture(scope="module")
def drawn():
  keys = jax.random.split(jax.random.key(1), 9600)
  return jax.jit(jax.vmap(functools.partial(draw_transform, shape=(8, 8, 8))))(keys)


def test_symmetries_are_equally_likely(drawn):
  _, counts = np.unique(np.hstack([drawn.order, drawn.flip]), axis=0, return_counts=True)
  assert len(counts) == 48
  assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_factors_are_normal_and_kept_within_their_range(drawn):
  factors = np.asarray(drawn.factor).ravel()
  inner = factors[(factors > 0.5) & (factors < 1.5)]
  # 2 deviations to either side: 95.45% lie inside, the others on the two ends.
  assert abs(len(inner) / len(factors) - 0.9545) < 0.01
  assert set(factors) - set(inner) == {0.5, 1.5}
  truncated = scipy.stats.truncnorm(-2, 2, 1, 0.25)
  assert scipy.stats.kstest(inner, truncated.cdf).pvalue > 0.01


@pytest.mark.parametrize(
  ("values", "factor", "flip", "expected"),
  [
    # Centre 1.5, offsets -1.5, -0.5, 0.5, 1.5, doubled -3, -1, 1, 3: at -1.5, 0.5, 2.5, 4.5,
    # of which the nearest (halves upwards) are -1, 1, 3, 5.
    ([1, 2, 3, 4], 0.5, False, [0, 2, 4, 0]),
    ([1, 2, 3, 4], 0.5, True, [0, 4, 2, 0]),
    # Offsets by 1.5: -1, -1/3, 1/3, 1: at 0.5, 1.17, 1.83, 2.5, nearest 1, 1, 2, 3.
    ([1, 2, 3, 4], 1.5, False, [2, 2, 3, 4]),
    # Centre 2, offsets by 1.25: -1.6, -0.8, 0, 0.8, 1.6: at 0.4, 1.2, 2, 2.8, 3.6.
    ([1, 2, 3, 4, 5], 1.25, False, [1, 2, 3, 4, 5]),
    # Offsets by 0.75: -2.67, -1.33, 0, 1.33, 2.67: at -0.67, 0.67, 2, 3.33, 4.67.
    ([1, 2, 3, 4, 5], 0.75, False, [0, 2, 3, 4, 0]),
    ([1, 2, 3, 4, 5], 1.0, True, [5, 4, 3, 2, 1]),
  ],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scaling_by_hand(values, factor, flip, expected, axis):
  def along(row):
    """A cube whose lines along the axis are all this row."""
    cube = np.broadcast_to(np.array(row, np.int32), (len(row),) * 3)
    return np.moveaxis(cube, 2, axis)

  chosen = np.arange(3) == axis
  scaling = transform(flip=chosen & flip, factor=np.where(chosen, factor, 1.0))
  np.testing.assert_array_equal(move(scaling, along(values)), along(expected))


def slow_sampler(volume, order, flip, factor):
  """Voxel by voxel, with each coordinate written out."""
  out = np.zeros_like(volume)
  for voxel in np.ndindex(volume.shape[:3]):
    source = [0, 0, 0]
    for axis in range(3):
      centre = np.float32((volume.shape[axis] - 1) / 2)
      offset = (np.float32(voxel[axis]) - centre) / np.float32(factor[axis])
      source[order[axis]] = int(np.floor(centre + (-offset if flip[axis] else offset) + 0.5))
    if all(0 <= s < n for s, n in zip(source, volume.shape[:3], strict=True)):
      out[voxel] = volume[tuple(source)]
  return out


@pytest.mark.parametrize("shape", [(6, 6, 6), (4, 7, 4), (3, 4, 5)])
def test_equals_the_slow_sampler(shape):
  rng = np.random.default_rng(3)
  for _ in range(8):
    order = axis_orders(shape)[rng.integers(len(axis_orders(shape)))]
    flip, factor = rng.random(3) < 0.5, rng.uniform(0.5, 1.5, 3).astype(np.float32)
    volume = rng.integers(-500, 500, (*shape, 2)).astype(np.int16)
    moved = move(transform(order, flip, factor), volume)
    np.testing.assert_array_equal(moved, slow_sampler(volume, order, flip, factor))


@pytest.mark.parametrize("shape", [(8, 8, 8), (6, 8, 6)])
def test_image_and_target_move_together(shape):
  labels = np.random.default_rng(4).integers(0, 100, (5, *shape)).astype(np.uint8)
  image = np.stack([labels, 300 * labels.astype(np.int16)], axis=-1)
  target = np.stack([labels, 2 * labels, labels > 50], axis=-1)
  moved_image, moved_target = moving(jax.random.key(5), image, target)
  assert (moved_image.dtype, moved_target.dtype) == (np.int16, np.uint8)
  moved = np.asarray(moved_image[..., 0])
  assert not np.array_equal(moved, labels)
  np.testing.assert_array_equal(moved_image[..., 1], 300 * moved)
  np.testing.assert_array_equal(moved_target, np.stack([moved, 2 * moved, moved > 50], axis=-1))


def test_a_pure_function_of_the_key_sample_by_sample():
  volume = np.random.default_rng(6).integers(0, 99, (1, 6, 6, 6)).astype(np.int16)
  batch = np.repeat(volume, 4, axis=0)
  key = jax.random.key(7)
  image, target = moving(key, batch[..., None], batch)
  again, _ = moving(key, batch[..., None], batch)
  np.testing.assert_array_equal(image, again)
  alone, _ = moving(key, batch[:1, ..., None], batch[:1])
  np.testing.assert_array_equal(image[:1], alone)
  assert len({v.tobytes() for v in np.asarray(target)}) == 4
  other, _ = moving(jax.random.key(8), batch[..., None], batch)
  assert not np.array_equal(image, other)


def test_the_index_of_an_unmoved_volume_counts_up():
  index = source_index(transform(), (2, 3, 4))
  assert index.dtype == jnp.int32
  np.testing.assert_array_equal(index, np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
  ("image", "target"),
  [
    ((1, 4, 4, 4), (1, 4, 4, 4)),
    ((2, 4, 4, 4, 1), (1, 4, 4, 4)),
    ((1, 4, 4, 4, 1), (1, 4, 4, 5, 3)),
  ],
)
def test_wrong_shapes_are_named(image, target):
  with pytest.raises(InputError, match="image must be"):
    augment(jax.random.key(0), np.zeros(image), np.zeros(target))
