"""The checklist of Lindauer and Hutter (2020, "Best Practices for Scientific Research on NAS")."""

from __future__ import annotations

from nas3d_jax.report.context import Context
from nas3d_jax.report.control_contents import RANDOM
from nas3d_jax.report.table import make_table

_MISSING = "missing"


def checklist(c: Context) -> None:
  """Each point with where its evidence is, or that it is missing."""
  c.page.section("Checklist of architecture search")
  material, runs = c.material, c.material.control
  random = any(run.group == RANDOM for run in runs)
  seeds = 1 + len({name for name in material.seeds if name != "0"}) if material.search else 0
  again = len({run.seed for run in runs})
  searched = f"how it was made: search{'es' * (seeds > 1)}"
  rows = [
    ("code of search and of final training", "this program; its version stands in how it was made"),
    ("search space", f"{_MISSING}: no search" if material.network is None else "how it was made: sizes, operations"),
    ("settings and seeds of the search", searched if material.search else _MISSING),
    ("settings and seeds of the final training", "how it was made: trainings" if material.trainings else _MISSING),
    ("split of the data", f"data: {material.dataset.folds} folds, their seed and the fingerprint"),
    (
      "the same data, training and settings for all that is compared",
      "search against random: one recipe" if runs else "the networks of the comparison; no control",
    ),
    ("hardware and versions of all runs", "how it was made: devices and versions of every session"),
    ("random search as a baseline", "search against random" if random else f"{_MISSING}: experiment --random=5"),
    (
      "several runs of the search, with their seeds",
      f"{seeds} seeds" if seeds > 1 else f"{_MISSING}: experiment --seeds=3",
    ),
    (
      "several final trainings",
      f"{again} seeds of each network" if again > 1 else f"{_MISSING}: experiment --random=5 --retrain_seeds=3",
    ),
    (
      "the fold that judges took no part in the search",
      "in the cross-validation, by nested searches; not in search against random"
      if material.experiment.get("nested")
      else f"{_MISSING}: experiment --nested",
    ),
    ("ablation of the parts of the method", f"{_MISSING} here; each part is a flag"),
    ("performance over time", "training: losses and hours" if material.trainings else _MISSING),
    ("time of the whole method", "search against random: hours" if runs else "how it was made: seconds of each epoch"),
    ("how settings were tuned, and at what cost", f"{_MISSING}: not known to this program; say it where you publish"),
  ]
  caption = "Points of the checklist of Lindauer and Hutter (2020), and where in this report the evidence is."
  c.table(make_table("checklist", caption, ("point", "evidence"), rows, text_columns=2))
