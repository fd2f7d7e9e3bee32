"""All edges on one state, each with one candidate operation of its own that is chosen while computing.

What `fused_operations` does for a mixture, this does for a path (see `single_path`): the dense operations of an edge
are one kernel each of one convolution, so that choosing among them is choosing a kernel. For C channels, E edges:

    kernel of each edge's operation, 0 where it has none    [3, 3, 3, C, E, C]
    one convolution                                         [N, D, H, W, E, C]
    identity and dilated operation where they are chosen    [N, D, H, W, E, C]
    one bias, norm, ReLU and weight an edge                 [N, D, H, W, E, C]
    pools and bare gates where they are chosen              [N, D, H, W, E, C]

That is a row an edge, where the mixture has one for each candidate on each edge. The dilated convolution is only
computed where an edge has chosen it. One program serves all choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nas3d_jax.models import fused_operations, group_norm
from nas3d_jax.models.config import Variant
from nas3d_jax.models.ranks import spread
from nas3d_jax.models.search_space import Direction, family
from nas3d_jax.models.single_path import Path

Params = Mapping[str, Any]


def evaluate(
  x: jax.Array,
  operations: Mapping[str, Params],
  direction: Direction,
  variant: Variant,
  columns: Mapping[str, int],
  path: Path,
) -> jax.Array:
  """Applies to each edge its operation, times its weight.

  Args:
    x: the state, [N, D, H, W, C], floating point.
    operations: parameters of each operation by its name, each array with an axis of E edges.
    direction: what all these operations do to the resolution.
    variant: which squeeze-and-excitation operation is meant.
    columns: the number by which a path names each operation.
    path: of E edges; one whose operation is not among these gets 0.

  Returns:
    [N, D', H', W', E, C] in the dtype of x; for direction "up" in blocks, [N, D, H, W, 8, E, C].
  """
  chosen = {name: path.choice == columns[name] for name in operations}
  normed = {name: params for name, params in operations.items() if "norm" in params}
  y = None
  if normed:
    raw = _raw(x, normed, direction, chosen)
    bias = _selected({name: fused_operations.bias_of(params) for name, params in normed.items()}, chosen)
    scale, shift = (_selected({n: p["norm"][key] for n, p in normed.items()}, chosen) for key in ("scale", "bias"))
    bare = [name for name in normed if variant == "released" and family(name) == "se_conv"]
    layout = (group_norm.Rows((path.choice.shape[0],), (not bare,)),)
    # Nothing of an edge whose operation has no norm.
    weight = jnp.where(jnp.stack([chosen[name] for name in normed]).any(0), path.weight, 0)
    (y,) = group_norm.normalized([raw], bias, scale, shift, weight, layout, True)
    if bare:
      # Without ReLU; the others have it here, because it depends on the choice.
      y = jnp.where(_mask(bare, chosen, y), y, jax.nn.relu(y))
  for name, params in operations.items():
    if name in normed:
      continue
    other = _pool(x, name) if family(name) == "pool" else _gated(x, params)
    weighted = other * spread(path.weight[:, None].astype(x.dtype), other)
    y = jnp.where(_mask([name], chosen, weighted), weighted, 0 if y is None else y)
  return y


def _raw(
  x: jax.Array, operations: Mapping[str, Params], direction: Direction, chosen: Mapping[str, jax.Array]
) -> jax.Array:
  """What each edge's operation gives before bias and norm, [N, ..., E, C]; 0 where it has no norm."""
  dense, dilated, gates, raw = {}, None, None, None
  for name, params in operations.items():
    match family(name):
      case "identity":
        continue
      case "dil_conv":
        dilated = name
      case "dep_conv":
        depthwise = params["depthwise"]["kernel"][..., None]
        dense[name] = depthwise * spread(params["pointwise"]["kernel"], depthwise)
      case "se_conv":
        gates = jnp.where(spread(chosen[name][:, None], gate := fused_operations.gate_of(x, params)), gate, 1)
        dense[name] = params["conv"]["kernel"]
      case _:
        dense[name] = params["conv"]["kernel"]
  edges = next(iter(chosen.values())).shape[0]
  if dense:
    kernel = _selected(dense, chosen)
    if gates is None:
      raw = fused_operations.dense(x, [kernel], direction)
    elif x.shape[0] == 1:
      raw = fused_operations.dense(x, [spread(gates[0].T[..., None], kernel) * kernel], direction)
    else:
      raw = fused_operations.gated_apart(x, gates, kernel, direction)
  if dilated is not None:
    kernel = _selected({dilated: operations[dilated]["conv"]["kernel"]}, chosen)
    shape = jax.eval_shape(lambda: fused_operations.dilated(x, kernel, direction))
    raw = jnp.zeros(shape.shape, shape.dtype) if raw is None else raw
    raw = jax.lax.cond(
      chosen[dilated].any(),
      lambda raw: raw + fused_operations.dilated(x, kernel, direction),
      lambda raw: raw,
      raw,
    )
  if "identity" in operations:
    same = x[..., None, :]
    raw = jnp.where(spread(chosen["identity"][:, None], same), same, 0 if raw is None else raw)
  return jnp.broadcast_to(raw, (*raw.shape[:-2], edges, raw.shape[-1]))


def _selected(arrays: Mapping[str, jax.Array], chosen: Mapping[str, jax.Array]) -> jax.Array:
  """Of each edge the array of its operation, [..., E, C]; 0 where it is none of these."""
  total = 0
  for name, array in arrays.items():
    total = jnp.where(spread(chosen[name][:, None], array), array, total)
  return total


def _mask(names: Any, chosen: Mapping[str, jax.Array], like: jax.Array) -> jax.Array:
  """Whether each edge's operation is one of these, for arrays [..., E, C]."""
  return spread(jnp.stack([chosen[name] for name in names]).any(0)[:, None], like)


def _pool(x: jax.Array, name: str) -> jax.Array:
  """[N, 2 D, 2 H, 2 W, C] -> [N, D, H, W, 1, C]."""
  return fused_operations.pool(x, name, jnp.ones(1, jnp.float32))


def _gated(x: jax.Array, params: Params) -> jax.Array:
  """The gate without convolution of variant "released": [N, D, H, W, C] -> [N, D, H, W, E, C]."""
  gate = fused_operations.gate_of(x, params).astype(x.dtype)
  return x[..., None, :] * group_norm.over_voxels(gate, x[..., None, :])
