"""Operations that read one state, evaluated together as two wide convolutions.

All of them share their input, so that their kernels stand side by side along the output channels of one dense convolution; the
dilated ones, which see a rearranged input, are the second. A depthwise-separable convolution has nothing between its two steps
and is a dense one; a squeeze-and-excitation gate goes into the kernel. Norm, activation and weight are one pass.

Parameters of an operation are a dict as `ops.parameter_shapes` tells, with an axis of edges: as many instances of the same
operation as are given. Arrays of voxels are [N, D, H, W, ...].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
  gates = {
    name: _gate(x, params) for name, params in operations.items() if kind(name) == "se_conv"
  }
  # For one sample a gate is a factor of the kernel; for more, every sample would need a kernel of its own.
  apart = x.shape[0] > 1
  dense: dict[str, jax.Array] = {}
  for name, params in operations.items():
    weight = weights[name]
    match kind(name):
      case "identity":
        outputs[name] = _identity(x, params, weight)
      case "avg_pool" | "max_pool":
        outputs[name] = _pool(x, name, weight)
      case "dil_conv":
        outputs[name] = _dilated(x, params, direction, weight)
      case "dep_conv":
        dense[name] = params["depthwise"]["kernel"][..., None] * params["pointwise"]["kernel"]
      case "conv":
        dense[name] = params["conv"]["kernel"]
      case "se_conv" if "conv" not in params:
        gate = gates[name] * weight[:, None]
        outputs[name] = x[..., None, :] * norm.over_voxels(gate, x[..., None])
      case "se_conv" if apart:
        y = _gated_apart(x, gates[name], params["conv"]["kernel"], direction)
        outputs[name] = _normalised(y, params["conv"]["bias"], params["norm"], weight, _activated(name, variant))
      case "se_conv":
        dense[name] = gates[name][0].T[..., None] * params["conv"]["kernel"]
  if dense:
    outputs |= _dense(x, dense, operations, direction, variant, weights)
  return outputs


def kind(name: str) -> str:
  """What an operation computes, whatever it does to the resolution."""
  return name.removeprefix("down_").removeprefix("up_")


def _activated(name: str, variant: Variant) -> bool:
  return not (kind(name) == "se_conv" and variant == "released")


def _gate(x: jax.Array, params: Params) -> jax.Array:
  """Squeeze and excitation: [N, D, H, W, C] -> [N, E, C] between 0 and 1, float32."""
  mean = x.astype(jnp.float32).mean((1, 2, 3))
  hidden = jax.nn.relu(mean @ params["squeeze"]["kernel"] + params["squeeze"]["bias"])
  return jax.nn.sigmoid(hidden[..., None] * params["excite"]["kernel"] + params["excite"]["bias"])


def _convolve(x: jax.Array, kernel: jax.Array, direction: Direction) -> jax.Array:
  """A 3x3x3 convolution of any direction; "up" leaves the output in blocks."""
  form = {"normal": rearrange.conv, "down": rearrange.conv_down, "up": rearrange.conv_up}[direction]
  return form(x, kernel)


def _gated_apart(x: jax.Array, gate: jax.Array, kernel: jax.Array, direction: Direction) -> jax.Array:
  """Gates x for each edge and convolves: [N, ..., E, C]."""
  parts = [
    _convolve(x * gate[:, None, None, None, edge], kernel[..., edge, :], direction) for edge in range(kernel.shape[-2])
  ]
  return jnp.stack(parts, axis=-2)


def _dense(x, kernels, operations, direction, variant, weights):
  """All dense operations as one convolution; its output is cut into operations only in the pass that normalises."""
  channels = x.shape[-1]
  flat = [kernel.reshape(*kernel.shape[:4], -1) for kernel in kernels.values()]
  y = _convolve(x, jnp.concatenate(flat, axis=-1), direction)
  y = y.reshape(*y.shape[:-1], -1, channels)
  biases = [_dense_bias(operations[name]) for name in kernels]
  norms = [operations[name]["norm"] for name in kernels]
  voxels = tuple(range(1, y.ndim - 2))
  mean, mean_square = norm.moments(y, voxels)
  a, b = norm.group_affine(
    mean,
    mean_square,
    jnp.concatenate(biases),
    jnp.concatenate([params["scale"] for params in norms]),
    jnp.concatenate([params["bias"] for params in norms]),
  )
  outputs, start = {}, 0
  for name, bias in zip(kernels, biases, strict=True):
    part = slice(start, start := start + bias.shape[0])
    outputs[name] = _affine(y[..., part, :], a[:, part], b[:, part], weights[name], _activated(name, variant))
  return outputs


def _dense_bias(params: Params) -> jax.Array:
  if "conv" in params:
    return params["conv"]["bias"]
  return (
    jnp.einsum("ei,ieo->eo", params["depthwise"]["bias"], params["pointwise"]["kernel"]) + params["pointwise"]["bias"]
  )


def _dilated(x: jax.Array, params: Params, direction: Direction, weight: jax.Array) -> jax.Array:
  kernel, channels = params["conv"]["kernel"], x.shape[-1]
  form = {"normal": rearrange.conv_dilated, "down": rearrange.conv_dilated_down, "up": rearrange.conv_dilated_up}[direction]
  y = form(x, kernel.reshape(*kernel.shape[:4], -1))
  y = y.reshape(*y.shape[:-1], -1, channels)
  if direction != "up":
    return _normalised(y, params["conv"]["bias"], params["norm"], weight, True)
  # Only one voxel of a block is reached; the other seven are zero, and count in the moments.
  voxels = y.shape[1] * y.shape[2] * y.shape[3] * rearrange.PHASES
  a, b = norm.group_affine(
    *norm.moments(y, (1, 2, 3), voxels), params["conv"]["bias"], params["norm"]["scale"], params["norm"]["bias"]
  )
  reached = _affine(y, a, b, weight, True)[..., None, :, :]
  rest = jax.nn.relu(b * weight[:, None])
  shape = (*reached.shape[:4], rearrange.PHASES - 1, *reached.shape[5:])
  return jnp.concatenate([reached, jnp.broadcast_to(norm.over_voxels(rest, reached), shape).astype(x.dtype)], axis=4)


def _identity(x: jax.Array, params: Params, weight: jax.Array) -> jax.Array:
  """Group norm and ReLU; the moments are shared by all edges, scale, shift and weight differ."""
  mean, mean_square = norm.moments(x, (1, 2, 3))
  scale, shift = params["norm"]["scale"], params["norm"]["bias"]
  shape = (x.shape[0], *scale.shape)
  a, b = norm.group_affine(
    jnp.broadcast_to(mean[:, None], shape), jnp.broadcast_to(mean_square[:, None], shape), jnp.zeros(()), scale, shift
  )
  return _affine(x[..., None, :], a, b, weight, True)


def _pool(x: jax.Array, name: str, weight: jax.Array) -> jax.Array:
  blocks = rearrange.space_to_depth(x)
  pooled = blocks.mean(4) if name == "avg_pool" else blocks.max(4)
  return pooled[..., None, :] * weight[:, None].astype(x.dtype)


def _normalised(y: jax.Array, bias: jax.Array, params: Params, weight: jax.Array, activated: bool) -> jax.Array:
  mean, mean_square = norm.moments(y, tuple(range(1, y.ndim - 2)))
  a, b = norm.group_affine(mean, mean_square, bias, params["scale"], params["bias"])
  return _affine(y, a, b, weight, activated)


def _affine(y: jax.Array, a: jax.Array, b: jax.Array, weight: jax.Array, activated: bool) -> jax.Array:
  """weight * relu(y a + b) as relu(y (weight a) + weight b): a positive weight costs nothing, forward or backward."""
  z = y * norm.over_voxels(a * weight[:, None], y) + norm.over_voxels(b * weight[:, None], y)
  return (jax.nn.relu(z) if activated else z).astype(y.dtype)
