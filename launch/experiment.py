"""Compares the searched network with a 3D U-Net: from cases to scores and report.

Search, training of both networks on each fold and on all cases, costs, cross-validation, scores of
the training cases and of unseen ones (--test_dir), report. Parts that are done are skipped, one that
was stopped goes on; --dry_run lists them. Defaults are the paper's.
"""

from __future__ import annotations

from absl import flags

from launch.flags import define_choices, define_common, define_devices, define_schema, settings, start
from nas3d_jax.files.run_layout import PAGE, REPORT, SCORES
from nas3d_jax.runtime.stopping import Stop

REQUIRED = ("workdir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  own = dict(flag_values=values)
  count, rate = dict(lower_bound=1, **own), dict(lower_bound=0.0, **own)
  flags.DEFINE_string("workdir", None, "run directory, to write everything to", **own)
  flags.DEFINE_string("data_dir", None, "folder of the cases, for a new run directory", **own)
  flags.DEFINE_string("test_dir", None, "folder of unseen cases, with or without truth", **own)
  define_schema(values, of=" in data_dir", otherwise="that of the data set, or found out")
  define_schema(values, "test_schema", " in test_dir")
  flags.DEFINE_multi_string(
    "portal_csv", [], "scores that a challenge's portal gave for them, NETWORK/SPLIT=FILE; may be "
    "given again", **own,
  )
  flags.DEFINE_integer("folds", None, "folds; not given: the data set's, 5 for a new one", **count)
  flags.DEFINE_bool("nested", False, "search once a fold, on the other folds alone", **own)
  flags.DEFINE_integer("seeds", 1, "searches with seeds 0, 1, ...; seed 0 is trained", **count)
  flags.DEFINE_integer("search_patch_size", 64, "edge of a patch in the search, in voxels", **count)
  flags.DEFINE_integer("search_epochs", 100, "epochs of a search at most", **count)
  flags.DEFINE_integer("min_count", 40, "stop when a genotype appeared this many times", **count)
  flags.DEFINE_float("hybrid_learning_rate", 1e-3, "Adam, weights of the operations", **rate)
  flags.DEFINE_float("kernel_learning_rate", 1e-3, "Adam, all else in the search", **rate)
  flags.DEFINE_float("search_dropout", 0.1, "part of the channels dropped", upper_bound=1.0, **rate)
  flags.DEFINE_integer("patch_size", 128, "edge of a patch in training and prediction", **count)
  flags.DEFINE_integer("epochs", 200, "epochs of each training", **count)
  define_common(values)
  flags.DEFINE_integer("filters", 16, "channels of the first level of the 3D U-Net", **count)
  flags.DEFINE_integer("levels", 5, "resolutions of the 3D U-Net", **count)
  for prefix, what, numbers in (("", "searched network", "1e-3 0.5"), ("unet3d_", "3D U-Net", "5e-4 0.3")):
    learning_rate, dropout = numbers.split()
    flags.DEFINE_float(
      f"{prefix}learning_rate", None, f"Adam, {what}; not given: {learning_rate}", **rate
    )
    flags.DEFINE_float(
      f"{prefix}dropout", None, f"part of the channels dropped, {what}; not given: {dropout}",
      upper_bound=1.0, **rate,
    )
  define_choices(values)
  flags.DEFINE_bool(
    "choose_min_component", False, "choose min_component_ml on the cross-validation", **own
  )
  flags.DEFINE_bool(
    "overwrite", False, "replace predictions and scores of other checkpoints or settings", **own
  )
  flags.DEFINE_bool("dry_run", False, "list the parts and what is done, and do nothing", **own)
  define_devices(values)


def main(values: flags.FlagValues, stop: Stop) -> int:
  """Runs the stage; returns the exit code."""
  from rich.console import Console

  fields = settings(values)
  dry_run = fields.pop("dry_run")
  if not dry_run:
    start(values)
  from nas3d_jax.experiment import run
  from nas3d_jax.experiment.config import ExperimentConfig

  config, console = ExperimentConfig(**fields), Console()
  if dry_run:
    console.print(run.plan_table(run.plan_experiment(config)))
    return 0
  scores = run.experiment(config, stop)
  console.print(run.summary_table(scores))
  report = config.root / REPORT / PAGE
  console.print(f"the report: {report}" if report.exists() else f"the scores: {config.root / SCORES}")
  return 0
