"""Trains the network that the search found, or a 3D U-Net, on a fold or all cases.

Fold k is validated on fold k and trained on the others; with --fold=all there is no validation. The
best and the last two checkpoints are kept in train/<fold>/checkpoints, with --network=unet3d in
unet3d/<fold>/checkpoints. Run again, it goes on from its last checkpoint.
"""

from __future__ import annotations

from absl import flags

from launch.flags import define_common, define_devices, parse_fold, settings, start
from nas3d_jax.runtime.stopping import Stop

REQUIRED = ("workdir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  rate = dict(lower_bound=0.0, flag_values=values)
  count = dict(lower_bound=1, flag_values=values)
  flags.DEFINE_string(
    "workdir", None, "run directory with dataset/; train/<fold>/ is written", flag_values=values
  )
  flags.DEFINE_string("fold", "0", "the fold to validate on, or all", flag_values=values)
  flags.DEFINE_enum(
    "network", "searched", ["searched", "unet3d"], "the network of a genotype, or the hand-designed "
    "3D U-Net", flag_values=values,
  )
  flags.DEFINE_string(
    "genotype", None, "JSON file; not given: search/genotype.json of the run", flag_values=values
  )
  flags.DEFINE_string(
    "init_from", None, "run or checkpoint whose parameters to start from", flag_values=values
  )
  flags.DEFINE_integer("patch_size", 128, "edge of a patch, in voxels", **count)
  flags.DEFINE_integer("epochs", 200, "epochs", **count)
  define_common(values)
  flags.DEFINE_integer("filters", 16, "channels of the first level of the 3D U-Net", **count)
  flags.DEFINE_integer("levels", 5, "resolutions of the 3D U-Net", **count)
  flags.DEFINE_float(
    "learning_rate", None, "Adam; not given: 1e-3, for the 3D U-Net 5e-4", **rate
  )
  flags.DEFINE_float(
    "dropout", None, "part of the channels dropped; not given: 0.5, for the 3D U-Net 0.3",
    upper_bound=1.0, **rate,
  )
  flags.DEFINE_integer("seed", 0, "seed of parameters, order, dropout", flag_values=values)
  flags.DEFINE_bool("overwrite", False, "start anew: train/<fold>/ is deleted", flag_values=values)
  define_devices(values, hosts=True)


def main(values: flags.FlagValues, stop: Stop) -> int:
  """Runs the stage; returns the exit code."""
  fold = parse_fold(values["fold"].value)
  stop = start(values, stop)
  from nas3d_jax.training.config import TrainConfig
  from nas3d_jax.training.train import train

  train(TrainConfig(**{**settings(values), "fold": fold}), stop)
  return 0
