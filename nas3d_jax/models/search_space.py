"""What a search chooses from: candidate operations and the edges of a cell (section 2.2).

An operation of your own needs no change here: see `CustomOperation`. To add one to those of Table 1, which are computed
together, change three files:

1. `search_space.CANDIDATES`: its name under each direction that it has, with "down_" or "up_" in front where it changes
   the resolution. The rest of the name is its `family`.
2. `operations.parameter_shapes`: the arrays of its parameters, if they are not those of a 3x3x3 convolution and its
   norm; `Leaf.edge_axis` says where the axis of edges stands in each. Layer "conv" may have a kernel of any size; a
   layer of a new name also needs a line in `initialization.FAN_IN`.
3. `fused_operations._raw_outputs`: a case for its family.
   (a) Dense 3x3x3 convolutions: `dense_kernels[name]` = the kernel [3, 3, 3, C, E, C], in whatever way it comes from
       the parameters. It becomes a part of the one wide convolution, whatever the direction.
   (b) Others with norm and ReLU, such as a 5x5x5 convolution: a raw output y of their own, as
       `raws.append(_RawOutput((name,), y))`: [N, D', H', W', E, C], for "up" [N, D, H, W, 8, E, C]. `dilated` shows
       how all edges are computed at once. Only the directions in which the operation is a candidate are needed.
   (c) Those without norm, as pools: `finished[name]`, of the shape of y, times the weight [E].
   `bias_of` finds the bias of layers "conv" and "depthwise" with "pointwise"; others need a line there. Arrays of edges
   are broadcast by `spread`. The list in `rank` is for speed alone.

Supernet, hybrid parameters, genotype, derived network, checkpoints and report follow; figures show a family that
`report.cell_figures` does not know in grey. `released_weights` converts the operations of the authors' program only.
Hybrid parameters get a column, so earlier searches cannot be resumed unless their space is stored: see
`PAPER_SPACE`.

Tests: `operation` in tests/support/reference.py needs its plain form, `FAN_IN` in tests/models/test_operations.py its
fan-in where that is a new one; numbers of candidates stand in tests/models/test_genotype.py and
tests/report/test_figures.py, what is read together in tests/models/test_packing.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Self

from nas3d_jax.errors import InputError

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
_TABLE_1: Mapping[str, Direction] = {name: direction for direction, names in CANDIDATES.items() for name in names}


@dataclasses.dataclass(frozen=True)
class CustomOperation:
  """A candidate operation of the user's own; two of one name and direction are equal.

  Attributes:
    name: as it stands in genotypes and checkpoints: letters, digits and "_", and none of Table 1.
    direction: what it does to the resolution.
    module: the number of channels C -> a Linen module, float32 parameters alone, no random numbers. Called with x
      [N, D, H, W, C] it returns [N, D', H', W', C] in the dtype of x: the same lengths, their halves or their doubles.
      None where only the name was read from a file: such an operation can be read and drawn, not computed.
    dense: whether it is a 3x3x3 convolution, as "conv" is. The module is then called without arguments and returns its
      kernel, float32 [3, 3, 3, C, C], inputs before outputs; bias, group norm and ReLU are added, and the supernet
      computes it together with the other convolutions. One that is not dense brings its own.

  Raises:
    InputError: a field is wrong.
  """

  name: str
  direction: Direction
  module: Callable[[int], Any] | None = dataclasses.field(default=None, compare=False)
  dense: bool = dataclasses.field(default=False, compare=False)

  def __post_init__(self):
    taken = {word for name in _TABLE_1 for word in (name, family(name))}
    if not isinstance(self.name, str) or not self.name.isidentifier() or {self.name, family(self.name)} & taken:
      raise InputError(
        f"name of an operation must be an identifier without the names of Table 1 ({', '.join(sorted(taken))}), got "
        f"{self.name!r:.100}"
      )
    if self.direction not in CANDIDATES:
      raise InputError(f"direction of {self.name} must be one of {', '.join(CANDIDATES)}, got {self.direction!r:.100}")


@dataclasses.dataclass(frozen=True)
class SearchSpace:
  """The candidate operations of a search, by what they do to the resolution; columns of hybrid parameters in order.

  Attributes:
    down: names of those that halve the resolution.
    up: names of those that double it.
    normal: names of those that keep it.
    custom: those of the names that are not in Table 1; others are left out.

  Raises:
    InputError: a direction without a candidate, a name that is unknown, of another direction, or there twice.
  """

  down: tuple[str, ...] = CANDIDATES["down"]
  up: tuple[str, ...] = CANDIDATES["up"]
  normal: tuple[str, ...] = CANDIDATES["normal"]
  custom: tuple[CustomOperation, ...] = ()

  def __post_init__(self):
    known = {operation.name: operation.direction for operation in self.custom}
    if len(known) < len(self.custom):
      raise InputError(f"operations must have different names, got {', '.join(o.name for o in self.custom)}")
    for direction in CANDIDATES:
      names = getattr(self, direction)
      if not isinstance(names, (list, tuple)) or not names:
        raise InputError(f"a search space needs candidates of direction {direction!r}, got {names!r:.100}; name one")
      object.__setattr__(self, direction, tuple(names))
      for name in names:
        if (known.get(name) if name in known else _TABLE_1.get(name)) != direction:
          choice = [*CANDIDATES[direction], *(own for own, where in known.items() if where == direction)]
          raise InputError(f"candidates of direction {direction!r} are of {', '.join(choice)}; got {name!r:.100}")
      if len(set(names)) < len(names):
        raise InputError(f"candidates of direction {direction!r} must differ, got {', '.join(names)}")
    used = {*self.down, *self.up, *self.normal}
    object.__setattr__(self, "custom", tuple(operation for operation in self.custom if operation.name in used))

  @property
  def candidates(self) -> Mapping[Direction, tuple[str, ...]]:
    """The names by direction."""
    return {direction: getattr(self, direction) for direction in CANDIDATES}

  def direction(self, operation: str) -> Direction:
    """What a candidate does to the resolution.

    Raises:
      InputError: it is none.
    """
    for direction, names in self.candidates.items():
      if operation in names:
        return direction
    known = ", ".join(name for names in self.candidates.values() for name in names)
    raise InputError(f"operation must be one of {known}; got {operation!r}")

  def custom_operation(self, name: str) -> CustomOperation | None:
    """The operation of the user's own of that name; None for one of Table 1.

    Raises:
      InputError: its module is not known.
    """
    found = next((operation for operation in self.custom if operation.name == name), None)
    if found is not None and found.module is None:
      raise InputError(f"operation {name!r} is not one of Table 1; give its CustomOperation in `operations`")
    return found

  def with_operations(self, operations: Iterable[CustomOperation]) -> Self:
    """The same space with the modules of those of `operations` that it has."""
    given = {operation: operation for operation in operations}
    return dataclasses.replace(self, custom=tuple(given.get(operation, operation) for operation in self.custom))

  def to_dict(self) -> dict[str, list[str]]:
    """Names by direction, for JSON."""
    return {direction: list(names) for direction, names in self.candidates.items()}

  @classmethod
  def from_dict(cls, fields: Any) -> Self:
    """The inverse of `to_dict`; operations that Table 1 does not have are without a module, see `with_operations`.

    Raises:
      InputError: it is none.
    """
    if not isinstance(fields, Mapping) or set(fields) != set(CANDIDATES):
      raise InputError(f"a search space must have the directions {', '.join(CANDIDATES)}, got {fields!r:.200}")
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in fields.values()):
      raise InputError(f"a search space must have a list of names for each direction, got {fields!r:.200}")
    unknown = [CustomOperation(n, direction) for direction, names in fields.items() for n in names if n not in _TABLE_1]
    return cls(**fields, custom=tuple(unknown))

  @classmethod
  def of(cls, words: Iterable[str], operations: Iterable[CustomOperation] = ()) -> Self:
    """The part of Table 1 that words name, and operations of the user's own.

    Args:
      words: each a family, in all directions that it has ("conv", "pool"), or one operation ("down_conv", "max_pool",
        "normal_conv"); none: all.
      operations: stand behind those of Table 1, in order.

    Raises:
      InputError: a word names nothing, or a direction is left without a candidate.
    """
    words, operations = tuple(words), tuple(operations)
    everything = {word for name in _TABLE_1 for word in _words(name)}
    wanted = set(words) or everything
    named = {direction: [n for n in names if _words(n) & wanted] for direction, names in CANDIDATES.items()}
    if wrong := [word for word in words if word not in everything]:
      known = ", ".join(sorted(everything))
      raise InputError(f"operations must be of {known}, got {', '.join(map(repr, wrong))}")
    for operation in operations:
      named[operation.direction].append(operation.name)
    if empty := [direction for direction, names in named.items() if not names]:
      raise InputError(
        f"operations must leave a candidate for each direction, got none of direction {empty[0]!r} in "
        f"{', '.join(words)}; add one of {', '.join(CANDIDATES[empty[0]])}"
      )
    return cls(**{direction: tuple(names) for direction, names in named.items()}, custom=operations)


PAPER_SPACE = SearchSpace()
"""Table 1. It alone is not stored, as before there was another."""


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
  """What an operation of Table 1 does to the resolution.

  Raises:
    InputError: no such operation.
  """
  return PAPER_SPACE.direction(operation)


def family(operation: str) -> str:
  """What an operation computes, whatever its direction: "up_dil_conv" -> "dil_conv", "max_pool" -> "pool"."""
  return "pool" if operation.endswith("_pool") else operation.removeprefix("down_").removeprefix("up_")


def edge_row(cell: CellKind, node: int, state: int) -> int:
  """The row of an edge in the array of its direction (see `hybrid_shapes`)."""
  same = [edge for edge in edge_list(node + 1) if direction_of(cell, edge[1]) == direction_of(cell, state)]
  return same.index((node, state))


def _words(operation: str) -> set[str]:
  """What names an operation of Table 1: "conv" -> conv, normal_conv; "down_conv" -> conv, down_conv."""
  kind = family(operation)
  return {kind, operation if operation != kind else f"normal_{operation}"}
