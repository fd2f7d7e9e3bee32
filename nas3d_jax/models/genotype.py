"""The genotype: the operations and the wiring that a search finds (section 2.4, Fig. 6)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.files.strict_json import parse_json, read_file
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.hybrid_parameters import hybrid_weights
from nas3d_jax.models.search_space import CELLS, PAPER_SPACE, CellKind, Row, SearchSpace, direction_of

_FORMAT = "nas3d_jax.genotype"
_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Genotype:
  """The operations and the wiring of the downward and the upward cell.

  Each node has two rows, node by node. A row is an edge that is kept: (operation, state that it reads), for example
  ("down_conv", 0); see `search_space.edge_list` for states. Rows keep the order in which they were given. Equality and
  hash ignore the order within a node, which carries no meaning.

  Attributes:
    down: rows of the downward cell.
    up: rows of the upward cell.
    space: what the operations were chosen from.

  Raises:
    InputError: an unknown operation, an edge out of range, an operation that changes the resolution on an edge that
      does not (or the other way round), a state read twice by one node, or a number of rows that is not two a node.
  """

  down: tuple[Row, ...]
  up: tuple[Row, ...]
  space: SearchSpace = PAPER_SPACE

  def __post_init__(self):
    for cell in CELLS:
      object.__setattr__(self, cell, _checked_rows(cell, getattr(self, cell), self.space))
    if len(self.down) != len(self.up):
      raise InputError(
        f"genotype must have as many rows in both cells, got {len(self.down)} in down and {len(self.up)} in up"
      )

  @property
  def nodes(self) -> int:
    """Nodes of a cell."""
    return len(self.down) // 2

  def structure(self) -> tuple[tuple[frozenset[Row], ...], ...]:
    """What makes two genotypes the same: by cell and node, the set of its rows (a "structure" of Table 2)."""
    return tuple(
      tuple(frozenset(rows[2 * node : 2 * node + 2]) for node in range(self.nodes)) for rows in (self.down, self.up)
    )

  def __eq__(self, other: object) -> bool:
    return self.structure() == other.structure() if isinstance(other, Genotype) else NotImplemented

  def __hash__(self) -> int:
    return hash(self.structure())

  def __str__(self) -> str:
    lines = []
    for cell in CELLS:
      lines.append(f"{cell}ward cell")
      rows = getattr(self, cell)
      for node in range(self.nodes):
        inputs = " + ".join(f"{name}({_state_name(state)})" for name, state in rows[2 * node : 2 * node + 2])
        lines.append(f"  node {node} = {inputs}")
    return "\n".join(lines)

  def check(self, config: NetworkConfig) -> None:
    """Raises InputError unless this genotype fits a network of `config`."""
    if self.nodes != config.nodes:
      raise InputError(
        f"genotype has {self.nodes} nodes a cell, but the network has nodes={config.nodes}; set nodes={self.nodes} or "
        "give a genotype that was searched with as many nodes"
      )
    if self.space != config.space:
      raise InputError(
        f"genotype is of the search space {self.space.to_dict()}, but the network has {config.space.to_dict()}; give "
        "the genotype's space"
      )

  def to_json(self) -> str:
    """Readable JSON, each row on a line of its own; `from_json` is the inverse."""
    cells = []
    for cell in CELLS:
      rows = ",\n".join(f"    {json.dumps(list(row))}" for row in getattr(self, cell))
      cells.append(f'  "{cell}": [\n{rows}\n  ]')
    head = f'  "format": "{_FORMAT}",\n  "version": {_VERSION},\n  "nodes": {self.nodes},\n'
    if self.space != PAPER_SPACE:
      head += f'  "space": {json.dumps(self.space.to_dict())},\n'
    return "{\n" + head + ",\n".join(cells) + "\n}\n"

  @classmethod
  def from_json(cls, text: str | bytes) -> Genotype:
    """Reads what `to_json` wrote and checks every field.

    Raises:
      InputError: no JSON, another format or version, a field that is missing, unknown or wrong.
    """
    try:
      fields = parse_json(text)
    except InputError as error:
      raise InputError(f"genotype is not valid JSON ({error}); give a file written by the search") from error
    if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
      raise InputError(f'genotype JSON must be an object with "format": "{_FORMAT}"; give a file written by the search')
    version = fields.get("version")
    if type(version) is not int or version != _VERSION:
      raise InputError(f"genotype has version {version!r}, this library reads version {_VERSION}; install the other's")
    missing = [name for name in ("nodes", *CELLS) if name not in fields]
    if missing:
      raise InputError(f"genotype JSON lacks the fields {missing}")
    surplus = sorted(set(fields) - {"format", "version", "nodes", "space", *CELLS})
    if surplus:
      raise InputError(f"genotype JSON has unknown fields {surplus}; remove them")
    space = SearchSpace.from_dict(fields["space"]) if "space" in fields else PAPER_SPACE
    genotype = cls(down=fields["down"], up=fields["up"], space=space)
    if type(fields["nodes"]) is not int or fields["nodes"] != genotype.nodes:
      raise InputError(f"genotype says nodes={fields['nodes']!r} but has rows for {genotype.nodes} nodes")
    return genotype

  @classmethod
  def from_hybrid(cls, hybrid: Mapping[str, Any], config: NetworkConfig) -> Genotype:
    """Reads the genotype from hybrid parameters (section 2.4; Table 2, line 8).

    A hybrid module keeps the operation with its largest softmax weight. A node keeps the two edges whose largest
    weight, times the number of candidate operations, is largest. Ties go to the lower index.

    Args:
      hybrid: the hybrid partition of a supernet's variables, or all its variables.
      config: the supernet's configuration.

    Raises:
      InputError: an array is missing, misshapen or not finite.
    """
    weights = hybrid_weights(hybrid, config)
    cells = {cell: _strongest_rows(weights[cell], cell, config) for cell in CELLS}
    return cls(**cells, space=config.space)


def _strongest_rows(
  weights: Mapping[tuple[int, int], np.ndarray], cell: CellKind, config: NetworkConfig
) -> tuple[Row, ...]:
  """The two rows that each node keeps, by ascending state."""
  candidates = config.space.candidates
  rows: list[Row] = []
  for node in range(config.nodes):
    # Times the number of candidates, so that a weight out of 6 competes fairly with one out of 5.
    strength = {state: weights[node, state].max() * len(weights[node, state]) for state in range(node + 2)}
    kept = sorted(sorted(strength, key=lambda state: -strength[state])[:2])
    rows += [(candidates[direction_of(cell, state)][int(weights[node, state].argmax())], state) for state in kept]
  return tuple(rows)


def _checked_rows(cell: CellKind, rows: Any, space: SearchSpace) -> tuple[Row, ...]:
  """The rows of a cell as tuples; raises InputError unless they make one."""
  if not isinstance(rows, (list, tuple)) or not rows or len(rows) % 2:
    raise InputError(f"genotype.{cell} must be a list of rows (operation, state), two a node; got {rows!r:.200}")
  checked: list[Row] = []
  for index, row in enumerate(rows):
    where, node = f"genotype.{cell}[{index}]", index // 2
    if not isinstance(row, (list, tuple)) or len(row) != 2 or not isinstance(row[0], str):
      raise InputError(f"{where} must be (operation, state), got {row!r:.200}")
    name, state = row
    try:
      direction = space.direction(name)
    except InputError as error:
      raise InputError(f"{where}: {error}") from None
    if isinstance(state, bool) or not isinstance(state, int) or not 0 <= state < node + 2:
      raise InputError(f"{where}: node {node} reads states 0 to {node + 1}, got {state!r}")
    wanted = direction_of(cell, state)
    if direction != wanted:
      raise InputError(f"{where}: state {state} takes one of {', '.join(space.candidates[wanted])}; got {name!r}")
    if index % 2 and checked[-1][1] == state:
      raise InputError(f"{where}: node {node} reads state {state} twice; its two rows must read different states")
    checked.append((name, state))
  return tuple(checked)


def _state_name(state: int) -> str:
  """State 0 -> "X0", state 2 -> "node 0"."""
  return f"X{state}" if state < 2 else f"node {state - 2}"


def genotype_in(path: Path, remedy: str) -> Genotype:
  """Reads a genotype's file.

  Args:
    path: the file.
    remedy: what helps where it is damaged or missing, in words that end the message.

  Raises:
    InputError: it is not there, cannot be read, or see `Genotype.from_json`; names the file.
  """
  content = read_file(path, remedy)
  try:
    return Genotype.from_json(content)
  except InputError as error:
    raise InputError(f"{path}: {error}; {remedy}") from error
