"""Predicts label volumes of whole cases, in their own geometry.

One volume a case, <case>.nii.gz, in shape, affine and voxel size of the input. With several
checkpoints their probabilities are averaged. With --cross_validation each case of the data set is
predicted by the fold that was not trained on it.
"""

from __future__ import annotations

from absl import flags

from launch.flags import define_choices, define_devices, define_schema, parse_fold, settings, start

REQUIRED = ("data_dir", "out")


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  flags.DEFINE_string(
    "workdir", None, "run directory whose trainings --fold names", flag_values=values
  )
  flags.DEFINE_multi_string(
    "fold", [], "trained fold, a number or all; may be given again", flag_values=values
  )
  flags.DEFINE_bool(
    "cross_validation", False, "all folds instead, each for its own cases", flag_values=values
  )
  flags.DEFINE_enum(
    "network", "searched", ["searched", "unet3d"], "whose folds", flag_values=values
  )
  flags.DEFINE_multi_string(
    "checkpoint", [], "run or checkpoint instead; may be given again", flag_values=values
  )
  flags.DEFINE_string("data_dir", None, "folder of the cases", flag_values=values)
  define_schema(values)
  flags.DEFINE_list(
    "cases", None, "names of the cases, with commas; not given: all", flag_values=values
  )
  flags.DEFINE_string("out", None, "folder to write <case>.nii.gz to", flag_values=values)
  flags.DEFINE_integer(
    "patch_size",
    None,
    "edge of a patch, in voxels; not given: that of the training",
    lower_bound=1,
    flag_values=values,
  )
  define_choices(values)
  flags.DEFINE_bool("probabilities", False, "write the probabilities as well", flag_values=values)
  flags.DEFINE_bool("overwrite", False, "predict again what is there", flag_values=values)
  define_devices(values)


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code."""
  folds = tuple(parse_fold(fold) for fold in values["fold"].value)
  start(values)
  from nas3d_jax.inference.config import PredictConfig
  from nas3d_jax.inference.predict import predict_cases

  cases = values["cases"].value
  lists = {"fold": folds, "checkpoint": tuple(values["checkpoint"].value), "cases": cases and tuple(cases)}
  print(predict_cases(PredictConfig(**{**settings(values), **lists})))
  return 0
