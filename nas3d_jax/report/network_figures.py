"""The backbone with its true sizes (Fig. 3), and hybrid modules with their weights (Fig. 4)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.search_space import CELLS, SearchSpace, direction_of
from nas3d_jax.report.cell_figures import colour_of
from nas3d_jax.report.gallery import BLUE, GREEN, GREY, INK, ORANGE, RED, bare, new_figure, size_text
from nas3d_jax.validation import PatchSize, axis_lengths, patch_size_of

_DIRECTIONS = ("down", "normal", "up")
_WHAT = {"down": "halves the resolution", "normal": "keeps the resolution", "up": "doubles the resolution"}


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of the U-shape.

  Attributes:
    name: as the paper calls it.
    channels: of its output.
    size: voxels of its output; one length, or one an axis.
    level: halvings of the input.
  """

  name: str
  channels: int
  size: PatchSize
  level: int

  def __str__(self) -> str:
    numbers = self.channels * math.prod(axis_lengths(self.size))
    return f"{self.name}\n{self.channels} x {size_text(self.size)} = {numbers:,}"


def backbone(config: NetworkConfig, patch: PatchSize) -> tuple[list[Stage], list[Stage]]:
  """The stages on the way down and on the way up, in order of use (section 2.1).

  Args:
    config: size of the network.
    patch: length of its input in voxels, one or one an axis, multiples of `config.multiple`.

  Raises:
    InputError: the patch does not fit.
  """
  config.check_patch_size(patch)
  width = config.nodes * config.kernels

  def halved(times: int) -> PatchSize:
    return patch_size_of([length // 2**times for length in axis_lengths(patch)])

  down = [Stage("P0: 1x1x1 convolution", width, patch, 0), Stage("P1: 3x3x3, stride 2", width, halved(1), 1)]
  for level in range(config.depth):
    step = level + 2
    down.append(Stage(f"downward cell {level + 1}", width * 2 ** (level + 1), halved(step), step))
  up = []
  for level in range(config.depth + 1):
    step = config.depth - level
    up.append(Stage(f"upward cell {level + 1}", width * 2**step, halved(step), step))
  return down, up


def backbone_figure(config: NetworkConfig, patch: PatchSize) -> Figure:
  """The U-shape with channels and voxels of every stage (Fig. 3)."""
  down, up = backbone(config, patch)
  rows = config.depth + 2
  figure = new_figure(0.78 * (rows + 1.1))
  axes = figure.subplots()
  places = {}
  for side, stages in ((0.0, down), (5.2, up)):
    for stage in stages:
      places[stage.name] = (side, -stage.level)
      _stage(axes, side, -stage.level, str(stage), (ORANGE if side == 0 else GREEN) if "cell" in stage.name else BLUE)
  _stage(axes, 0, 1, f"input\n{config.in_channels} x {size_text(patch)}", GREY)
  _stage(axes, 5.2, 1, f"dropout, 1x1x1, {config.output}\n{config.out_channels} regions x {size_text(patch)}", GREY)
  centre = 1.2
  for stages in (down, up):
    for first, second in itertools.pairwise(stages):
      _arrow(axes, *_between(places[first.name], places[second.name], centre))
  _arrow(axes, (centre, 0.72), (centre, 0.28))
  _arrow(axes, (5.2 + centre, 0.28), (5.2 + centre, 0.72))
  bottom, turn = -config.depth - 1, 5.2 + centre
  axes.plot((2 * centre, turn), (bottom, bottom), color=INK, linewidth=1.2, zorder=1)
  _arrow(axes, (turn, bottom), (turn, bottom + 0.72))
  for stage in down[:-1]:
    _arrow(axes, (2 * centre, -stage.level), (5.2, -stage.level), style="--", colour=GREY)
  for stage in down[:-2]:
    # A downward cell takes the output of the stage before the last too.
    ends = (-0.02, -stage.level - 0.1), (-0.02, -stage.level - 1.9)
    _arrow(axes, *ends, curve=0.38, style=":", colour=RED)
  axes.text(3.8, 0.06, "skip (X0 of the upward cell)", ha="center", va="bottom", fontsize=7.5, color=GREY)
  axes.text(-0.62, -1.0, "X0 of the\ndownward\ncell", ha="right", va="center", fontsize=7.5, color=RED)
  axes.set(xlim=(-1.5, 7.7), ylim=(-rows + 0.6, 1.35))
  bare(axes)
  return figure


def hybrid_modules_figure(record: Mapping[str, Any], space: SearchSpace) -> Figure:
  """One hybrid module of each direction with its softmax weights after an epoch (Fig. 4).

  Args:
    record: of an epoch of the search, with "epoch" and "hybrid_weights".
    space: what was searched.
  """
  candidates = space.candidates
  modules = []
  for direction in _DIRECTIONS:
    every = [(cell, module) for cell in CELLS for module in record["hybrid_weights"][cell]]
    found = [(direction, *pair) for pair in every if direction_of(pair[0], pair[1]["state"]) == direction]
    modules += found[:1]
  figure = new_figure(0.9 + 0.28 * sum(len(candidates[direction]) + 1 for direction, _, _ in modules))
  heights = [len(candidates[direction]) + 1 for direction, _, _ in modules]
  for axes, (direction, cell, module) in zip(
    figure.subplots(len(modules), 1, height_ratios=heights, squeeze=False)[:, 0], modules, strict=True
  ):
    state = f"X{module['state']}" if module["state"] < 2 else f"node {module['state'] - 2}"
    axes.set_title(f"{cell}ward cell, {state} to node {module['node']}: {_WHAT[direction]}", loc="left", fontsize=9.5)
    _module(axes, state, f"node {module['node']}", candidates[direction], module["weights"])
  figure.suptitle(f"softmax weights at the start of epoch {record['epoch']}", fontsize=9, color=GREY)
  return figure


def _module(axes: Axes, source: str, target: str, names: Sequence[str], weights: Sequence[float]) -> None:
  middle = -(len(names) - 1) / 2
  for row, (name, weight) in enumerate(zip(names, weights, strict=True)):
    colour = colour_of(name)
    best = weight == max(weights)
    width = 0.4 + 9 * weight
    for x0, y0, x1, y1 in ((1.1, middle, 2.6, -row), (4.9, -row, 7.4, middle)):
      axes.plot((x0, x1), (y0, y1), color=colour, linewidth=width, alpha=0.75, zorder=1, solid_capstyle="butt")
    look = dict(facecolor="white", edgecolor=colour, linewidth=2.4 if best else 1.2)
    shape = FancyBboxPatch((2.6, -row - 0.36), 2.3, 0.72, "round,pad=0.02", **look)
    axes.add_patch(shape)
    weight_of = "bold" if best else "normal"
    axes.text(2.72, -row, name, ha="left", va="center", fontsize=8, weight=weight_of, color=INK)
    axes.text(4.78, -row, f"{weight:.3f}", ha="right", va="center", fontsize=8, weight=weight_of, color=INK)
  for x, text in ((0.0, source), (7.4, f"+ {target}")):
    shape = FancyBboxPatch((x, middle - 0.4), 1.1, 0.8, "round,pad=0.02", facecolor="white", edgecolor=INK, zorder=3)
    axes.add_patch(shape)
    axes.text(x + 0.55, middle, text, ha="center", va="center", fontsize=8.5, color=INK, zorder=4)
  axes.set(xlim=(-0.1, 8.6), ylim=(-len(names) + 0.4, 0.6))
  bare(axes)


def _stage(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
  look = dict(facecolor="white", edgecolor=colour, linewidth=1.6, zorder=3)
  shape = FancyBboxPatch((x, y - 0.26), 2.4, 0.52, "round,pad=0.02", **look)
  axes.add_patch(shape)
  axes.text(x + 1.2, y, text, ha="center", va="center", fontsize=8, color=INK, zorder=4)


def _between(first: tuple[float, float], second: tuple[float, float], centre: float):
  """From the edge of one stage to the edge of the next."""
  step = -0.28 if second[1] < first[1] else 0.28
  return (first[0] + centre, first[1] + step), (second[0] + centre, second[1] - step)


def _arrow(axes: Axes, start, end, *, curve: float = 0.0, style: str = "-", colour: str = INK) -> None:
  axes.add_patch(
    FancyArrowPatch(
      start, end, connectionstyle=f"arc3,rad={curve}", arrowstyle="-|>", mutation_scale=10, linestyle=style,
      color=colour, linewidth=1.2, shrinkA=0, shrinkB=0, zorder=1,
    )
  )
