"""Compares the searched network with a 3D U-Net: from cases to scores and report.

Search, training of both networks on each fold and on all cases, costs, cross-validation, scores of
the training cases and of unseen ones (--test_dir), report. Parts that are done are skipped, one that
was stopped goes on; --dry_run lists them. Defaults are the paper's.
"""

from __future__ import annotations

from absl import flags

from nas3d_jax.files.run_layout import PAGE, REPORT, SCORES
from nas3d_jax.runtime.stopping import Stop

from .flags import build, define_options, define_platform, start

REQUIRED = ("workdir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  from nas3d_jax.experiment.config import ExperimentConfig

  define_options(values, ExperimentConfig)
  flags.DEFINE_bool("dry_run", False, "list the parts and what is done, and do nothing", flag_values=values)
  define_platform(values)


def main(values: flags.FlagValues, stop: Stop) -> int:
  """Runs the stage; returns the exit code."""
  from rich.console import Console

  from nas3d_jax.experiment.config import ExperimentConfig

  config, dry_run = build(ExperimentConfig, values), values["dry_run"].value
  if not dry_run:
    start(values)
  from nas3d_jax.experiment import run

  console = Console()
  if dry_run:
    console.print(run.plan_table(run.plan_experiment(config)))
    return 0
  scores = run.experiment(config, stop)
  console.print(run.summary_table(scores))
  report = config.root / REPORT / PAGE
  console.print(f"the report: {report}" if report.exists() else f"the scores: {config.root / SCORES}")
  return 0
