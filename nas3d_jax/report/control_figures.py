"""Drawings of the control: the scores of all trainings, and score against cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from nas3d_jax.files.run_layout import COST
from nas3d_jax.report.control_contents import RANDOM, ControlRun, dice_of
from nas3d_jax.report.gallery import GREY, NETWORK_COLOURS, new_figure
from nas3d_jax.report.run_contents import NETWORKS

_NAMES = {**NETWORKS, RANDOM: "random genotypes", "searched": "searched genotypes"}
_SCORE = "mean Dice over cases and regions"


def name_of(group: str) -> str:
  """A group as the reader knows it."""
  return f"searched, cost_weight={group.removeprefix(COST)}" if group.startswith(COST) else _NAMES[group]


def groups_of(runs: Sequence[ControlRun]) -> dict[str, list[ControlRun]]:
  """The runs by group: searched, by weight of the cost, random, the others."""
  cheaper = sorted((g for g in {run.group for run in runs} if g.startswith(COST)), key=lambda g: float(g[len(COST) :]))
  first = ["searched", *cheaper, RANDOM]
  order = [*first, *sorted({run.group for run in runs} - set(first))]
  found = {group: [run for run in runs if run.group == group] for group in order}
  return {group: members for group, members in found.items() if members}


def control_figure(runs: Sequence[ControlRun]) -> Figure:
  """The mean Dice of every training, a row a group."""
  groups = groups_of(runs)
  figure = new_figure(0.9 + 0.5 * len(groups))
  axes = figure.subplots()
  for place, (group, found) in enumerate(groups.items()):
    means, colour = dice_of(found).mean(1), colour_of(group)
    axes.plot(means, np.full(len(means), -place), "o", color=colour, alpha=0.8)
    axes.plot([means.mean()] * 2, [-place - 0.25, -place + 0.25], color=colour, linewidth=2)
  axes.set_yticks([-place for place in range(len(groups))], [name_of(group) for group in groups])
  axes.set(xlabel=_SCORE, ylim=(-len(groups) + 0.5, 0.5))
  return figure


def cost_figure(runs: Sequence[ControlRun], flops: Mapping[tuple[str, int], float]) -> Figure:
  """Mean Dice of every network over its trainings, against what a forward pass of it costs.

  Args:
    runs: of the control.
    flops: of a forward pass, by group and number; networks without are left out.
  """
  figure = new_figure(3.2)
  axes = figure.subplots()
  marks = marks_of(groups_of(runs))
  for group, found in groups_of(runs).items():
    numbers = sorted({run.number for run in found if (group, run.number) in flops})
    if not numbers:
      continue
    scores = [dice_of([run for run in found if run.number == number]).mean() for number in numbers]
    costs = [flops[group, number] / 1e9 for number in numbers]
    axes.plot(costs, scores, marks[group], color=colour_of(group), alpha=0.8, label=name_of(group))
  axes.set(xlabel="GFLOP a forward pass", ylabel=_SCORE)
  axes.legend()
  return figure


def marks_of(groups: Iterable[str]) -> dict[str, str]:
  """A mark for each group; the weights of the cost, which share a colour, have their own."""
  own = itertools.cycle("s^Dv<>Pp*hX")
  return {group: next(own) if group.startswith(COST) else "o" for group in groups}


def colour_of(group: str) -> str:
  """Of the marks of a group."""
  return NETWORK_COLOURS.get("searched" if group.startswith(COST) else group, GREY)
