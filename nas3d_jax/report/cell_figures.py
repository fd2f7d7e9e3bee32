"""Cells as graphs that can be read: the search cells (Fig. 5) and the searched cells (Fig. 6).

Laid out as a circuit: every state has a lane of its own that runs to the right, an operation hangs below the lane that
it reads, and a bus collects the operations that a node sums. Lines cross at right angles only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.search_space import CellKind, SearchSpace, direction_of, edge_list, family
from nas3d_jax.report.gallery import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY, WIDTH, bare, new_figure

Edge = tuple[int, int, str, str]  # node, state it reads, text of the box, its colour

FAMILIES: Mapping[str, str] = {
  "pool": RED, "identity": PURPLE, "se_conv": GREEN, "dil_conv": SKY, "dep_conv": ORANGE, "conv": BLUE
}
"""Family of operations -> its colour."""

_STEPS: Mapping[str, str] = {"normal": "same size", "down": "halves", "up": "doubles"}
_DIRECTION_COLOURS: Mapping[str, str] = {"normal": BLUE, "down": ORANGE, "up": GREEN}
_COLUMN, _ROW, _BOX, _BOX_HEIGHT, _DROP = 2.75, 1.0, 1.72, 0.42, 0.42


def searched_cells_figure(genotype: Genotype) -> Figure:
  """The two cells of a genotype (Fig. 6)."""
  cells = {"downward cell": ("down", genotype.down), "upward cell": ("up", genotype.up)}
  figure, places = _stack(genotype.nodes, list(cells))
  for axes, (kind, rows) in zip(places, cells.values(), strict=True):
    edges = [(index // 2, state, name, colour_of(name)) for index, (name, state) in enumerate(rows)]
    draw_cell(axes, kind, genotype.nodes, edges)
  return figure


def families_of(*spaces: SearchSpace) -> list[str]:
  """`FAMILIES`, and those of operations of the user's own in some spaces."""
  return list(dict.fromkeys([*FAMILIES, *(family(operation.name) for space in spaces for operation in space.custom)]))


def colour_of(operation: str) -> str:
  """That of its family; one that has none of its own is grey."""
  return FAMILIES.get(family(operation), GREY)


def search_cells_figure(nodes: int, space: SearchSpace) -> Figure:
  """The two cells of the supernet, a hybrid module on every edge (Fig. 5)."""
  cells: dict[str, CellKind] = {"downward search cell": "down", "upward search cell": "up"}
  figure, places = _stack(nodes, list(cells))
  for axes, kind in zip(places, cells.values(), strict=True):
    edges = []
    for node, state in edge_list(nodes):
      direction = direction_of(kind, state)
      text = f"mix of {len(space.candidates[direction])}, {_STEPS[direction]}"
      edges.append((node, state, text, _DIRECTION_COLOURS[direction]))
    draw_cell(axes, kind, nodes, edges)
  return figure


def draw_cell(axes: Axes, kind: CellKind, nodes: int, edges: Sequence[Edge]) -> None:
  """Draws one cell, with an operation for each edge, sorted by node."""
  lanes = {state: -state * _ROW for state in range(nodes + 2)}
  columns = {node: 2.0 + node * _COLUMN for node in range(nodes)}
  end = columns[nodes - 1] + _COLUMN + 0.15
  names = {"down": ("X0: stage\nbefore last", "X1:\nlast stage"), "up": ("X0:\nskip", "X1:\nlast stage")}[kind]
  for state, y in lanes.items():
    start = 0.6 if state < 2 else columns[state - 2] + _BOX + 0.35
    readers = [columns[node] + 0.2 for node, read, _, _ in edges if read == state]
    # Nodes run on to the concatenation, inputs as far as they are read.
    stop = end if state > 1 else max(readers, default=start)
    axes.plot((start, stop), (y, y), color=INK, linewidth=1.3, zorder=1, solid_capstyle="round")
    text = names[state] if state < 2 else f"node {state - 2}"
    _box(axes, start, y, text, INK, width=1.15 if state < 2 else 0.8, centred=True)
  for node, state, text, colour in edges:
    x, y = columns[node], lanes[state]
    axes.plot((x + 0.2, x + 0.2), (y, y - _DROP + _BOX_HEIGHT / 2), color=INK, linewidth=1.3, zorder=1)
    axes.plot((x + 0.2,), (y,), "o", color=INK, markersize=4, zorder=3)
    _box(axes, x, y - _DROP, text, colour, width=_BOX)
    axes.plot((x + _BOX, x + _BOX + 0.35), (y - _DROP,) * 2, color=colour, linewidth=2, zorder=2)
  for node, x in columns.items():
    tops = [lanes[state] - _DROP for reader, state, _, _ in edges if reader == node]
    axes.plot((x + _BOX + 0.35,) * 2, (max(tops), lanes[node + 2]), color=INK, linewidth=2, zorder=1)
    axes.text(x + _BOX + 0.42, lanes[node + 2] + 0.3, "+", fontsize=12, color=INK, va="center")
  top, bottom = lanes[2] + 0.35, lanes[nodes + 1] - 0.35
  axes.add_patch(FancyBboxPatch((end, bottom), 0.28, top - bottom, "round,pad=0.02", facecolor=INK, edgecolor=INK))
  middle = dict(ha="center", va="center", fontsize=7.5)
  axes.text(end + 0.14, (top + bottom) / 2, "concatenate", rotation=90, color="white", **middle)
  axes.set(xlim=(-0.2, end + 0.4), ylim=(bottom - 0.15, 0.45), aspect="equal")
  bare(axes)


def _box(axes: Axes, x: float, y: float, text: str, colour: str, *, width: float, centred: bool = False) -> None:
  left = x - width / 2 if centred else x
  height = _BOX_HEIGHT + 0.1 * ("\n" in text)
  shape = FancyBboxPatch(
    (left, y - height / 2), width, height, "round,pad=0.02,rounding_size=0.08",
    facecolor="white", edgecolor=colour, linewidth=1.8, zorder=4,
  )
  axes.add_patch(shape)
  axes.text(left + width / 2, y, text, ha="center", va="center", fontsize=7.5, color=INK, zorder=5, linespacing=1.0)


def _stack(nodes: int, titles: Sequence[str]) -> tuple[Figure, Sequence[Axes]]:
  """Axes one above the other, high enough for cells of so many nodes at one scale."""
  width, height = 2.0 + nodes * _COLUMN + 0.75, (nodes + 1) * _ROW + 1.0
  inches = min(WIDTH / width, 1.0)
  figure = new_figure(len(titles) * (height * inches + 0.35))
  places = figure.subplots(len(titles), 1, squeeze=False)[:, 0]
  for axes, title in zip(places, titles, strict=True):
    axes.set_title(title, loc="left")
  return figure, places
