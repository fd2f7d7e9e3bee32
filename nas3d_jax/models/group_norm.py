"""Group norm, activation and weighted sum as one operation with a gradient of its own.

The raw convolution's bias never touches the array: it moves the mean of its own channel, and that is accounted for
analytically, so that bias, norm, activation, weight and sum are one pass over the voxels, after one pass for the
moments. Its gradient is written out, because the derived one keeps and passes over several arrays of voxels where two
passes do: one for the sums that all parameters need, one for the input's gradient. It is itself differentiable in
reverse mode.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.models.cpu_tuning import materialize

EPSILON = 1e-5
_GROUP = 16


def group_size(channels: int) -> int:
  """Channels of a group: 16, or all of them where 16 does not divide."""
  return _GROUP if channels % _GROUP == 0 else channels


class Rows(NamedTuple):
  """How the rows of one raw array are read.

  Attributes:
    edges: rows of each operation in it; a raw array with a single row is shared by all edges of its one operation.
    relu: whether the activation of each operation is ReLU; else it has none.
  """

  edges: tuple[int, ...]
  relu: tuple[bool, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def normalized(
  raws: Sequence[jax.Array],
  bias: jax.Array,
  scale: jax.Array,
  shift: jax.Array,
  weight: jax.Array,
  layout: tuple[Rows, ...],
  mixed: bool,
) -> tuple[jax.Array, ...]:
  """weight * activation(group norm(y + bias)) of each operation, or the sum over the operations.

  Each row is normalised on its own, in groups of `group_size` channels, with statistics in float32.

  Args:
    raws: raw outputs y, each [N, ..., rows, C] with voxels between N and the rows.
    bias: added before the norm, [R, C] for all rows of all raws in their order.
    scale: of the norm, [R, C].
    shift: of the norm, [R, C].
    weight: [R], positive.
    layout: of each raw.
    mixed: whether to add the operations up; all have the same number of edges then.

  Returns:
    Of each operation, or of their sum, [N, ..., edges, C] in the dtype of the first raw.
  """
  return _normalized(raws, bias, scale, shift, weight, layout, mixed)[0]


def group_norm(y: jax.Array, before: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
  """Group norm of (y + before): [N, D, H, W, C] -> the same; the other arguments are [C]."""
  rows = (jnp.asarray(array)[None] for array in (before, scale, bias))
  (z,) = normalized([jnp.asarray(y)[..., None, :]], *rows, jnp.ones(1), (Rows((1,), (False,)),), True)
  return materialize(z[..., 0, :])


def _normalized(raws, bias, scale, shift, weight, layout, mixed):
  mean, center, rho = _statistics(raws, bias, layout)
  a = weight[:, None] * scale * rho
  # Settled, as all small arrays are that loops over voxels read: XLA would compute them anew in every such loop.
  a, b = materialize(jnp.stack([a, weight[:, None] * shift + (bias - center) * a]))
  outputs, start = [], 0
  for y, (edges, relu) in zip(raws, layout, strict=True):
    own = 0
    for count, clipped in zip(edges, relu, strict=True):
      rows, there = slice(start, start + count), slice(own, own + count)
      part = y if len(edges) == 1 else y[..., there, :]
      z = part * over_voxels(a[:, rows], y) + over_voxels(b[:, rows], y)
      outputs.append(jnp.maximum(z, 0) if clipped else z)
      start, own = start + count, own + count
  outputs = [sum(outputs)] if mixed else outputs
  saved = (tuple(raws), bias, scale, shift, weight, mean, center, rho, a, b)
  return tuple(z.astype(raws[0].dtype) for z in outputs), saved


def _gradients(layout, mixed, saved, gradients):
  raws, bias, scale, shift, weight, mean, center, rho, a, b = saved
  w = weight[:, None]
  # What all gradients of a row are made of: sums over voxels of the gradient, and of it times the normalised value.
  passed, sums, start, operation = [], [], 0, 0
  for y, (edges, relu) in zip(raws, layout, strict=True):
    rows = slice(start, start + sum(edges))
    own = [gradients[0]] * len(edges) if mixed else gradients[operation : operation + len(edges)]
    each = (own[0] if len(edges) == 1 else jnp.concatenate(own, axis=-2)).astype(jnp.float32)
    z = y * over_voxels(a[:, rows], y) + over_voxels(b[:, rows], y)
    each = jnp.where(z > _floors(edges, relu), each, 0) if any(relu) else each
    voxels = _voxels(y)
    sums.append((jnp.sum(each, voxels), jnp.sum(each * y, voxels)))
    passed.append(each)
    start, operation = rows.stop, operation + len(edges)
  plain, by_raw = (jnp.concatenate(parts, axis=1) for parts in zip(*sums, strict=True))
  count = math.prod(raws[0].shape[axis] for axis in _voxels(raws[0]))
  offset = rho * (bias - center)
  by_value = rho * by_raw + offset * plain
  toward_plain, toward_value = over_group(jnp.stack([w * scale * plain, w * scale * by_value]) / count)
  c0, c1 = materialize(
    jnp.stack([-rho * (toward_plain + offset * toward_value), -rho * rho * toward_value])
  )
  raw_gradients, start = [], 0
  for y, (edges, _), each in zip(raws, layout, passed, strict=True):
    rows = slice(start, start + sum(edges))
    through, k0, k1 = (over_voxels(part[:, rows], y) for part in (a, c0, c1))
    own = through * each + (k0 + k1 * y)
    if y.shape[-2] != own.shape[-2]:
      own = sum(own[..., row : row + 1, :] for row in range(own.shape[-2]))
    raw_gradients.append(own.astype(y.dtype))
    start = rows.stop
  bias_gradient = rho * (w * scale * plain - count * (toward_plain + (rho * mean + offset) * toward_value))
  weight_gradient = jnp.sum(scale * by_value + shift * plain, (0, 2))
  parameters = (jnp.sum(part, 0) for part in (bias_gradient, w * by_value, w * plain))
  return raw_gradients, *parameters, weight_gradient


normalized.defvjp(_normalized, _gradients)


def over_group(values: jax.Array) -> jax.Array:
  """Means over the groups of the last axis, each in place of all its channels: [..., C] -> the same."""
  channels = values.shape[-1]
  groups = (*values.shape[:-1], channels // group_size(channels), group_size(channels))
  means = values.reshape(groups).mean(-1, keepdims=True)
  return jnp.broadcast_to(means, groups).reshape(values.shape)


def over_voxels(values: jax.Array, like: jax.Array) -> jax.Array:
  """[N, ...] -> [N, 1, ..., 1, ...], to be broadcast against `like`, whose voxel axes follow N."""
  return values.reshape(values.shape[0], *(1,) * (like.ndim - values.ndim), *values.shape[1:])


def _voxels(y: jax.Array) -> tuple[int, ...]:
  """The axes between the samples and the rows."""
  return tuple(range(1, y.ndim - 2))


def _statistics(raws, bias, layout) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Mean of y a channel; mean and inverse deviation of (y + bias) in its group: [N, R, C] each, float32."""
  sums = []
  for y, (edges, _) in zip(raws, layout, strict=True):
    voxels, shape = _voxels(y), (y.shape[0], sum(edges), y.shape[-1])
    values = y.astype(jnp.float32)
    sums.append([jnp.broadcast_to(jnp.sum(part, voxels), shape) for part in (values, jnp.square(values))])
  count = math.prod(raws[0].shape[axis] for axis in _voxels(raws[0]))
  mean, mean_square = (jnp.concatenate(parts, axis=1) / count for parts in zip(*sums, strict=True))
  center, square = over_group(jnp.stack([mean + bias, mean_square + 2 * bias * mean + jnp.square(bias)]))
  # Not `jnp.maximum`: its gradient is lost where XLA computes the difference a second time, rounded otherwise.
  return mean, center, jax.lax.rsqrt(jax.nn.relu(square - jnp.square(center)) + EPSILON)


def _floors(edges: tuple[int, ...], relu: tuple[bool, ...]) -> np.ndarray | float:
  """What a row's activation is never below: one number, or [rows, 1]."""
  if all(relu):
    return 0.0
  return np.repeat(np.where(relu, 0, -np.inf).astype(np.float32), edges)[:, None]
