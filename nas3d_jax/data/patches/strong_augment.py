"""Strong augmentation of normalised patches, on the device: what nnU-Net does to its own.

Chances and ranges are those of nnU-Net's default: rotation, scaling, mirroring; noise, blur, brightness, contrast, low
resolution, gamma. Nothing is drawn but from the key, and what is outside stays 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike

from nas3d_jax.errors import InputError

ROTATION, MOST_DEGREES = 0.2, 30.0
"""Chance of a rotation about each axis, and the greatest angle."""
SCALING, SCALES = 0.2, (0.7, 1.4)
NOISE, MOST_VARIANCE = 0.1, 0.1
"""Of the noise; the foreground of a modality has variance 1."""
BLUR, SIGMAS = 0.2, (0.5, 1.0)
BRIGHTNESS, FACTORS = 0.15, (0.75, 1.25)
CONTRAST = 0.15
LOW_RESOLUTION, ZOOMS = 0.25, (0.5, 1.0)
GAMMA, INVERTED, GAMMAS = 0.3, 0.1, (0.7, 1.5)
"""Chance of a gamma of the intensities, of one of the inverted intensities, and the exponent."""

_RADIUS = 3
_EPSILON = 1e-6
Change = Callable[[jax.Array, jax.Array], jax.Array]
"""(values, a draw from 0 to 1) -> values."""


def strong_augment(
  key: jax.Array, image: ArrayLike, label: ArrayLike, *, mirror: Sequence[int] = (0, 1, 2)
) -> tuple[jax.Array, jax.Array]:
  """Moves each sample at random, image and labels alike, and changes its intensities.

  A pure function of its arguments, for `jit`; what happens to sample i depends on the key and i alone.

  Args:
    key: a random key for the batch.
    image: float [N, D, H, W, M], normalised; 0 in every modality outside.
    label: [N, D, H, W] of any dtype.
    mirror: the axes that are mirrored, each with probability 1/2.

  Returns:
    Image and labels of the same shapes and dtypes.

  Raises:
    InputError: the shapes are not as above.
  """
  image, label = jnp.asarray(image), jnp.asarray(label)
  if image.ndim != 5 or image.shape[:4] != label.shape:
    raise InputError(
      f"image must be [N, D, H, W, M] and label [N, D, H, W] of one shape, got {image.shape} and {label.shape}"
    )
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(image.shape[0], dtype=jnp.int32))

  def one(key, image, label):
    space, intensity = jax.random.split(key)
    coordinates = draw_coordinates(space, label.shape, mirror=tuple(mirror))
    image, label, inside = move(coordinates, image, label)
    return change_intensities(intensity, image, inside), label

  return jax.vmap(one)(keys, image, label)


def draw_coordinates(key: jax.Array, shape: tuple[int, int, int], *, mirror: Sequence[int] = (0, 1, 2)) -> jax.Array:
  """Where each voxel of the output lies in the input, in voxels: float32 [3, D, H, W].

  Args:
    key: a random key.
    shape: D, H, W.
    mirror: axes that are mirrored with probability 1/2.
  """
  turned, angles, scaled, scale, flipped = jax.random.split(key, 5)
  angles = _uniform(angles, (-MOST_DEGREES, MOST_DEGREES), 3) * (math.pi / 180)
  angles = jnp.where(jax.random.bernoulli(turned, ROTATION, (3,)), angles, 0.0)
  # Half of the scales enlarge, half reduce, as nnU-Net draws them.
  place = _uniform(scale, (-1.0, 1.0))
  scale = jnp.where(place < 0, 1 + place * (1 - SCALES[0]), 1 + place * (SCALES[1] - 1))
  scale = jnp.where(jax.random.bernoulli(scaled, SCALING), scale, 1.0)
  may = jnp.asarray([axis in mirror for axis in range(3)])
  sign = jnp.where(may & jax.random.bernoulli(flipped, 0.5, (3,)), -1.0, 1.0)
  matrix = _rotation(angles) * (sign / scale)[None]
  return coordinates_of(matrix, shape)


def coordinates_of(matrix: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
  """The grid about its centre, by a matrix float32 [3, 3]: float32 [3, D, H, W]."""
  axes = [jnp.arange(length, dtype=jnp.float32) - (length - 1) / 2 for length in shape]
  grids = jnp.meshgrid(*axes, indexing="ij")
  moved = [sum(matrix[row, axis] * grids[axis] for axis in range(3)) for row in range(3)]
  return jnp.stack([grid + (length - 1) / 2 for grid, length in zip(moved, shape, strict=True)])


def move(coordinates: jax.Array, image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Samples an image [D, H, W, M] linearly and its labels [D, H, W] at the nearest voxel; 0 comes from beyond.

  Returns:
    Image, labels, and bool [D, H, W], where the nearest voxel is inside.
  """
  image, label = jnp.asarray(image), jnp.asarray(label)
  sample = functools.partial(map_coordinates, coordinates=list(coordinates), order=1, mode="constant")
  moved = jax.vmap(sample, in_axes=-1, out_axes=-1)(image)
  index = jnp.floor(coordinates + 0.5).astype(jnp.int32)
  lengths = jnp.asarray(label.shape, jnp.int32)[:, None, None, None]
  there = ((index >= 0) & (index < lengths)).all(axis=0)
  place = (index[0] * label.shape[1] + index[1]) * label.shape[2] + index[2]
  place = jnp.where(there, place, label.size)

  def nearest(values):
    return values.ravel().at[place].get(mode="fill", fill_value=0)

  return moved, nearest(label), nearest((image != 0).any(axis=-1))


