"""Converts parameters of the authors' released program, in PyTorch's layout, to those of the networks here.

Names of the released program:

- `stem0`, `stem1`, `down_cells.i`, `up_cells.i`, `last_conv.0`, in a supernet with `kernel.` in front
- in a cell `preprocess0` and `preprocess1`
- in a cell of the supernet `_ops.e._ops.o`: candidate operation o of the hybrid module on edge e
- in a cell of a derived network `_ops.k`: row k of its genotype
- `alpha1_*` and `alpha2_*`: hybrid parameters of stride 1 and of stride 2, a row for every edge of a cell
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig, Variant
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.hybrid_parameters import hybrid_shapes
from nas3d_jax.models.operations import parameter_shapes
from nas3d_jax.models.search_space import (
  CANDIDATES,
  CELLS,
  CellKind,
  Direction,
  direction_of,
  edge_list,
  operation_direction,
  reading_nodes,
)

RELEASED: Mapping[Direction, tuple[str, ...]] = {
  "normal": ("identity", "se_conv", "dil_conv", "dep_conv", "conv"),
  "down": ("avg_pool", "max_pool", "down_se_conv", "down_dil_conv", "down_dep_conv", "down_conv"),
  "up": ("up_se_conv", "up_dep_conv", "up_conv", "up_dil_conv"),
}
"""Operations of the released program by direction, in the order of its numbers and of the columns of its alphas."""

# Layer here -> layer of the released program, within one operation.
_NAMES = {
  "conv": "conv",
  "project": "conv",
  "depthwise": "depth_conv",
  "pointwise": "point_conv",
  "squeeze": "fc.0",
  "excite": "fc.2",
  "norm": "norm",
}


@dataclasses.dataclass(frozen=True)
class _Entry:
  """One array of the released program and where it goes.

  Attributes:
    source: its name in the released program.
    shape: its shape there.
    values: brings it into the layout used here.
    target: path in the tree of parameters. Arrays with the same target are stacked along `edge_axis`, in order.
    edge_axis: None where nothing is stacked.
  """

  source: str
  shape: tuple[int, ...]
  values: Callable[[np.ndarray], np.ndarray]
  target: tuple[str, ...]
  edge_axis: int | None = None


def convert_supernet(state_dict: Mapping[str, np.ndarray], config: NetworkConfig) -> dict[str, Any]:
  """Variables of `Supernet(config)` from those of the released program.

  They hold the candidate operations that the released program has. One that was added to `CANDIDATES` lacks its
  parameters and its column of hybrid parameters.

  Args:
    state_dict: names of the released program -> arrays in PyTorch's layout.
    config: size and variant; in variant "released" a squeeze-and-excitation operation of stride 1 has no convolution.

  Returns:
    {"params": nested dict of float32 arrays}.

  Raises:
    InputError: lists every missing, surplus and misshapen entry.
  """
  rows = len(edge_list(config.nodes))
  alphas = {
    f"alpha{1 if direction == 'normal' else 2}_{cell}": (rows, len(RELEASED[direction]))
    for cell in CELLS
    for direction in ("normal", cell)
  }
  params = _collect(state_dict, [*_backbone(config, "kernel."), *_search_cells(config)], alphas)
  params["hybrid"] = {}
  for name in hybrid_shapes(config):
    cell, direction = name.split("_")
    table = np.asarray(state_dict[f"alpha{1 if direction == 'normal' else 2}_{cell}"], np.float32)
    used = [index for index, (_, state) in enumerate(edge_list(config.nodes)) if direction_of(cell, state) == direction]
    theirs = RELEASED[direction]
    columns = [theirs.index(operation) for operation in CANDIDATES[direction] if operation in theirs]
    params["hybrid"][name] = table[used][:, columns]
  return {"params": params}


def convert_derived(state_dict: Mapping[str, np.ndarray], config: NetworkConfig, genotype: Genotype) -> dict[str, Any]:
  """Variables of `DerivedNet(config, genotype)` from those of the released program; `_ops.k` is row k of the genotype.

  Arguments, result and errors are those of `convert_supernet`.
  """
  genotype.check(config)
  return {"params": _collect(state_dict, [*_backbone(config, ""), *_derived_cells(config, genotype)], {})}


def convert_operation(
  state_dict: Mapping[str, np.ndarray], operation: str, channels: int, variant: Variant = "paper"
) -> dict[str, Any]:
  """Parameters of `operations.Operation(operation, channels, variant)` from those of a single operation.

  Args:
    state_dict: names within the operation ("conv.weight") -> arrays in PyTorch's layout.
    operation: its name.
    channels: C.
    variant: which squeeze-and-excitation operation is meant.

  Returns:
    Nested dict of float32 arrays, which stands under "params"; empty for a pool.

  Raises:
    InputError: no such operation, or lists every missing, surplus and misshapen entry.
  """
  return _collect(state_dict, list(_operation("", (), operation, channels, variant, stacked=False)), {})


def _collect(
  state_dict: Mapping[str, np.ndarray], entries: list[_Entry], others: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
  """The tree of parameters, NumPy float32; `others` are names and shapes expected beside the entries."""
  _check(state_dict, {entry.source: entry.shape for entry in entries} | dict(others))
  collected: dict[tuple[str, ...], list[np.ndarray]] = {}
  for entry in entries:
    collected.setdefault(entry.target, []).append(entry.values(np.asarray(state_dict[entry.source], np.float32)))
  axes = {entry.target: entry.edge_axis for entry in entries}
  tree: dict[str, Any] = {}
  for path, values in collected.items():
    group = tree
    for part in path[:-1]:
      group = group.setdefault(part, {})
    group[path[-1]] = values[0] if axes[path] is None else np.stack(values, axis=axes[path])
  return tree


def _check(state_dict: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
  """Raises InputError unless the names and shapes are those expected."""
  faults = [f"missing {name} of shape {shape}" for name, shape in expected.items() if name not in state_dict]
  faults += [f"surplus {name}" for name in state_dict if name not in expected]
  faults += [
    f"{name} has shape {np.shape(state_dict[name])}, not {shape}"
    for name, shape in expected.items()
    if name in state_dict and np.shape(state_dict[name]) != shape
  ]
  if faults:
    raise InputError(
      f"state_dict does not fit the configuration, {len(faults)} faults; check depth, nodes, kernels, variant and "
      "genotype:\n  " + "\n  ".join(faults)
    )


def _released_layout(layer: str, name: str, shape: tuple[int, ...], up: bool) -> tuple[tuple[int, ...], Callable]:
  """The array's shape in the released program and what brings its values into the layout used here.

  Args:
    layer: here.
    name: of the array, here.
    shape: of the array here, in a single operation.
    up: whether the operation doubles the resolution.
  """
  if name != "kernel":
    if layer == "squeeze":
      return (1,), lambda value: value[0]
    return shape, lambda value: value
  match layer:
    case "conv" if up:
      return (*shape[3:], *shape[:3]), lambda value: value.transpose(2, 3, 4, 0, 1)
    case "conv":
      return (shape[4], shape[3], *shape[:3]), lambda value: value.transpose(2, 3, 4, 1, 0)
    case "depthwise":
      return (shape[3], 1, *shape[:3]), lambda value: value[:, 0].transpose(1, 2, 3, 0)
    case "squeeze":
      return (1, *shape), lambda value: value[0]
    case "excite":
      return (*shape, 1), lambda value: value[:, 0]
    case _:
      return (shape[1], shape[0], 1, 1, 1), lambda value: value[:, :, 0, 0, 0].T


def _released_name(name: str) -> str:
  return "bias" if name == "bias" else "weight"


def _layer(prefix: str, target: tuple[str, ...], layer: str, arrays: Mapping[str, tuple[int, ...]]) -> Iterator[_Entry]:
  """Entries of a layer outside the operations."""
  for name, shape in arrays.items():
    released_shape, values = _released_layout(layer, name, shape, up=False)
    yield _Entry(f"{prefix}{_NAMES[layer]}.{_released_name(name)}", released_shape, values, (*target, layer, name))


def _projection(prefix: str, target: tuple[str, ...], c_in: int, c_out: int, size: int = 1) -> Iterator[_Entry]:
  """Entries of a `cells.Projection`."""
  layer, taps = ("conv", (3, 3, 3)) if size == 3 else ("project", ())
  yield from _layer(prefix, target, layer, {"kernel": (*taps, c_in, c_out), "bias": (c_out,)})
  yield from _layer(prefix, target, "norm", {"scale": (c_out,), "bias": (c_out,)})


def _operation(
  prefix: str, target: tuple[str, ...], name: str, channels: int, variant: Variant, *, stacked: bool
) -> Iterator[_Entry]:
  """Entries of one operation, which is an edge of several where `stacked`."""
  up = operation_direction(name) == "up"
  for (layer, array), leaf in parameter_shapes(name, channels, variant).items():
    shape, values = _released_layout(layer, array, leaf.shape, up)
    axis = leaf.edge_axis if stacked else None
    source = f"{prefix}{_NAMES[layer]}.{_released_name(array)}"
    yield _Entry(source, shape, values, (*target, layer, array), axis)


def _cells(config: NetworkConfig) -> Iterator[tuple[CellKind, int, int, int, int]]:
  """Kind, index, channels of a node, of X0 and of X1 of every cell, in the order in which they compute."""
  width = config.nodes * config.kernels
  skips, channels = [width, width], config.kernels
  for level in range(config.depth):
    channels *= 2
    yield "down", level, channels, skips[-2], skips[-1]
    skips.append(config.nodes * channels)
  last = skips.pop()
  for level in range(config.depth + 1):
    yield "up", level, channels, skips.pop(), last
    last = config.nodes * channels
    channels //= 2


def _backbone(config: NetworkConfig, prefix: str) -> Iterator[_Entry]:
  """Entries of all that a supernet and a derived network share: P0, P1, projections of the cells, last convolution."""
  width = config.nodes * config.kernels
  yield from _projection(f"{prefix}stem0.", ("stem0",), config.in_channels, width)
  yield from _projection(f"{prefix}stem1.", ("stem1",), config.in_channels, width, size=3)
  for cell, level, channels, c0, c1 in _cells(config):
    for name, c_in in (("preprocess0", c0), ("preprocess1", c1)):
      yield from _projection(f"{prefix}{cell}_cells.{level}.{name}.", (f"{cell}_{level}", name), c_in, channels)
  head = {"kernel": (width, config.out_channels), "bias": (config.out_channels,)}
  yield from _layer(f"{prefix}last_conv.0.", ("head",), "project", head)


def _search_cells(config: NetworkConfig) -> Iterator[_Entry]:
  """Entries of all operations of the released program on all edges of a supernet."""
  numbers = {edge: number for number, edge in enumerate(edge_list(config.nodes))}
  for cell, level, channels, _, _ in _cells(config):
    for state in range(config.nodes + 1):
      for column, name in enumerate(RELEASED[direction_of(cell, state)]):
        for node in reading_nodes(state, config.nodes):
          prefix = f"kernel.{cell}_cells.{level}._ops.{numbers[node, state]}._ops.{column}."
          target = (f"{cell}_{level}", f"state_{state}", name)
          yield from _operation(prefix, target, name, channels, config.variant, stacked=True)


def _derived_cells(config: NetworkConfig, genotype: Genotype) -> Iterator[_Entry]:
  """Entries of all operations of a derived network."""
  for cell, level, channels, _, _ in _cells(config):
    for row, (name, _) in enumerate(getattr(genotype, cell)):
      prefix, target = f"{cell}_cells.{level}._ops.{row}.", (f"{cell}_{level}", f"op_{row}")
      yield from _operation(prefix, target, name, channels, config.variant, stacked=False)
