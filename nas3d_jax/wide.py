"""Operations that read one state, evaluated together as two wide convolutions.

All of them share their input, so that their kernels stand side by side along the output channels of one dense
convolution; the dilated ones, which see a rearranged input, are the second. A depthwise-separable convolution has
nothing between its two steps and is a dense one; a squeeze-and-excitation gate goes into the kernel. Norm, activation
and weight are one pass.

Parameters of an operation are a dict as `ops.parameter_shapes` tells, with an axis of edges: as many instances of the
same operation as are given. Arrays of voxels are [N, D, H, W, ...].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nas3d_jax import norm, rearrange
from nas3d_jax.config import Variant
from nas3d_jax.genotype import Direction

Params = Mapping[str, Any]


def evaluate(
  x: jax.Array,
  operations: Mapping[str, Params],
  direction: Direction,
  variant: Variant,
  weights: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
  """Applies operations of one direction to one state.

  Args:
    x: the state, [N, D, H, W, C].
    operations: parameters of each operation by its name, each leaf with an axis of E edges.
    direction: what all these operations do to the resolution.
    variant: which squeeze-and-excitation operation is meant.
    weights: [E] of each operation, positive; its result is multiplied with it.

  Returns:
    By name of the operation, [N, D', H', W', E, C]. Where the direction is "up" the output is still in blocks, as
    [N, D, H, W, 8, E, C]; `rearrange.depth_to_space` of it, or of a sum, is the output.
  """
  outputs: dict[str, jax.Array] = {}
  raws: list[_Raw] = []
  dense: dict[str, jax.Array] = {}
  for name, params in operations.items():
    match kind(name):
      case "avg_pool" | "max_pool":
        outputs[name] = _pool(x, name, weights[name])
      case "identity":
        raws.append(_Raw((name,), (params["norm"]["scale"].shape[0],), x[..., None, :]))
      case "dil_conv":
        raws.append(_dilated(x, name, params, direction))
      case "dep_conv":
        dense[name] = params["depthwise"]["kernel"][..., None] * params["pointwise"]["kernel"]
      case "conv":
        dense[name] = params["conv"]["kernel"]
      case "se_conv":
        gate = _gate(x, params)
        if "conv" not in params:
          outputs[name] = x[..., None, :] * norm.over_voxels(gate * weights[name][:, None], x[..., None, :])
        elif x.shape[0] > 1:
          # For one sample a gate is a factor of the kernel; for more, every sample would need a kernel of its own.
          raws.append(_gated_apart(x, name, gate, params["conv"]["kernel"], direction))
        else:
          dense[name] = gate[0].T[..., None] * params["conv"]["kernel"]
  if dense:
    raws.append(_dense(x, dense, direction))
  return outputs | _activate(raws, operations, variant, weights)


class _Raw(NamedTuple):
  """What operations yield before bias, norm, activation and weight.

  Attributes:
    names: of the operations.
    edges: of each operation.
    y: [N, ..., sum of edges, C]; or of length 1 where all edges share it.
    phases: voxels of the output for each of y; the others are zero before the bias.
  """

  names: tuple[str, ...]
  edges: tuple[int, ...]
  y: jax.Array
  phases: int = 1


def _activate(
  raws: list[_Raw], operations: Mapping[str, Params], variant: Variant, weights: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """weight * relu(group_norm(y + bias)) of every operation, by name.

  It is relu(y a + b) for one a and b a channel, which are found for all operations at once; a positive weight is part
  of them.
  """
  if not raws:
    return {}
  names = [name for raw in raws for name in raw.names]
  statistics = []
  for raw in raws:
    voxels = tuple(range(1, raw.y.ndim - 2))
    shape = (raw.y.shape[0], sum(raw.edges), raw.y.shape[-1])
    statistics.append([jnp.broadcast_to(m, shape) for m in norm.moments(raw.y, voxels, raw.phases)])
  mean, mean_square = (jnp.concatenate(parts, axis=1) for parts in zip(*statistics, strict=True))
  rows = {key: jnp.concatenate([operations[name]["norm"][key] for name in names]) for key in ("scale", "bias")}
  bias = jnp.concatenate([_bias(operations[name]) for name in names])
  a, b = norm.group_affine(mean, mean_square, bias, rows["scale"], rows["bias"])
  weight = jnp.concatenate([weights[name] for name in names])[:, None]
  edges = [count for raw in raws for count in raw.edges]
  affine = iter(zip(_split(a * weight, edges, 1), _split(b * weight, edges, 1), strict=True))
  outputs = {}
  for raw in raws:
    parts = _split(raw.y, raw.edges, raw.y.ndim - 2) if len(raw.names) > 1 else [raw.y]
    for name, y in zip(raw.names, parts, strict=True):
      own_a, own_b = next(affine)
      relu = not (kind(name) == "se_conv" and variant == "released")
      z = y * norm.over_voxels(own_a, y) + norm.over_voxels(own_b, y)
      z = jax.nn.relu(z) if relu else z
      if raw.phases > 1:
        rest = norm.over_voxels(jax.nn.relu(own_b) if relu else own_b, z)
        shape = (*z.shape[:4], raw.phases - 1, *z.shape[4:])
        z = jnp.concatenate([z[..., None, :, :], jnp.broadcast_to(rest[..., None, :, :], shape)], axis=4)
      outputs[name] = z.astype(y.dtype)
  return outputs


def kind(name: str) -> str:
  """What an operation computes, whatever it does to the resolution."""
  return name.removeprefix("down_").removeprefix("up_")


def _split(array: jax.Array, edges: Sequence[int], axis: int) -> list[jax.Array]:
  """Cuts an axis into operations; the gradient is one concatenation."""
  return jnp.split(array, [sum(edges[: index + 1]) for index in range(len(edges) - 1)], axis=axis)


def _gate(x: jax.Array, params: Params) -> jax.Array:
  """Squeeze and excitation: [N, D, H, W, C] -> [N, E, C] between 0 and 1, float32."""
  mean = x.astype(jnp.float32).mean((1, 2, 3))
  hidden = jax.nn.relu(mean @ params["squeeze"]["kernel"] + params["squeeze"]["bias"])
  return jax.nn.sigmoid(hidden[..., None] * params["excite"]["kernel"] + params["excite"]["bias"])


def _convolve(x: jax.Array, kernel: jax.Array, direction: Direction) -> jax.Array:
  """A 3x3x3 convolution of any direction; "up" leaves the output in blocks."""
  form = {"normal": rearrange.conv, "down": rearrange.conv_down, "up": rearrange.conv_up}[direction]
  return form(x, kernel)


def _gated_apart(x: jax.Array, name: str, gate: jax.Array, kernel: jax.Array, direction: Direction) -> _Raw:
  """Gates x for each edge and convolves."""
  edges = range(kernel.shape[-2])
  parts = [_convolve(x * gate[:, None, None, None, edge], kernel[..., edge, :], direction) for edge in edges]
  return _Raw((name,), (len(edges),), jnp.stack(parts, axis=-2))


def _dense(x: jax.Array, kernels: Mapping[str, jax.Array], direction: Direction) -> _Raw:
  """All dense operations as one convolution."""
  stacked = jnp.concatenate(list(kernels.values()), axis=-2)
  y = _convolve(x, stacked.reshape(*stacked.shape[:4], -1), direction)
  edges = tuple(kernel.shape[-2] for kernel in kernels.values())
  return _Raw(tuple(kernels), edges, y.reshape(*y.shape[:-1], *stacked.shape[-2:]))


def _dilated(x: jax.Array, name: str, params: Params, direction: Direction) -> _Raw:
  forms = {
    "normal": rearrange.conv_dilated,
    "down": rearrange.conv_dilated_down,
    "up": rearrange.conv_dilated_up,
  }
  kernel = params["conv"]["kernel"]
  y = forms[direction](x, kernel.reshape(*kernel.shape[:4], -1))
  # Doubling reaches one voxel of each block; the other seven hold the bias alone, and count in the norm.
  phases = rearrange.PHASES if direction == "up" else 1
  return _Raw((name,), kernel.shape[-2:-1], y.reshape(*y.shape[:-1], *kernel.shape[-2:]), phases)


def _bias(params: Params) -> jax.Array:
  """What is added before the norm, [E, C]."""
  if "conv" in params:
    return params["conv"]["bias"]
  if "depthwise" not in params:
    return jnp.zeros_like(params["norm"]["bias"])
  through = jnp.einsum("ei,ieo->eo", params["depthwise"]["bias"], params["pointwise"]["kernel"])
  return through + params["pointwise"]["bias"]


def _pool(x: jax.Array, name: str, weight: jax.Array) -> jax.Array:
  blocks = rearrange.space_to_depth(x)
  pooled = blocks.mean(4) if name == "avg_pool" else _largest(blocks)
  return pooled[..., None, :] * weight[:, None].astype(x.dtype)


def _largest(blocks: jax.Array) -> jax.Array:
  """Maximum over the phases; the gradient goes to the first of equals, as PyTorch's.

  The gradient of `jnp.max` divides by the number of voxels that equal the maximum. Where XLA computes the voxels a
  second time in the backward pass, rounded otherwise, that number is 0 and the gradient NaN.
  """
  for _ in range(3):
    first, second = jnp.moveaxis(blocks.reshape(*blocks.shape[:4], -1, 2, blocks.shape[-1]), -2, 0)
    blocks = jnp.where(first >= second, first, second)
  return blocks[..., 0, :]
