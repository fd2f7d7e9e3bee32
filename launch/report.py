"""Writes figures and tables of a run, and one page with all of them.

From whatever the run directory holds: a section whose input is missing says which command makes it. Figures whose input
has not changed are kept. The page, report/index.html, holds its pictures and asks for nothing; each figure lies beside
it as PNG and PDF, each table as CSV and LaTeX.
"""

from __future__ import annotations

from absl import flags

from .flags import define_path, define_paths, define_schema

REQUIRED = ("workdir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  define_path(values, "workdir", "run directory with dataset/")
  define_path(values, "out", "folder to write to; not given: report/ of the run directory")
  define_paths(
    values,
    "portal_csv",
    "NETWORK/SPLIT=FILE: scores that a challenge's portal gave for cases without truth, as "
    "searched/test=scores.csv; NETWORK is searched or unet3d, SPLIT test or ensemble; a mere FILE is searched/test. "
    "Read are the columns Label and, for every region, Dice_ET, Sensitivity_ET, Specificity_ET, Hausdorff95_ET and so "
    "on; others are passed over, and rows Mean, StdDev, Median, 25quantile and 75quantile left out. May be given again",
    named=True,
  )
  define_path(values, "test_dir", "folder of the unseen cases, for pictures; not given: that of the experiment")
  define_schema(values, of=" in test_dir", otherwise="as they were scored")
  flags.DEFINE_integer("seed", 0, "seed of the bootstrap intervals", lower_bound=0, flag_values=values)
  flags.DEFINE_bool("overwrite", False, "draw every figure anew", flag_values=values)


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code."""
  from nas3d_jax.report.build import write_report

  page = write_report(
    values["workdir"].value,
    values["out"].value,
    portal_csv=values["portal_csv"].value,
    test_dir=values["test_dir"].value,
    schema=values["schema"].value,
    seed=values["seed"].value,
    overwrite=values["overwrite"].value,
  )
  print(page)
  return 0
