"""The strong augmentation, by values: against SciPy and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from nas3d_jax.data.patches.augmentation import Changes
from nas3d_jax.data.patches.strong_augment import (
  blur,
  change_intensities,
  contrast,
  coordinates_of,
  draw_coordinates,
  gamma,
  low_resolution,
  move,
  strong_augment,
)
from nas3d_jax.errors import InputError

SHAPE = (7, 6, 9)
RNG = np.random.default_rng(0)
VALUES = RNG.normal(5, 2, SHAPE).astype(np.float32)
INSIDE = RNG.random(SHAPE) < 0.7
LABEL = RNG.integers(0, 3, SHAPE).astype(np.uint8)


def test_a_rotation_is_scipys():
  angle = 0.4
  matrix = np.asarray([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) / 1.25
  centre = (np.asarray(SHAPE) - 1) / 2
  offset = centre - matrix @ centre
  image = np.stack([VALUES, 2 * VALUES], -1)
  moved, label, inside = move(coordinates_of(jnp.asarray(matrix, jnp.float32), SHAPE), image, LABEL)
  for channel in range(2):
    # SciPy's "constant" takes 0 at once beyond the last voxel; "grid-constant" lets the edge fade, as is done here.
    expected = ndimage.affine_transform(image[..., channel], matrix, offset, order=1, mode="grid-constant")
    np.testing.assert_allclose(moved[..., channel], expected, atol=1e-4)
  np.testing.assert_array_equal(label, ndimage.affine_transform(LABEL, matrix, offset, order=0, mode="grid-constant"))
  np.testing.assert_array_equal(
    inside, ndimage.affine_transform(np.ones(SHAPE, np.uint8), matrix, offset, order=0, mode="grid-constant") > 0
  )


def test_mirroring_is_of_the_axes_asked_for():
  seen = set()
  for seed in range(40):
    coordinates = draw_coordinates(jax.random.key(seed), SHAPE, mirror=(1,))
    moved, _, _ = move(coordinates, VALUES[..., None], LABEL)
    for name, expected in (("as it is", VALUES), ("mirrored", VALUES[:, ::-1])):
      seen |= {name} if np.allclose(moved[..., 0], expected, atol=1e-4) else set()
    assert not np.allclose(moved[..., 0], VALUES[::-1], atol=1e-3)
  assert seen == {"as it is", "mirrored"}


def test_blur_is_scipys():
  expected = ndimage.gaussian_filter(VALUES, 0.8, mode="constant", truncate=3 / 0.8)
  np.testing.assert_allclose(blur(jnp.asarray(VALUES), jnp.float32(0.8)), expected, rtol=1e-5, atol=1e-5)


def test_contrast_by_hand():
  own = VALUES[INSIDE]
  expected = np.clip((VALUES - own.mean()) * 1.25 + own.mean(), own.min(), own.max())
  np.testing.assert_allclose(contrast(jnp.asarray(VALUES), INSIDE, jnp.float32(1.25)), expected, rtol=1e-5, atol=1e-5)


def test_gamma_by_hand():
  own = VALUES[INSIDE]
  bent = ((own - own.min()) / np.ptp(own)) ** 1.4
  expected = (bent - bent.mean()) / bent.std() * own.std() + own.mean()
  got = np.asarray(gamma(jnp.asarray(VALUES), INSIDE, jnp.float32(1.4)))[INSIDE]
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_low_resolution_by_hand():
  line = np.arange(9, dtype=np.float32) ** 2
  values = np.broadcast_to(line, (3, 3, 9))
  # Half the resolution: samples at 0, 2, 4, 6, 8, and straight lines between them.
  expected = np.interp(np.arange(9), [0, 2, 4, 6, 8], line[::2])
  np.testing.assert_allclose(low_resolution(jnp.asarray(values), jnp.float32(0.5))[1, 1], expected, rtol=1e-5)
  np.testing.assert_allclose(low_resolution(jnp.asarray(VALUES), jnp.float32(1)), VALUES, rtol=1e-5)


def test_what_is_outside_stays_zero_and_the_rest_has_its_size():
  image = np.where(INSIDE[..., None], np.stack([VALUES, 20 * VALUES], -1), 0).astype(np.float32)
  changed = np.stack([change_intensities(jax.random.key(seed), image, INSIDE) for seed in range(30)])
  assert not changed[:, ~INSIDE].any()
  assert np.isfinite(changed).all()
  shift = np.abs(changed - image).max(axis=(1, 2, 3))
  assert (shift[:, 0] == 0).mean() < 0.6  # seven chances of 0.1 to 0.3, each for itself
  for channel, size in enumerate((2, 40)):
    means = changed[:, INSIDE][..., channel].mean(axis=1)
    assert np.abs(means - means.mean()).max() < 3 * size


def test_samples_are_drawn_apart_and_again():
  image, label = np.stack([VALUES[..., None]] * 3), np.stack([LABEL] * 3)
  first = strong_augment(jax.random.key(1), image, label)
  for one, other in zip(first, strong_augment(jax.random.key(1), image[:2], label[:2]), strict=True):
    np.testing.assert_allclose(one[:2], other, atol=1e-5)
  assert not np.allclose(first[0][0], first[0][1])
  assert first[0].dtype == np.float32
  assert first[1].dtype == np.uint8
  assert set(np.unique(first[1])) <= {0, 1, 2}


def test_wrong_shapes():
  with pytest.raises(InputError, match=r"image must be \[N, D, H, W, M\].*\(2, 4, 4, 4\)"):
    strong_augment(jax.random.key(0), np.zeros((2, 4, 4, 4)), np.zeros((2, 4, 4, 4)))


def test_axes_by_name():
  assert [Changes("strong", name).axes for name in ("none", "D", "HW", "DHW")] == [(), (0,), (1, 2), (0, 1, 2)]
