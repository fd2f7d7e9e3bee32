"""Group norm as a scale and a shift for each channel, from moments of the raw convolution.

The convolution's bias never touches the array: it moves the mean of its own channel and that is accounted for
analytically, so bias, normalisation, activation and mixture are one pass over the voxels, after one pass for the
moments.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from nas3d_jax import rearrange

EPSILON = 1e-5
_GROUP = 16


def group_size(channels: int) -> int:
  """Channels of a group: 16, or all of them where 16 does not divide."""
  return _GROUP if channels % _GROUP == 0 else channels


def moments(y: jax.Array, voxels: tuple[int, ...], share: int = 1) -> tuple[jax.Array, jax.Array]:
  """Mean and mean square over the axes `voxels`, in float32.

  Args:
    y: any array.
    voxels: the axes to reduce.
    share: y holds one of so many voxels; the others are zero and count.
  """
  y = y.astype(jnp.float32)
  count = share * math.prod(y.shape[axis] for axis in voxels)
  return jnp.sum(y, voxels) / count, jnp.sum(jnp.square(y), voxels) / count


def group_affine(
  mean: jax.Array, mean_square: jax.Array, bias: jax.Array, scale: jax.Array, shift: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(a, b) such that group norm of (y + bias) is y * a + b.

  Each row of the last axis is normalised on its own, in groups of `group_size` channels.

  Args:
    mean: mean of y a channel over the voxels, [N, ..., C] float32.
    mean_square: likewise of y squared.
    bias: what is added to y before the norm, [..., C].
    scale: of the norm, [..., C].
    shift: of the norm, [..., C].

  Returns:
    Two arrays of the shape of `mean`, float32.
  """
  channels = mean.shape[-1]
  groups = (*mean.shape[:-1], channels // group_size(channels), group_size(channels))

  def over_group(values):
    means = values.reshape(groups).mean(-1, keepdims=True)
    return jnp.broadcast_to(means, groups).reshape(mean.shape)

  center = over_group(mean + bias)
  square = over_group(mean_square + 2 * bias * mean + jnp.square(bias))
  # Not `jnp.maximum`: its gradient is lost where XLA computes the difference a second time, rounded otherwise.
  variance = jax.nn.relu(square - jnp.square(center))
  a = scale * jax.lax.rsqrt(variance + EPSILON)
  return a, shift + (bias - center) * a


def over_voxels(values: jax.Array, like: jax.Array) -> jax.Array:
  """[N, ...] -> [N, 1, ..., 1, ...], to be broadcast against `like`, whose voxel axes follow N."""
  return values.reshape(values.shape[0], *(1,) * (like.ndim - values.ndim), *values.shape[1:])


def group_norm(y: jax.Array, before: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
  """Group norm of (y + before): [N, D, H, W, C] -> the same; the other arguments are [C]."""
  a, b = group_affine(*moments(y, (1, 2, 3)), before, scale, bias)
  return rearrange.settle(y * over_voxels(a, y) + over_voxels(b, y)).astype(y.dtype)
