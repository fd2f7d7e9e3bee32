"""The sections of single cases: best, median and worst (Fig. 8), and every case with its picture."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nas3d_jax.data.cases.case_files import CaseFiles
from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.files.run_layout import PREDICTIONS
from nas3d_jax.report import result_tables
from nas3d_jax.report.case_figures import case_figure, examples_figure
from nas3d_jax.report.case_views import View, dataset_view, find_files, folder_view
from nas3d_jax.report.context import Context
from nas3d_jax.report.run_contents import NETWORKS
from nas3d_jax.report.score_figures import SHORT
from nas3d_jax.schema.schema import Schema

_UNSEEN = ("test", "ensemble")
_RANKS = ("best", "median", "worst")


def examples(c: Context) -> None:
  """Predictions beside the truth for the best, the median and the worst case (Fig. 8)."""
  c.page.section("Predictions")
  splits = [split for split in ("cross_validation", "test") if _scored(c, split)] or _scored_splits(c)[:1]
  if not splits:
    c.missing("There are no predictions with scores yet. They come from", f"experiment {c.run}")
  for split in splits:
    views = _Views.of(c, split)
    network, scores = next(iter(_scored(c, split).items()))
    chosen = {rank: name for rank, name in _ranked(scores).items() if views.has(name)}
    if not chosen:
      text = f"The images of {SHORT[split]} are not to be found. They are read from"
      c.missing(text, f"report {c.run} --test_dir=...")
      continue
    captions = {
      rank: {n: _dice(found, name) for n, found in _scored(c, split).items()} for rank, name in chosen.items()
    }
    caption = (
      f"Figure 8. {SHORT[split].capitalize()}, cases by their mean Dice of the {NETWORKS[network]}: "
      f"{', '.join(f'{rank} {name}' for rank, name in chosen.items())}. Below each prediction: its Dice."
    )
    draw = functools.partial(_examples, views, chosen, captions)
    c.figure(f"fig8_{split}", caption, [views.inputs(name) for name in chosen.values()], draw, photograph=True)


def cases(c: Context) -> None:
  """A table of every case of every split, with links to the pictures that follow."""
  c.page.section("Every case")
  if not _scored_splits(c):
    c.missing("There are no scored cases yet. They come from", f"experiment {c.run}")
  for split in _scored_splits(c):
    views = _Views.of(c, split)
    names = _names(c, split)
    shown = [name for name in names if views.has(name)]
    c.page.heading(SHORT[split].capitalize())
    c.table(result_tables.cases_table(c.material, split, {name: f"#{_anchor(split, name)}" for name in shown}))
    if len(shown) < len(names):
      text = f"{len(names) - len(shown)} cases have no picture: their images are not to be found. They are read from"
      c.missing(text, f"report {c.run} --test_dir=...")
    for name in shown:
      draw = functools.partial(_case, views.loader(name))
      scores = "; ".join(f"{NETWORKS[n]}: {_dice(found, name)}" for n, found in _scored(c, split).items())
      caption = f"{name}, {SHORT[split]}. Dice of the {scores}."
      file = f"cases/{split}/{name}"
      c.figure(file, caption, views.inputs(name), draw, photograph=True, small=True, anchor=_anchor(split, name))
      c.tick()


def count(c: Context) -> int:
  """Pictures of cases that `cases` is going to make, at most."""
  return sum(len(_names(c, split)) for split in _scored_splits(c))


class _Views:
  """Where the images and predictions of a split's cases are."""

  def __init__(self, c: Context, split: str, files: Mapping[str, CaseFiles], schema: Schema):
    self._c, self._split, self._files, self._schema = c, split, files, schema
    # A case of another folder may bear the name of one of the data set: their truths differ.
    truths = {name: {s.checksums[name]["truth"] for s in _scored(c, split).values()} for name in _names(c, split)}
    cases = {case.name: set(case.checksums.values()) for case in c.material.dataset.cases}
    self._known = {name for name, sums in truths.items() if sums <= cases.get(name, set())}

  @classmethod
  def of(cls, c: Context, split: str) -> _Views:
    """Unseen cases lie in the experiment's test_dir; without one they are sought in the data set."""
    folder = c.material.experiment.get("test_dir") if split in _UNSEEN else None
    # They were scored by the schema of their truth.
    schema = c.test_schema or next(iter(_scored(c, split).values())).schema
    return cls(c, split, find_files(folder, schema, c.material.dataset.schema), schema)

  def has(self, name: str) -> bool:
    return name in self._files or (not self._files and name in self._known)

  def loader(self, name: str) -> Callable[[], View]:
    """Reads the case when it is called."""
    predictions = self._predictions(name)
    if name in self._files:
      shown = self._c.material.dataset.schema
      return functools.partial(folder_view, self._files[name], self._schema, predictions, shown)
    return functools.partial(dataset_view, self._c.material.dataset, name, predictions)

  def inputs(self, name: str) -> list:
    """What the picture of a case depends on, as plain values."""
    scored = _scored(self._c, self._split).items()
    folder = str(self._files[name].folder) if name in self._files else None
    found = {network: [scores.checksums[name], _dice(scores, name)] for network, scores in scored}
    return [name, self._c.material.dataset.fingerprint, folder, found, sorted(self._predictions(name))]

  def _predictions(self, name: str) -> dict[str, Path]:
    found = {}
    for network in NETWORKS:
      stem = self._c.material.workdir / PREDICTIONS / network / self._split / name
      paths = [path for ending in (".nii.gz", ".nii") if (path := stem.with_name(name + ending)).exists()]
      if paths:
        found[network] = paths[0]
    return found


def _scored(c: Context, split: str) -> dict[str, Scores]:
  """The scores with truth of a split, by network."""
  return {network: c.material.scores[network, split] for network in NETWORKS if (network, split) in c.material.scores}


def _names(c: Context, split: str) -> list[str]:
  return list(next(iter(_scored(c, split).values())).cases)


def _scored_splits(c: Context) -> list[str]:
  return [split for split in c.material.splits() if _scored(c, split)]


def _ranked(scores: Scores) -> dict[str, str]:
  """The best, the median and the worst case by mean Dice over the regions; fewer where there are fewer cases."""
  means = {name: np.mean([values["dice"] for values in regions.values()]) for name, regions in scores.cases.items()}
  order = sorted(means, key=lambda name: (-means[name], name))
  places = {"best": 0, "median": (len(order) - 1) // 2, "worst": len(order) - 1}
  named: dict[str, str] = {}
  for rank in _RANKS if len(order) > 2 else ("best", "worst")[: len(order)]:
    named[rank] = order[places[rank]]
  return named


def _dice(scores: Scores, name: str) -> str:
  return ", ".join(f"{region} {values['dice']:.2f}" for region, values in scores.cases[name].items())


def _examples(views: _Views, chosen: Mapping[str, str], captions: Mapping[str, Mapping[str, str]]) -> Figure:
  return examples_figure({rank: views.loader(name)() for rank, name in chosen.items()}, captions)


def _case(load: Callable[[], View]) -> Figure:
  return case_figure(load())


def _anchor(split: str, name: str) -> str:
  return f"case-{split}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
