"""The trainings of an experiment's control, read and put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas3d_jax.evaluation.control import Estimate, gain_over_random
from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.files.run_layout import CONTROL, COST, RANDOM, SCORES, SCORES_JSON, TRAIN_FOLDERS
from nas3d_jax.report.run_contents import History

_METRIC = "dice"


class ControlRun(NamedTuple):
  """One training of the control.

  Attributes:
    group: "searched", "random", "cost_" and a weight, or a hand-designed network.
    number: seed of the search or of the draw.
    seed: of the training.
    history: of the training.
    scores: on the cases of fold 0, which it did not see.
  """

  group: str
  number: int
  seed: int
  history: History
  scores: Scores

  @property
  def name(self) -> str:
    """Of its network, as the losses of the supernets have it."""
    return f"{self.group}/{self.number}"


def read_control(workdir: Path) -> tuple[ControlRun, ...]:
  """All that were trained and scored, by group, number and seed.

  Raises:
    InputError: a file is damaged.
  """
  found = []
  for folder in (workdir / CONTROL).glob("*/*/*"):
    group, number, seed = folder.parts[-3:]
    network = "searched" if group == RANDOM or group.startswith(COST) else group
    if network not in TRAIN_FOLDERS or not (number.isdecimal() and seed.isdecimal()):
      continue
    history = History.read(folder / TRAIN_FOLDERS[network] / "0", network)
    if history and (folder / SCORES / SCORES_JSON).exists():
      found.append(ControlRun(group, int(number), int(seed), history, Scores.load(folder / SCORES)))
  return tuple(sorted(found, key=lambda run: run[:3]))


def dice_of(runs: Sequence[ControlRun], region: str | None = None) -> NDArray[np.float64]:
  """Dice [networks, cases], of the cases that all have, by name: of a region, or the mean over all."""
  names = sorted(set.intersection(*(set(run.scores.cases) for run in runs)))

  def value(run: ControlRun, case: str) -> float:
    found = run.scores.cases[case]
    return float(np.mean([values[_METRIC] for name, values in found.items() if region in (None, name)]))

  return np.array([[value(run, case) for case in names] for run in runs])


def gain(runs: Sequence[ControlRun], seed: int) -> Estimate | None:
  """The gain of the searched over the random genotypes in mean Dice; None where either are missing."""
  wanted = [run for run in runs if run.group in ("searched", RANDOM)]
  if {run.group for run in wanted} != {"searched", RANDOM}:
    return None
  dice = dice_of(wanted)
  if not dice.shape[1]:
    return None
  # A genotype counts once: its trainings are no finds of their own.
  rows: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
  for run, row in zip(wanted, dice, strict=True):
    rows.setdefault((run.group, run.number), []).append(row)
  searched, random = (
    [np.mean(trainings, 0) for (group, _), trainings in rows.items() if group == wanted_group]
    for wanted_group in ("searched", RANDOM)
  )
  return gain_over_random(searched, random, seed=seed) if np.mean(random) else None


def verdict(runs: Sequence[ControlRun], seed: int) -> str | None:
  """Whether the search beats random genotypes, in a sentence; None where there is no control."""
  found = gain(runs, seed)
  if found is None:
    return None
  count = {group: len({run.number for run in runs if run.group == group}) for group in ("searched", RANDOM)}
  what = (
    f"{found.value:+.2f}% mean Dice of {count['searched']} searched against {count[RANDOM]} random genotypes, trained "
    "alike"
  )
  if found.low is None:
    # One genotype differs from the next by chance, however often it is trained.
    few = min(count.values()) < 2
    why = "with fewer than two genotypes a group (experiment --seeds=3 --random=5)" if few else "of one case"
    return f"Whether the search beats random genotypes cannot be said {why}: {what}."
  interval = f"95% interval {found.low:+.2f}% to {found.high:+.2f}%"
  if found.low > 0:
    return f"The search beats random genotypes: {what} ({interval})."
  less = "The search is worse than" if found.high < 0 else "The search does not beat"
  return f"{less} random genotypes of the same space: {what} ({interval})."
