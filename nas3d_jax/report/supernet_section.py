"""What the supernets said of genotypes, beside what training gave: the discretisation gap, and rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.control import Estimate, rank_agreement
from nas3d_jax.files.run_layout import CONTROL, SUPERNET
from nas3d_jax.files.strict_json import read_json
from nas3d_jax.report.context import Context
from nas3d_jax.report.control_contents import ControlRun, dice_of
from nas3d_jax.report.control_figures import colour_of, marks_of, name_of
from nas3d_jax.report.gallery import new_figure
from nas3d_jax.report.run_contents import History, Material
from nas3d_jax.report.table import Table, make_table
from nas3d_jax.validation import is_number, patch_size_of, spelled_size

Losses = Mapping[str, Mapping[str, float]]
"""Seed of a search -> "<group>/<number>" -> loss of its supernet with the operations of that genotype alone."""

_LEAST = 3  # genotypes of a ranking


def read_losses(workdir: Path) -> Losses:
  """The losses that an experiment measured, by seed.

  Raises:
    InputError: a file is damaged.
  """
  found, remedy = {}, "remove it, and run experiment again, which makes it"
  for path in sorted((workdir / CONTROL / SUPERNET).glob("*.json"), key=lambda path: (len(path.stem), path.stem)):
    losses = read_json(path, remedy).get("losses")
    if not isinstance(losses, dict) or not all(map(is_number, losses.values())):
      raise InputError(f"{path} is damaged: losses must be numbers, got {losses!r:.80}; {remedy}")
    found[path.stem] = losses
  return found


def supernets(c: Context) -> None:
  """The discretisation gap of each search, and how far its supernet ranks genotypes as training does."""
  losses, runs = read_losses(c.material.workdir), c.material.control
  if not losses:
    return
  c.page.heading("What the supernets knew")
  c.table(gap_table(c.material, losses))
  ranked = {seed: pairs for seed, found in losses.items() if len(pairs := ranking(found, runs)) >= _LEAST}
  if not ranked:
    c.page.text(f"For a ranking of genotypes at least {_LEAST} of them have to be trained and scored.")
    return
  c.table(ranking_table(ranked, c.seed))
  caption = (
    "Each genotype of the control: its loss in a supernet, not trained anew, and its mean Dice when trained by itself. "
    "A supernet that ranks well has the high scores on the left."
  )
  inputs = [losses, [[run[:3], run.scores.cases] for run in runs]]
  c.figure("supernets", caption, inputs, lambda: ranking_figure(ranked))


def gap_table(material: Material, losses: Losses) -> Table:
  """The loss of a supernet, of its own genotype in it, and of that genotype trained by itself."""
  searches = {"0": material.search, **material.seeds}
  rows = []
  for seed, found in losses.items():
    search, own = searches.get(seed), f"searched/{seed}"
    if not (search and search.records and own in found):
      continue
    before, chosen = search.records[-1]["validation_loss"], found[own]
    trainings = [run.history for run in material.control if run.name == own]
    rows.append((seed, f"{before:.4f}", f"{chosen:.4f}", f"{chosen - before:+.4f}", _retrained(search, trainings)))
  caption = (
    "The discretisation gap. Validation losses on the hybrid part: of the supernet when the search ended, of the same "
    "parameters with the chosen operations alone, and the least of the derived network trained by itself."
  )
  header = ("search, seed", "supernet", "chosen operations alone", "gap", "derived network, trained")
  return make_table("supernet_gap", caption, header, rows)


def ranking(found: Mapping[str, float], runs: Sequence[ControlRun]) -> dict[str, tuple[float, float]]:
  """Of each genotype that was trained: its loss in a supernet, and its mean Dice over trainings and cases."""
  pairs = {}
  ranked = [run for run in runs if run.name in found]
  means = dice_of(ranked).mean(1) if ranked else []
  for name, loss in found.items():
    own = [mean for run, mean in zip(ranked, means, strict=True) if run.name == name]
    if own:
      pairs[name] = (loss, float(np.mean(own)))
  return pairs


def ranking_table(ranked: Mapping[str, Mapping[str, tuple[float, float]]], seed: int) -> Table:
  """Kendall's tau and Spearman's rho between the ranking of each supernet and that of the trained networks."""
  rows = []
  for search, pairs in ranked.items():
    losses, dice = zip(*pairs.values(), strict=True)
    agreement = rank_agreement([-loss for loss in losses], dice, seed=seed)
    rows.append((search, str(len(pairs)), *(_interval(agreement[name]) for name in ("kendall", "spearman"))))
  caption = (
    "Rank correlation between what a supernet says of genotypes (the lower its loss, the better) and their mean Dice "
    "when trained; in brackets the 95% interval of a bootstrap over genotypes. 1: the same order, 0: no relation."
  )
  return make_table("supernet_ranking", caption, ("search, seed", "genotypes", "Kendall", "Spearman"), rows)


def ranking_figure(ranked: Mapping[str, Mapping[str, tuple[float, float]]]) -> Figure:
  """Loss in the supernet against mean Dice, a panel a search."""
  figure = new_figure(2.6)
  panels = figure.subplots(1, len(ranked), sharey=True, squeeze=False)[0]
  for axes, (seed, pairs) in zip(panels, ranked.items(), strict=True):
    for group, mark in marks_of(dict.fromkeys(name.partition("/")[0] for name in pairs)).items():
      points = [pair for name, pair in pairs.items() if name.startswith(f"{group}/")]
      axes.plot(*zip(*points, strict=True), mark, color=colour_of(group), alpha=0.8, label=name_of(group))
    axes.set(title=f"supernet of seed {seed}", xlabel="loss in the supernet")
    axes.locator_params(axis="x", nbins=4)
  panels[0].set_ylabel("mean Dice, trained")
  panels[0].legend(fontsize=7)
  return figure


def _retrained(search: History, trainings: Sequence[History]) -> str:
  """The mean of the least validation losses; said with its patch where that is another than the search's."""
  least = [min(record["validation_loss"] for record in history.records) for history in trainings if history.records]
  if not least:
    return "–"
  sizes = {patch_size_of(history.settings["patch_size"]) for history in (search, *trainings)}
  own = patch_size_of(trainings[0].settings["patch_size"])
  return f"{np.mean(least):.4f}" + (f" (patches of {spelled_size(own)})" if len(sizes) > 1 else "")


def _interval(found: Estimate) -> str:
  return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
