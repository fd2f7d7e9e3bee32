"""Predicts label volumes of whole cases, in their own geometry.

One volume a case, <case>.nii.gz, in shape, affine and voxel size of the input. With several
checkpoints their probabilities are averaged. With --cross_validation each case of the data set is
predicted by the fold that was not trained on it. Several processes share the work with --shard=K/N,
or as the tasks of a SLURM array, into one --out.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING

from absl import flags

from .flags import build, define_options, define_platform, parse_fold, start

if TYPE_CHECKING:
  from nas3d_jax.inference.config import PredictConfig

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
  if config.shard is None:
    config = _by_array(config)
  start(values)
  from nas3d_jax.inference.predict import predict_cases

  print(predict_cases(config))
  return 0


def _by_array(config: PredictConfig) -> PredictConfig:
  """With the shard that a SLURM array gives this task, and says so: the array may be meant for something else."""
  from nas3d_jax.inference.shards import shard_of_array

  shard = shard_of_array(os.environ)
  if shard is None:
    return config
  print(
    f"task {os.environ['SLURM_ARRAY_TASK_ID']} of a SLURM array: predicts part {shard} of the cases alone "
    f"(--shard={shard}); --shard=1/1 predicts all of them in each task",
    file=sys.stderr,
    flush=True,
  )
  return dataclasses.replace(config, shard=str(shard))
