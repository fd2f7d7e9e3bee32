"""Predicts label volumes of whole cases, in their own geometry.

One volume a case, <case>.nii.gz, in shape, affine and voxel size of the input. With several
checkpoints their probabilities are averaged. With --cross_validation each case of the data set is
predicted by the fold that was not trained on it.
"""

from __future__ import annotations

from absl import flags

from .flags import build, define_options, define_platform, parse_fold, start

REQUIRED = ("data_dir", "out")


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  from nas3d_jax.inference.config import PredictConfig

  define_options(values, PredictConfig)
  define_platform(values)


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code."""
  from nas3d_jax.inference.config import PredictConfig

  config = build(PredictConfig, values, fold=tuple(map(parse_fold, values["fold"].value)))
  if config.checkpoint and values["network"].present:
    from nas3d_jax.errors import InputError

    raise InputError("--network says whose --fold is meant, and --checkpoint names a network itself; leave out one")
  start(values)
  from nas3d_jax.inference.predict import predict_cases

  print(predict_cases(config))
  return 0
