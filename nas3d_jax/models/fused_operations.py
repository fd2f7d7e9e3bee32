"""Operations that read one state, evaluated together as two wide convolutions.

All of them share their input, so that their kernels stand side by side along the output channels of one dense
convolution; the dilated ones, which see a rearranged input, are the second. A depthwise-separable convolution has
nothing between its two steps and is a dense one; a squeeze-and-excitation gate goes into the kernel. Norm, activation
and weight are one pass.

Parameters of an operation are a dict as `operations.parameter_shapes` tells, with an axis of edges: as many instances
of the same operation as are given. Arrays of voxels are [N, D, H, W, ...].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nas3d_jax.models import convolutions, group_norm
from nas3d_jax.models.config import Variant
from nas3d_jax.models.search_space import Direction

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
    [N, D, H, W, 8, E, C]; `convolutions.depth_to_space` of it, or of a sum, is the output.
  """
  raws, outputs = _raw(x, operations, direction, weights)
  return outputs | _activate(raws, operations, variant, weights)


def mix(
  x: jax.Array,
  operations: Mapping[str, Params],
  direction: Direction,
  variant: Variant,
  weights: Mapping[str, jax.Array],
) -> jax.Array:
  """The sum over all operations of what `evaluate` returns; each of them has the same number of edges."""
  raws, outputs = _raw(x, operations, direction, weights)
  outputs |= _activate(raws, operations, variant, weights, mixed=True)
  return sum(outputs.values())


class _Raw(NamedTuple):
  """What operations yield before bias, norm, activation and weight.

  Attributes:
    names: of the operations.
    y: [N, ..., rows, C], rows being the edges of the first operation, then those of the next; one where all share it.
  """

  names: tuple[str, ...]
  y: jax.Array


def _raw(
  x: jax.Array, operations: Mapping[str, Params], direction: Direction, weights: Mapping[str, jax.Array]
) -> tuple[list[_Raw], dict[str, jax.Array]]:
  """Raw outputs of the operations that have a norm, and what the others return."""
  outputs: dict[str, jax.Array] = {}
  raws: list[_Raw] = []
  dense: dict[str, jax.Array] = {}
  for name, params in operations.items():
    match kind(name):
      case "avg_pool" | "max_pool":
        outputs[name] = _pool(x, name, weights[name])
      case "identity":
        raws.append(_Raw((name,), x[..., None, :]))
      case "dil_conv":
        raws.append(_Raw((name,), _dilated(x, params["conv"]["kernel"], direction)))
      case "dep_conv":
        dense[name] = params["depthwise"]["kernel"][..., None] * params["pointwise"]["kernel"]
      case "conv":
        dense[name] = params["conv"]["kernel"]
      case "se_conv":
        gate = _gate(x, params)
        if "conv" not in params:
          factor = (gate * weights[name][:, None]).astype(x.dtype)
          outputs[name] = x[..., None, :] * group_norm.over_voxels(factor, x[..., None, :])
        elif x.shape[0] > 1:
          # For one sample a gate is a factor of the kernel; for more, every sample would need a kernel of its own.
          raws.append(_Raw((name,), _gated_apart(x, gate, params["conv"]["kernel"], direction)))
        else:
          dense[name] = gate[0].T[..., None] * params["conv"]["kernel"]
  if dense:
    raws.append(_Raw(tuple(dense), _dense(x, list(dense.values()), direction)))
  return raws, outputs


def _activate(
  raws: Sequence[_Raw],
  operations: Mapping[str, Params],
  variant: Variant,
  weights: Mapping[str, jax.Array],
  *,
  mixed: bool = False,
) -> dict[str, jax.Array]:
  """weight * relu(group norm(y + bias)) by operation; or their sum, by no name."""
  if not raws:
    return {}
  names = [name for raw in raws for name in raw.names]
  bias = _rows([_bias(operations[name]) for name in names])
  scale, shift = (_rows([operations[name]["norm"][key] for name in names]) for key in ("scale", "bias"))
  weight = jnp.concatenate([weights[name] for name in names])
  layout = tuple(
    group_norm.Rows(
      tuple(weights[name].shape[0] for name in raw.names),
      tuple(not (variant == "released" and kind(name) == "se_conv") for name in raw.names),
    )
    for raw in raws
  )
  outputs = group_norm.normalized([raw.y for raw in raws], bias, scale, shift, weight, layout, mixed)
  return dict(zip(["" if mixed else name for name in names], outputs, strict=not mixed))


