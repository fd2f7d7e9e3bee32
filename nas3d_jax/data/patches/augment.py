"""Random distortion, flipping and rotation of patches, on the device (the paper's augmentation)."""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nas3d_jax.errors import InputError

Shape = tuple[int, int, int]
FACTORS = (0.5, 1.5)


class Transform(NamedTuple):
  """How one sample is moved.

  Attributes:
    order: int32 [3], a permutation: output axis a runs along input axis `order[a]`.
    flip: bool [3], whether output axis a runs backwards.
    factor: float32 [3], magnification along output axis a about the centre; above 1 things grow.
  """

  order: jax.Array
  flip: jax.Array
  factor: jax.Array


def axis_orders(shape: Shape) -> tuple[Shape, ...]:
  """The permutations of three axes that keep the shape: 6 for a cube, 2 or 1 for other shapes."""
  return tuple(
    order for order in itertools.permutations(range(3))
    if all(shape[axis] == length for axis, length in zip(order, shape, strict=True))
  )


def draw_transform(key: jax.Array, shape: Shape, *, scale_std: float = 0.25) -> Transform:
  """Draws a distortion, a flip of each axis with probability 1/2, and a rotation.

  Rotations are drawn as permutations of the axes of equal length. Every rotation of the cube is a
  permutation with some flips, and fair independent flips on top make all flips of a permutation
  equally likely. So one of the 48 symmetries of the cube (16 with two equal lengths, 8 with none),
  all with the same probability, is just what flips and a uniform rotation would give.

  Args:
    key: a random key.
    shape: the spatial lengths of the sample.
    scale_std: standard deviation of the magnification, whose mean is 1; 0 turns it off.

  Returns:
    A Transform; a magnification outside 0.5 to 1.5 is set to the nearer end.
  """
  symmetry_key, factor_key = jax.random.split(key)
  orders = jnp.asarray(axis_orders(shape), jnp.int32)
  # Two draws, not seven: each costs more compile time than all the rest here.
  symmetry = jax.random.randint(symmetry_key, (), 0, 8 * len(orders), jnp.int32)
  order, flip = orders[symmetry // 8], (symmetry >> jnp.arange(3, dtype=jnp.int32)) % 2 == 1
  factor = 1 + scale_std * jax.random.normal(factor_key, (3,), jnp.float32)
  return Transform(order, flip, jnp.clip(factor, *map(np.float32, FACTORS)))


def source_index(transform: Transform, shape: Shape) -> jax.Array:
  """For each voxel of the output, the nearest voxel of the input.

  Scaling, flips and permutation act on each axis apart, so the flat index is a sum of three
  vectors, and the whole transform one gather, which is faster than a switch over transpositions.

  Args:
    transform: what `draw_transform` gave.
    shape: the spatial lengths D, H, W of the sample.

  Returns:
    int32 [D, H, W]: flat index in C order; D H W or more where the output shows what lies outside.
  """
  size = math.prod(shape)
  strides = jnp.asarray((shape[1] * shape[2], shape[2], 1), jnp.int32)[transform.order]
  index = jnp.zeros(shape, jnp.int32)
  for axis, length in enumerate(shape):
    centre = (length - 1) / 2
    offset = (jnp.arange(length, dtype=jnp.float32) - centre) / transform.factor[axis]
    offset = jnp.where(transform.flip[axis], -offset, offset)
    source = jnp.floor(centre + offset + 0.5).astype(jnp.int32)
    along = jnp.where((source >= 0) & (source < length), source * strides[axis], size)
    index += jnp.expand_dims(along, [a for a in range(3) if a != axis])
  return index


def apply_transform(transform: Transform, volume: ArrayLike) -> jax.Array:
  """Moves one sample [D, H, W] or [D, H, W, C] of any dtype; what comes from outside is 0."""
  volume = jnp.asarray(volume)
  shape = volume.shape[:3]
  voxels = volume.reshape(math.prod(shape), *volume.shape[3:])
  return voxels.at[source_index(transform, shape)].get(mode="fill", fill_value=0)


def augment(
  key: jax.Array, image: ArrayLike, target: ArrayLike, *, scale_std: float = 0.25
) -> tuple[jax.Array, jax.Array]:
  """Distorts, flips and rotates each sample at random, its image and target alike.

  A pure function of its arguments, for `jit`. What happens to sample i depends on the key and i
  alone. Nearest sampling makes no new values, so raw intensities and labels can be moved before
  they become floats and regions: less to move, and the result is the same.

  Args:
    key: a random key for the batch.
    image: [N, D, H, W, M] of any dtype.
    target: [N, D, H, W] labels or [N, D, H, W, R] regions, of any dtype.
    scale_std: standard deviation of the magnification of each axis; 0 turns it off.

  Returns:
    Image and target of the same shapes and dtypes; what comes from outside the patch is 0.

  Raises:
    InputError: the shapes are not as above.
  """
  image, target = jnp.asarray(image), jnp.asarray(target)
  if image.ndim != 5 or target.ndim not in (4, 5) or image.shape[:4] != target.shape[:4]:
    raise InputError(
      "image must be [N, D, H, W, M] and target [N, D, H, W] or [N, D, H, W, R] of the same "
      f"N, D, H, W, got {image.shape} and {target.shape}"
    )
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(image.shape[0], dtype=jnp.int32))
  draw = functools.partial(draw_transform, shape=image.shape[1:4], scale_std=scale_std)
  transforms = jax.vmap(draw)(keys)
  move = jax.vmap(apply_transform)
  return move(transforms, image), move(transforms, target)
