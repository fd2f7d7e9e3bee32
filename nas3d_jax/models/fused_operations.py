"""All candidate operations on one state as two wide convolutions (Table 1; the mixture is the equation of section 2.2).

A hybrid module is an edge: it reads a state and mixes all candidate operations of its direction. The E hybrid modules
that read one state share their input x, so that their convolutions are one. For C channels, and K operations with a
dense 3x3x3 convolution ("conv", "se_conv", "dep_conv"; the direction is normal):

    x                                                [N, D, H, W, C]
    kernels of one operation, all edges              [3, 3, 3, C, E, C]
    all kernels, side by side in the outputs         [3, 3, 3, C, K E, C] = [3, 3, 3, C, K E C]
    one convolution                                  [N, D, H, W, K E C] = [N, D, H, W, K E, C]
    bias, group norm, ReLU and weight of each row    [N, D, H, W, K E, C]
    sum over these and the other operations          [N, D, H, W, E, C]

A row is one operation on one edge, so there are K E rows. Example: X0 of a downward cell is read by E = 3 nodes and has
K = 3 such operations; with C = 24, one convolution of 24 -> 3 * 3 * 24 = 216 channels replaces 9 of 24 -> 24.

How each operation is computed, exactly:

- dep_conv: nothing stands between its two steps, so its kernel is depthwise[..., i, e] * pointwise[i, e, o].
- se_conv: the gate multiplies the channels of x, which is the same as multiplying the kernel's input channels. This
  holds for one sample; a batch is gated for each edge and convolved apart.
- conv: as it is.
- dil_conv: dense on a rearranged input, hence the second wide convolution, of E C outputs.
- identity: x is its raw output, a single row that all edges share; only norm, ReLU and weight differ between edges.
- Pools have neither norm nor ReLU: they are computed once and multiplied by each edge's weight. So is the gate without
  convolution of variant "released".

`_raw_outputs` does this; `group_norm.normalized` then does bias, norm, ReLU, weight and sum in one pass. How to add a
candidate operation stands in `search_space`.

Parameters of an operation are nested dicts, by layer and name, with the shapes of `operations.parameter_shapes` and an
axis of E edges. For direction "up", 8 output voxels stand in place of each input voxel: [N, D, H, W, 8, ...].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nas3d_jax.errors import InputError
from nas3d_jax.models import convolutions, group_norm
from nas3d_jax.models.config import Variant
from nas3d_jax.models.ranks import spread
from nas3d_jax.models.search_space import Direction, family

Params = Mapping[str, Any]


def evaluate(
  x: jax.Array,
  operations: Mapping[str, Params],
  direction: Direction,
  variant: Variant,
  weights: Mapping[str, jax.Array],
  *,
  summed: bool,
) -> tuple[jax.Array, ...]:
  """Applies operations of one direction to one state, each times its weight.

  Args:
    x: the state, [N, D, H, W, C], floating point.
    operations: parameters of each operation by its name, each array with an axis of E edges. E may differ between
      operations unless `summed`.
    direction: what all these operations do to the resolution.
    variant: which squeeze-and-excitation operation is meant.
    weights: float32 [E] of each operation, positive: the softmax of the hybrid parameters, or ones.
    summed: whether to add the operations up, as a hybrid module does.

  Returns:
    The result of each operation in the order of `operations`, or their sum alone: [N, D', H', W', E, C] in the dtype of
    x. For direction "up" the voxels are still in blocks, [N, D, H, W, 8, E, C]; `convolutions.depth_to_space` of it, or
    of any sum of such arrays, is [N, 2 D, 2 H, 2 W, E, C].

  Raises:
    InputError: an operation that is not computed here.
  """
  raws, finished = _raw_outputs(x, operations, direction, weights)
  normalized = _normalize(raws, operations, variant, weights, summed=summed)
  if summed:
    return (sum([*finished.values(), *normalized]),)
  outputs = finished | dict(zip([name for raw in raws for name in raw.names], normalized, strict=True))
  return tuple(outputs[name] for name in operations)


class _RawOutput(NamedTuple):
  """What some operations give before bias, norm, ReLU and weight.

  Attributes:
    names: of the operations.
    y: [N, ..., rows, C], the edges of the first operation, then those of the next. A single row is shared by all edges.
  """

  names: tuple[str, ...]
  y: jax.Array


def _raw_outputs(
  x: jax.Array, operations: Mapping[str, Params], direction: Direction, weights: Mapping[str, jax.Array]
) -> tuple[list[_RawOutput], dict[str, jax.Array]]:
  """Raw outputs of the operations that have a norm; the weighted results of the others by name."""
  finished: dict[str, jax.Array] = {}
  raws: list[_RawOutput] = []
  dense_kernels: dict[str, jax.Array] = {}
  for name, params in operations.items():
    match family(name):
      case "pool" if name in ("avg_pool", "max_pool"):
        finished[name] = pool(x, name, weights[name])
      case "identity":
        raws.append(_RawOutput((name,), x[..., None, :]))
      case "dil_conv":
        raws.append(_RawOutput((name,), dilated(x, params["conv"]["kernel"], direction)))
      case "dep_conv":
        depthwise = params["depthwise"]["kernel"][..., None]
        dense_kernels[name] = depthwise * spread(params["pointwise"]["kernel"], depthwise)
      case "conv":
        dense_kernels[name] = params["conv"]["kernel"]
      case "se_conv":
        gate = gate_of(x, params)
        if "conv" not in params:
          factor = (gate * weights[name][None, :, None]).astype(x.dtype)
          finished[name] = x[..., None, :] * group_norm.over_voxels(factor, x[..., None, :])
        elif x.shape[0] != 1:  # true of a symbol, too
          # For one sample a gate is a factor of the kernel; for more, every sample would need a kernel of its own.
          raws.append(_RawOutput((name,), gated_apart(x, gate, params["conv"]["kernel"], direction)))
        else:
          kernel = params["conv"]["kernel"]
          dense_kernels[name] = spread(gate[0].T[..., None], kernel) * kernel
      case _ if params.keys() == {"conv", "norm"}:  # a dense one of the user's own
        dense_kernels[name] = params["conv"]["kernel"]
      case _:
        raise InputError(f"operations must be candidates that this function computes, got {name!r}; add a case for it")
  if dense_kernels:
    raws.append(_RawOutput(tuple(dense_kernels), dense(x, list(dense_kernels.values()), direction)))
  return raws, finished


def _normalize(
  raws: Sequence[_RawOutput],
  operations: Mapping[str, Params],
  variant: Variant,
  weights: Mapping[str, jax.Array],
  *,
  summed: bool,
) -> tuple[jax.Array, ...]:
  """weight * relu(group norm(y + bias)) of each operation in the order of `raws`, or their sum; () without any."""
  if not raws:
    return ()
  names = [name for raw in raws for name in raw.names]
  bias = _stack_rows([bias_of(operations[name]) for name in names])
  scale, shift = (_stack_rows([operations[name]["norm"][key] for name in names]) for key in ("scale", "bias"))
  weight = jnp.concatenate([weights[name] for name in names])
  layout = tuple(
    group_norm.Rows(
      tuple(weights[name].shape[0] for name in raw.names),
      tuple(not (variant == "released" and family(name) == "se_conv") for name in raw.names),
    )
    for raw in raws
  )
  return group_norm.normalized([raw.y for raw in raws], bias, scale, shift, weight, layout, summed)


def rank(name: str) -> int:
  """Sort key of an operation among those whose rows `evaluate` reads together; `packing` stores them in this order.

  An operation that is not listed comes last. Then its rows are copied in each step, and no result changes.
  """
  order = ("identity", "dil_conv", "se_conv", "dep_conv", "conv")
  return order.index(family(name)) if family(name) in order else len(order)


def _stack_rows(parts: Sequence[jax.Array]) -> jax.Array:
  """[E, C] of each operation -> [rows, C], one below the other.

  They are joined as vectors: XLA then sees where they stand side by side in one array already, and makes no copy.
  """
  return jnp.concatenate([part.ravel() for part in parts]).reshape(-1, parts[0].shape[-1])


def gate_of(x: jax.Array, params: Params) -> jax.Array:
  """Squeeze and excitation: [N, D, H, W, C] -> [N, E, C] between 0 and 1, float32."""
  mean = x.astype(jnp.float32).mean((1, 2, 3))
  hidden = jax.nn.relu(mean @ params["squeeze"]["kernel"] + params["squeeze"]["bias"][None])
  return jax.nn.sigmoid(hidden[..., None] * params["excite"]["kernel"][None] + params["excite"]["bias"][None])


def _convolve(x: jax.Array, kernel: jax.Array, direction: Direction) -> jax.Array:
  """A dense 3x3x3 convolution, [N, D, H, W, C] -> [N, D', H', W', C'] or, up, [N, D, H, W, 8, C']."""
  form = {"normal": convolutions.conv, "down": convolutions.conv_down, "up": convolutions.conv_up}[direction]
  return form(x, kernel)


def gated_apart(x: jax.Array, gate: jax.Array, kernel: jax.Array, direction: Direction) -> jax.Array:
  """Gates x for each edge and convolves: gate [N, E, C], kernel [3, 3, 3, C, E, C] -> [N, ..., E, C]."""
  gate, edges = gate.astype(x.dtype), range(kernel.shape[-2])
  parts = [_convolve(x * gate[:, None, None, None, edge], kernel[..., edge, :], direction) for edge in edges]
  return jnp.stack(parts, axis=-2)


def dense(x: jax.Array, kernels: Sequence[jax.Array], direction: Direction) -> jax.Array:
  """All dense operations as one convolution: kernels [3, 3, 3, C, E_k, C] each -> [N, ..., sum of E_k, C]."""
  stacked = jnp.concatenate(kernels, axis=-2)
  y = _convolve(x, stacked.reshape(*stacked.shape[:4], -1), direction)
  return y.reshape(*y.shape[:-1], *stacked.shape[-2:])


def dilated(x: jax.Array, kernel: jax.Array, direction: Direction) -> jax.Array:
  """The dilated operation on all edges: kernel [3, 3, 3, C, E, C] -> [N, ..., E, C]."""
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


def bias_of(params: Params) -> jax.Array:
  """What an operation adds to its raw output before the norm, [E, C]."""
  if "conv" in params:
    return params["conv"]["bias"]
  if params.keys() == {"norm"}:
    return jnp.zeros_like(params["norm"]["bias"])
  if not {"depthwise", "pointwise"} <= params.keys():
    raise InputError(f"no bias is known of an operation with layers {', '.join(sorted(params))}; add it to `bias_of`")
  # A sum, not a product of matrices: XLA would copy the kernel into another order for it.
  through = jnp.sum(params["depthwise"]["bias"].T[..., None] * params["pointwise"]["kernel"], 0)
  return through + params["pointwise"]["bias"]


def pool(x: jax.Array, name: str, weight: jax.Array) -> jax.Array:
  """A pool of 2x2x2 voxels, [N, 2 D, 2 H, 2 W, C], times each edge's weight [E] -> [N, D, H, W, E, C]."""
  blocks = convolutions.space_to_depth(x)
  pooled = blocks.mean(4) if name == "avg_pool" else _largest(blocks)
  pooled = pooled[..., None, :]
  return pooled * spread(weight[:, None].astype(x.dtype), pooled)


def _largest(blocks: jax.Array) -> jax.Array:
  """Maximum over the 8 voxels of a block: [N, D, H, W, 8, C] -> [N, D, H, W, C].

  Its gradient goes to the first of equal voxels, as PyTorch's does.
  The gradient of `jnp.max` divides by the number of voxels that equal the maximum. Where XLA computes the voxels a
  second time in the backward pass, rounded otherwise, that number is 0 and the gradient NaN.
  """
  for _ in range(3):
    first, second = jnp.moveaxis(blocks.reshape(*blocks.shape[:4], -1, 2, blocks.shape[-1]), -2, 0)
    blocks = jnp.where(first >= second, first, second)
  return blocks[..., 0, :]
