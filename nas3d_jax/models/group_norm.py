"""Group norm, ReLU and weighted sum as one operation with a gradient of its own (Table 1: what follows a convolution).

It works on rows: a row is one operation on one edge, with C channels of its own (see `fused_operations`). The bias of
the convolution never touches the array of voxels: it moves the mean of its channel, which is accounted for
analytically. So bias, norm, ReLU, weight and sum are one pass over the voxels, after one pass for the moments.

The gradient is written out below, with its derivation. The derived one keeps several arrays of voxels and passes over
each; this one takes two passes: one for the sums that all parameters need, one for the gradient of the input. It is
itself differentiable in reverse mode.
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

EPSILON = 1e-5  # PyTorch's; Flax's default is 1e-6
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
  summed: bool,
) -> tuple[jax.Array, ...]:
  """weight * activation(group norm(y + bias)) of each operation, or the sum over the operations.

  Each row of each sample is normalised on its own, in groups of `group_size` channels, with statistics in float32.

  Args:
    raws: raw outputs y, each [N, ..., rows, C] floating point, with the voxels between N and the rows; their number is
      the same in all.
    bias: added before the norm, float32 [R, C] for the R rows of all raws in their order.
    scale: of the norm, float32 [R, C].
    shift: of the norm, float32 [R, C].
    weight: float32 [R], positive: weight * relu(t) is computed as relu(weight * t).
    layout: how the rows of each raw array are read.
    summed: whether to add the operations up; all have the same number of edges then.

  Returns:
    Of each operation, or of their sum, [N, ..., edges, C] in the dtype of the first raw.
  """
  return _forward(raws, bias, scale, shift, weight, layout, summed)[0]


def group_norm(y: jax.Array, before: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
  """Group norm alone.

  Args:
    y: [N, D, H, W, C].
    before: added to y before the norm, float32 [C]: the bias of the convolution.
    scale: of the norm, float32 [C].
    bias: of the norm, float32 [C].

  Returns:
    The shape and dtype of y.
  """
  one_row = (jnp.asarray(array)[None] for array in (before, scale, bias))
  (z,) = normalized([jnp.asarray(y)[..., None, :]], *one_row, jnp.ones(1, jnp.float32), (Rows((1,), (False,)),), True)
  return materialize(z[..., 0, :])


# The forward pass and its gradient
#
# For one sample n and one row r; v runs over the V voxels, c over the C channels. |t| is the mean of t over the
# channels of a group, in place of each of them (`over_group`). All statistics are float32 [N, R, C]; y, its gradient
# and the outputs are [N, voxels, rows, C]; bias, scale and shift are [R, C], weight w is [R].
#
#   u = y + bias                             never computed for the voxels
#   mean = 1/V sum_v y                       of y in each channel
#   center = |mean + bias|                   mean of u in its group
#   square = |1/V sum_v u^2|                 of u in its group; 1/V sum_v u^2 = 1/V sum_v y^2 + 2 bias mean + bias^2
#   rho = (square - center^2 + eps)^(-1/2)   inverse deviation: square - center^2 is the variance of the group
#   h = rho (u - center) = rho y + offset    the normalised value; offset = rho (bias - center)
#   z = w (scale h + shift) = a y + b        a = w scale rho, b = w shift + (bias - center) a
#   output = relu(z) or z                    w > 0, so that w relu(t) = relu(w t)
#
# Gradients of the loss, dt with respect to t, from that with respect to the output:
#
#   g = dz: doutput where z > 0, else 0; without ReLU doutput itself
#
# 1. All that the parameters need of g are sums over the voxels, [N, R, C] each:
#      sum_g = sum_v g,   sum_gy = sum_v g y,   sum_gh = sum_v g h = rho sum_gy + offset sum_g
# 2. z = w (scale h + shift), hence
#      dshift = sum_n w sum_g,   dscale = sum_n w sum_gh,   dweight = sum_(n, c) (scale sum_gh + shift sum_g)
#      dh = w scale g
# 3. h = rho (u - center) depends on u itself, by center and by rho. A group has m values u, V in each channel; the
#    slope of center by one of them is 1 / m, that of rho is -rho^2 h / m. Summed over all h of the group,
#      du = rho (dh - mean_dh - h mean_dh_h)
#      mean_dh = |w scale sum_g| / V,   mean_dh_h = |w scale sum_gh| / V
#    these being the means of dh and of dh h over the voxels and channels of the group.
# 4. dy = du. With h = rho y + offset this is one multiply-add a voxel:
#      dy = a g + constant + slope y,   constant = -rho (mean_dh + offset mean_dh_h),   slope = -rho^2 mean_dh_h
#    A raw row that edges share gets the sum over them.
# 5. bias is added to all voxels of its channel, and sum_v h = V (rho mean + offset):
#      dbias = sum_n sum_v du = sum_n rho (w scale sum_g - V (mean_dh + (rho mean + offset) mean_dh_h))


def _forward(raws, bias, scale, shift, weight, layout, summed):
  mean, center, rho = _statistics(raws, bias, layout)
  a = (weight[:, None] * scale)[None] * rho
  # All small arrays that loops over voxels read are materialized: XLA would compute them anew in every such loop.
  a, b = materialize(jnp.stack([a, (weight[:, None] * shift)[None] + (bias[None] - center) * a]))
  outputs, first_row = [], 0
  for y, (edges, relu) in zip(raws, layout, strict=True):
    row_of_raw = 0
    for edge_count, has_relu in zip(edges, relu, strict=True):
      rows = slice(first_row, first_row + edge_count)
      y_of_operation = y if len(edges) == 1 else y[..., row_of_raw : row_of_raw + edge_count, :]
      z = y_of_operation.astype(jnp.float32) * over_voxels(a[:, rows], y) + over_voxels(b[:, rows], y)
      outputs.append(jnp.maximum(z, 0) if has_relu else z)
      first_row, row_of_raw = first_row + edge_count, row_of_raw + edge_count
  outputs = [sum(outputs)] if summed else outputs
  saved = (tuple(raws), bias, scale, shift, weight, mean, center, rho, a, b)
  return tuple(z.astype(raws[0].dtype) for z in outputs), saved


def _backward(layout, summed, saved, output_gradients):
  raws, *of_rows, mean, center, rho, a, b = saved
  # [1, R, C] or, the weight, [1, R, 1]: beside arrays [N, R, C].
  bias, scale, shift, w = (jnp.expand_dims(part, (0, *range(2, 4 - part.ndim))) for part in of_rows)
  z_gradients, sums, first_row, first_operation = [], [], 0, 0  # g of each raw array; its sum_v g and sum_v g y
  for y, (edges, relu) in zip(raws, layout, strict=True):
    rows = slice(first_row, first_row + sum(edges))
    operations = slice(first_operation, first_operation + len(edges))
    of_operations = [output_gradients[0]] * len(edges) if summed else output_gradients[operations]
    g = (of_operations[0] if len(edges) == 1 else jnp.concatenate(of_operations, axis=-2)).astype(jnp.float32)
    values = y.astype(jnp.float32)
    z = values * over_voxels(a[:, rows], y) + over_voxels(b[:, rows], y)
    g = jnp.where(z > _floors(edges, relu, z.ndim), g, 0) if any(relu) else g
    voxel_axes = _voxel_axes(y)
    sums.append((jnp.sum(g, voxel_axes), jnp.sum(g * values, voxel_axes)))
    z_gradients.append(g)
    first_row, first_operation = rows.stop, operations.stop
  sum_g, sum_gy = (jnp.concatenate(parts, axis=1) for parts in zip(*sums, strict=True))
  voxels = _voxel_count(raws)
  offset = rho * (bias - center)
  sum_gh = rho * sum_gy + offset * sum_g
  mean_dh, mean_dh_h = over_group(jnp.stack([w * scale * sum_g, w * scale * sum_gh]) / voxels)
  constant, slope = materialize(jnp.stack([-rho * (mean_dh + offset * mean_dh_h), -rho * rho * mean_dh_h]))
  raw_gradients, first_row = [], 0
  for y, (edges, _), g in zip(raws, layout, z_gradients, strict=True):
    rows = slice(first_row, first_row + sum(edges))
    a_rows, constant_rows, slope_rows = (over_voxels(part[:, rows], y) for part in (a, constant, slope))
    y_gradient = a_rows * g + (constant_rows + slope_rows * y.astype(jnp.float32))
    if y.shape[-2] != y_gradient.shape[-2]:  # edges share the one row
      y_gradient = sum(y_gradient[..., row : row + 1, :] for row in range(y_gradient.shape[-2]))
    raw_gradients.append(y_gradient.astype(y.dtype))
    first_row = rows.stop
  bias_gradient = rho * (w * scale * sum_g - voxels * (mean_dh + (rho * mean + offset) * mean_dh_h))
  weight_gradient = jnp.sum(scale * sum_gh + shift * sum_g, (0, 2))
  row_gradients = (jnp.sum(gradient, 0) for gradient in (bias_gradient, w * sum_gh, w * sum_g))
  return raw_gradients, *row_gradients, weight_gradient


normalized.defvjp(_forward, _backward)


def over_group(values: jax.Array) -> jax.Array:
  """Means over the groups of channels, each in place of all its channels: [..., C] -> [..., C]."""
  channels = values.shape[-1]
  groups = (*values.shape[:-1], channels // group_size(channels), group_size(channels))
  means = values.reshape(groups).mean(-1, keepdims=True)
  return jnp.broadcast_to(means, groups).reshape(values.shape)


def over_voxels(values: jax.Array, like: jax.Array) -> jax.Array:
  """[N, ...] -> [N, 1, ..., 1, ...], to be broadcast against `like`, whose voxel axes follow N."""
  return values.reshape(values.shape[0], *(1,) * (like.ndim - values.ndim), *values.shape[1:])


def _voxel_axes(y: jax.Array) -> tuple[int, ...]:
  """The axes between the samples and the rows."""
  return tuple(range(1, y.ndim - 2))


def _voxel_count(raws: Sequence[jax.Array]) -> int:
  """Voxels of one sample, V."""
  return math.prod(raws[0].shape[axis] for axis in _voxel_axes(raws[0]))


def _statistics(raws, bias, layout) -> tuple[jax.Array, jax.Array, jax.Array]:
  """mean, center and rho of the derivation above, float32 [N, R, C] each."""
  sums = []
  for y, (edges, _) in zip(raws, layout, strict=True):
    shape = y.shape[0], sum(edges), y.shape[-1]
    values = y.astype(jnp.float32)
    sums.append([jnp.broadcast_to(jnp.sum(v, _voxel_axes(y)), shape) for v in (values, jnp.square(values))])
  mean, mean_square = (jnp.concatenate(parts, axis=1) / _voxel_count(raws) for parts in zip(*sums, strict=True))
  bias = bias[None]
  center, square = over_group(jnp.stack([mean + bias, mean_square + 2 * bias * mean + jnp.square(bias)]))
  # Not `jnp.maximum`: its gradient is lost where XLA computes the difference a second time, rounded otherwise.
  return mean, center, jax.lax.rsqrt(jax.nn.relu(square - jnp.square(center)) + EPSILON)


def _floors(edges: tuple[int, ...], relu: tuple[bool, ...], rank: int) -> np.ndarray | float:
  """Where z of that rank is above this, the gradient passes: 0 for ReLU, -inf without; a number or [..., rows, 1]."""
  if all(relu):
    return 0.0
  floors = np.repeat(np.where(relu, 0, -np.inf).astype(np.float32), edges)
  return floors.reshape(*(1,) * (rank - 2), -1, 1)