def change_intensities(key: jax.Array, image: jax.Array, inside: jax.Array) -> jax.Array:
  """Noise, blur, brightness, contrast, low resolution and gamma of an image [D, H, W, M]; 0 where not `inside`."""
  keys = jax.random.split(key, image.shape[-1])
  change = jax.vmap(_change_modality, in_axes=(0, -1, None), out_axes=-1)
  return change(keys, image, inside).astype(image.dtype)


def _change_modality(key: jax.Array, values: jax.Array, inside: jax.Array) -> jax.Array:
  noise_key, key = jax.random.split(key)
  chance, amount = jax.random.uniform(key, (2, 7), jnp.float32)

  def perhaps(place: int, probability: float, changed: Change, values: jax.Array) -> jax.Array:
    return jnp.where(chance[place] < probability, changed(values, amount[place]), values)

  mean, deviation = _moments(values, inside)
  values = jnp.where(inside, (values - mean) / deviation, 0)
  white = jax.random.normal(noise_key, values.shape, jnp.float32)
  values = perhaps(0, NOISE, lambda v, u: v + jnp.sqrt(u * MOST_VARIANCE) * white, values)
  values = perhaps(1, BLUR, lambda v, u: blur(v, _between(SIGMAS, u)), values)
  # Of what was normalised, brightness is a factor of it, as nnU-Net's is.
  values = perhaps(2, BRIGHTNESS, lambda v, u: v * _between(FACTORS, u), values)
  values = perhaps(3, CONTRAST, lambda v, u: contrast(v, inside, _between(FACTORS, u)), values)
  values = perhaps(4, LOW_RESOLUTION, lambda v, u: low_resolution(v, _between(ZOOMS, u)), values)
  values = perhaps(5, INVERTED, lambda v, u: -gamma(-v, inside, _between(GAMMAS, u)), values)
  values = perhaps(6, GAMMA, lambda v, u: gamma(v, inside, _between(GAMMAS, u)), values)
  return jnp.where(inside, values * deviation + mean, 0)


