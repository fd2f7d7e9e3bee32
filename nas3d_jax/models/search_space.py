"""What a search chooses from: candidate operations, the edges of a cell, the hybrid parameters (section 2.2).

To add a candidate operation, change three files:

1. `search_space.CANDIDATES`: its name under each direction that it has, with "down_" or "up_" in front where it changes
   the resolution. The rest of the name is its `family`.
2. `operations.parameter_shapes`: the arrays of its parameters, if they are not those of a 3x3x3 convolution and its
   norm; `Leaf.edge_axis` says where the axis of edges stands in each. Layer "conv" may have a kernel of any size; a
   layer of a new name also needs a line in `initialization.FAN_IN`.
3. `fused_operations._raw_outputs`: a case for its family.
   (a) Dense 3x3x3 convolutions: `dense_kernels[name]` = the kernel [3, 3, 3, C, E, C], in whatever way it comes from
       the parameters. It becomes a part of the one wide convolution, whatever the direction.
   (b) Others with norm and ReLU, such as a 5x5x5 convolution: a raw output y of their own, as
       `raws.append(_RawOutput((name,), y))`: [N, D', H', W', E, C], for "up" [N, D, H, W, 8, E, C]. `_dilated` shows
       how all edges are computed at once. Only the directions in which the operation is a candidate are needed.
   (c) Those without norm, as pools: `finished[name]`, of the shape of y, times the weight [E].
   `_bias` finds the bias of layers "conv" and "depthwise" with "pointwise"; others need a line there. Arrays of edges
   are broadcast by `spread`. The list in `rank` is for speed alone.

Supernet, hybrid parameters, genotype, derived network, checkpoints and report follow; figures show a family that
`report.cell_figures` does not know in grey. `released_weights` converts the operations of the authors' program only.
Hybrid parameters get a column, so earlier searches cannot be resumed.

Tests: `operation` in tests/support/reference.py needs its plain form, `FAN_IN` in tests/models/test_operations.py its
fan-in where that is a new one; numbers of candidates stand in tests/models/test_genotype.py and
tests/report/test_figures.py, what is read together in tests/models/test_packing.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig

CellKind = Literal["down", "up"]
Direction = Literal["normal", "down", "up"]
Row = tuple[str, int]

CELLS: tuple[CellKind, ...] = ("down", "up")

# Table 1: the candidate operations of a hybrid module, by what it does to the resolution. Their order is that of the
# columns of the hybrid parameters.
CANDIDATES: Mapping[Direction, tuple[str, ...]] = {
  "normal": ("identity", "se_conv", "dil_conv", "dep_conv", "conv"),
  "down": ("avg_pool", "max_pool", "down_se_conv", "down_dil_conv", "down_dep_conv", "down_conv"),
  "up": ("up_se_conv", "up_dep_conv", "up_conv", "up_dil_conv"),
}


def edge_list(nodes: int) -> tuple[tuple[int, int], ...]:
  """The edges of a search cell, (node, state), node by node and state by state; each holds a hybrid module.

  States 0 and 1 are the inputs X0 and X1, state k + 2 is node k; node k reads every state before it. Three nodes have 2
  + 3 + 4 = 9 edges.
  """
  return tuple((node, state) for node in range(nodes) for state in range(node + 2))


def reading_nodes(state: int, nodes: int) -> tuple[int, ...]:
  """The nodes that read `state`, ascending: with 3 nodes (0, 1, 2) for X0 and X1, (1, 2) for state 2."""
  return tuple(range(max(0, state - 1), nodes))


def direction_of(cell: CellKind, state: int) -> Direction:
  """What hybrid modules on `state` do to the resolution (Fig. 5): downward they halve X0, X1; upward they double X1."""
  if cell == "down":
    return "down" if state <= 1 else "normal"
  return "up" if state == 1 else "normal"


def operation_direction(operation: str) -> Direction:
  """What a candidate operation does to the resolution.

  Raises:
    InputError: no such operation.
  """
  for direction, names in CANDIDATES.items():
    if operation in names:
      return direction
  known = ", ".join(name for names in CANDIDATES.values() for name in names)
  raise InputError(f"operation must be one of {known}; got {operation!r}")


def family(operation: str) -> str:
  """What an operation computes, whatever its direction: "up_dil_conv" -> "dil_conv", "max_pool" -> "pool"."""
  return "pool" if operation.endswith("_pool") else operation.removeprefix("down_").removeprefix("up_")


def hybrid_shapes(config: NetworkConfig) -> dict[str, tuple[int, int]]:
  """Name and shape [edges, candidates] of each array of hybrid parameters (alpha in section 2.2).

  `<cell>_<direction>` has a row for each edge of that direction, in the order of `edge_list`, and a column for each
  candidate operation. Three nodes: down_normal (3, 5), down_down (6, 6), up_normal (6, 5), up_up (3, 4).
  """
  shapes = {}
  for cell in CELLS:
    for direction, names in CANDIDATES.items():
      count = sum(direction_of(cell, state) == direction for _, state in edge_list(config.nodes))
      if count:
        shapes[f"{cell}_{direction}"] = (count, len(names))
  return shapes


def edge_row(cell: CellKind, node: int, state: int) -> int:
  """The row of an edge in the array of its direction (see `hybrid_shapes`)."""
  same = [edge for edge in edge_list(node + 1) if direction_of(cell, edge[1]) == direction_of(cell, state)]
  return same.index((node, state))


def hybrid_weights(hybrid: Mapping[str, Any], config: NetworkConfig) -> dict[str, dict[tuple[int, int], np.ndarray]]:
  """Softmax weights of every hybrid module (equation in section 2.2).

  Args:
    hybrid: the arrays of `hybrid_shapes` by name, or variables of a supernet that hold them.
    config: the supernet's configuration.

  Returns:
    By cell and (node, state), float64 [candidates].

  Raises:
    InputError: an array is missing, misshapen or not finite.
  """
  arrays = hybrid.get("params", hybrid)
  arrays = arrays.get("hybrid", arrays)
  values = {}
  for name, shape in hybrid_shapes(config).items():
    value = np.asarray(arrays[name], np.float64) if name in arrays else None
    if value is None or value.shape != shape:
      got = "nothing" if value is None else f"shape {value.shape}"
      raise InputError(f"hybrid parameters must hold {name!r} of shape {shape} for nodes={config.nodes}, got {got}")
    if not np.isfinite(value).all():
      raise InputError(f"hybrid parameters {name!r} are not finite; the search has diverged, lower its learning rate")
    exponentials = np.exp(value - value.max(axis=-1, keepdims=True))
    values[name] = exponentials / exponentials.sum(axis=-1, keepdims=True)
  return {
    cell: {
      (node, state): values[f"{cell}_{direction_of(cell, state)}"][edge_row(cell, node, state)]
      for node, state in edge_list(config.nodes)
    }
    for cell in CELLS
  }
