"""Scores predictions: Dice, sensitivity, specificity, 95% Hausdorff distance and more of every region.

Beside the paper's four metrics there are lesion-wise Dice and 95% Hausdorff distance as BraTS 2023
defines them, the surface Dice at --tolerance, and the volumes of truth and prediction. Writes
scores.csv and scores.json and prints the summary. A case without prediction, or a prediction
without segmentation, is an error unless --cases or --only_predicted leaves it out.
"""

from __future__ import annotations

from absl import flags

from .flags import define_list, define_path, define_schema

REQUIRED = ("predictions", "data_dir", "out")


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  define_path(values, "predictions", "folder of <case>.nii.gz")
  define_path(values, "data_dir", "folder of the cases with their segmentations")
  define_path(values, "out", "folder to write the scores to")
  define_schema(values, of=" of the truth")
  define_list("cases", None, "names of the cases to score, with commas; not given: all", values)
  flags.DEFINE_bool(
    "only_predicted", False, "leave out segmentations without a prediction, as where one fold was predicted",
    flag_values=values,
  )
  flags.DEFINE_float(
    "tolerance", 1.0, "distance in mm up to which surfaces agree, for surface_dice", lower_bound=0.0,
    flag_values=values,
  )
  flags.DEFINE_bool("overwrite", False, "replace scores of other files", flag_values=values)


def notes() -> str:
  """How the metrics are defined and empty regions counted, for `--help`."""
  from nas3d_jax.evaluation.metrics import CONVENTIONS

  return CONVENTIONS


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code."""
  from rich.console import Console

  from nas3d_jax.evaluation.evaluate import evaluate
  from nas3d_jax.evaluation.scores import summary_table

  out = values["out"].value
  scores = evaluate(
    values["predictions"].value,
    values["data_dir"].value,
    out,
    schema=values["schema"].value,
    cases=values["cases"].value,
    only_predicted=values["only_predicted"].value,
    tolerance=values["tolerance"].value,
    overwrite=values["overwrite"].value,
  )
  console = Console()
  console.print(summary_table(scores))
  console.print(f"scores.csv and scores.json in {out}")
  return 0