def kind(name: str) -> str:
  """What an operation computes, whatever it does to the resolution."""
  return name.removeprefix("down_").removeprefix("up_")


def rank(name: str) -> int:
  """Place of an operation among those whose rows are read together."""
  order = ("identity", "dil_conv", "se_conv", "dep_conv", "conv")
  return order.index(kind(name)) if kind(name) in order else len(order)


def _rows(parts: Sequence[jax.Array]) -> jax.Array:
  """Rows [E, C] of several operations, one below the other.

  As vectors, because XLA then sees where they stand side by side in one array already, and makes no copy.
  """
  return jnp.concatenate([part.ravel() for part in parts]).reshape(-1, parts[0].shape[-1])


def _gate(x: jax.Array, params: Params) -> jax.Array:
  """Squeeze and excitation: [N, D, H, W, C] -> [N, E, C] between 0 and 1, float32."""
  mean = x.astype(jnp.float32).mean((1, 2, 3))
  hidden = jax.nn.relu(mean @ params["squeeze"]["kernel"] + params["squeeze"]["bias"])
  return jax.nn.sigmoid(hidden[..., None] * params["excite"]["kernel"] + params["excite"]["bias"])


def _convolve(x: jax.Array, kernel: jax.Array, direction: Direction) -> jax.Array:
  """A 3x3x3 convolution of any direction; "up" leaves the output in blocks."""
  form = {"normal": convolutions.conv, "down": convolutions.conv_down, "up": convolutions.conv_up}[direction]
  return form(x, kernel)


def _gated_apart(x: jax.Array, gate: jax.Array, kernel: jax.Array, direction: Direction) -> jax.Array:
  """Gates x for each edge and convolves."""
  gate, edges = gate.astype(x.dtype), range(kernel.shape[-2])
  parts = [_convolve(x * gate[:, None, None, None, edge], kernel[..., edge, :], direction) for edge in edges]
  return jnp.stack(parts, axis=-2)


def _dense(x: jax.Array, kernels: Sequence[jax.Array], direction: Direction) -> jax.Array:
  """All dense operations as one convolution."""
  stacked = jnp.concatenate(kernels, axis=-2)
  y = _convolve(x, stacked.reshape(*stacked.shape[:4], -1), direction)
  return y.reshape(*y.shape[:-1], *stacked.shape[-2:])


def _dilated(x: jax.Array, kernel: jax.Array, direction: Direction) -> jax.Array:
  forms = {
    "normal": convolutions.conv_dilated,
    "down": convolutions.conv_dilated_down,
    "up": convolutions.conv_dilated_up,
  }
  y = forms[direction](x, kernel.reshape(*kernel.shape[:4], -1))
  y = y.reshape(*y.shape[:-1], *kernel.shape[-2:])
  if direction == "up":
    # Doubling reaches one voxel of each block; the other seven hold the bias alone, and count in the norm.
    y = jnp.pad(y[..., None, :, :], ((0, 0),) * 4 + ((0, convolutions.PHASES - 1), (0, 0), (0, 0)))
  return y


def _bias(params: Params) -> jax.Array:
  """What is added before the norm, [E, C]."""
  if "conv" in params:
    return params["conv"]["bias"]
  if "depthwise" not in params:
    return jnp.zeros_like(params["norm"]["bias"])
  # A sum, not a product of matrices: XLA would copy the kernel into another order for it.
  through = jnp.sum(params["depthwise"]["bias"].T[..., None] * params["pointwise"]["kernel"], 0)
  return through + params["pointwise"]["bias"]


def _pool(x: jax.Array, name: str, weight: jax.Array) -> jax.Array:
  blocks = convolutions.space_to_depth(x)
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