def blur(values: jax.Array, sigma: jax.Array) -> jax.Array:
  """A Gaussian of this deviation in voxels over [D, H, W], cut off at three voxels; 0 lies beyond."""
  offsets = range(-_RADIUS, _RADIUS + 1)
  weights = jnp.exp(-0.5 * (jnp.asarray(offsets, jnp.float32) / sigma) ** 2)
  weights = weights / weights.sum()
  for axis in range(3):
    pads = [(_RADIUS, _RADIUS) if a == axis else (0, 0) for a in range(3)]
    wide, length = jnp.pad(values, pads), values.shape[axis]
    values = sum(
      weights[place] * jax.lax.slice_in_dim(wide, place, place + length, axis=axis) for place in range(len(offsets))
    )
  return values


def contrast(values: jax.Array, inside: jax.Array, factor: jax.Array) -> jax.Array:
  """Intensities [D, H, W] spread about their mean inside, and kept within their range there."""
  mean, _ = _moments(values, inside)
  return jnp.clip((values - mean) * factor + mean, *_range(values, inside))


def low_resolution(values: jax.Array, zoom: jax.Array) -> jax.Array:
  """What [D, H, W] looks like that was sampled at the nearest of 1/zoom voxels, and drawn out linearly again."""
  for axis, length in enumerate(values.shape):
    centre = (length - 1) / 2
    coarse = (jnp.arange(length, dtype=jnp.float32) - centre) * zoom
    # Samples lie about the centre, so that all are where they were at a zoom of 1.
    first = jnp.floor(coarse - centre % 1) + centre % 1
    share = jnp.expand_dims(coarse - first, [a for a in range(3) if a != axis])

    before, after = (
      jnp.take(values, jnp.clip(jnp.floor(place / zoom + centre + 0.5), 0, length - 1).astype(jnp.int32), axis=axis)
      for place in (first, first + 1)
    )
    values = before * (1 - share) + after * share
  return values


def gamma(values: jax.Array, inside: jax.Array, exponent: jax.Array) -> jax.Array:
  """Intensities [D, H, W] to a power of their place in the range inside; mean and deviation there stay."""
  mean, deviation = _moments(values, inside)
  low, high = _range(values, inside)
  span = jnp.maximum(high - low, _EPSILON)
  bent = jnp.power(jnp.clip((values - low) / span, 0, 1), exponent) * span + low
  new_mean, new_deviation = _moments(bent, inside)
  return (bent - new_mean) / new_deviation * deviation + mean


def _rotation(angles: jax.Array) -> jax.Array:
  """Rotations about the three axes, one after the other: float32 [3, 3]."""
  product = jnp.eye(3, dtype=jnp.float32)
  for axis in range(3):
    one, other = (a for a in range(3) if a != axis)
    sine, cosine = jnp.sin(angles[axis]), jnp.cos(angles[axis])
    turn = jnp.eye(3, dtype=jnp.float32)
    turn = turn.at[one, one].set(cosine).at[other, other].set(cosine).at[one, other].set(-sine).at[other, one].set(sine)
    # Written out: a matrix product would be of the precision of the convolutions.
    product = (product[:, :, None] * turn[None]).sum(axis=1)
  return product


def _uniform(key: jax.Array, span: tuple[float, float], *shape: int) -> jax.Array:
  return jax.random.uniform(key, shape, jnp.float32, *span)


def _between(span: tuple[float, float], share: jax.Array) -> jax.Array:
  return span[0] + (span[1] - span[0]) * share


def _moments(values: jax.Array, inside: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and deviation inside; 0 and 1 where nothing is."""
  count = jnp.maximum(inside.sum(), 1).astype(values.dtype)
  mean = jnp.where(inside, values, 0).sum() / count
  variance = jnp.where(inside, jnp.square(values - mean), 0).sum() / count
  deviation = jnp.sqrt(variance)
  return mean, jnp.where(deviation > _EPSILON, deviation, 1)


def _range(values: jax.Array, inside: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Least and greatest inside; 0 and 0 where nothing is."""
  low = jnp.where(inside, values, jnp.inf).min()
  high = jnp.where(inside, values, -jnp.inf).max()
  return jnp.where(low <= high, low, 0), jnp.where(low <= high, high, 0)
