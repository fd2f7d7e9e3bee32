"""Trains the network that the search found, or a 3D U-Net, on a fold or all cases.

Fold k is validated on fold k and trained on the others; with --fold=all there is no validation. The
best and the last two checkpoints are kept in train/<fold>/checkpoints, with --network=unet3d in
unet3d/<fold>/checkpoints. Run again, it goes on from its last checkpoint.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from nas3d_jax.runtime.stopping import Stop

from .flags import build, define_options, define_platform, parse_fold, start

REQUIRED = ("workdir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  from nas3d_jax.training.config import TrainConfig

  define_options(values, TrainConfig)
  define_platform(values, hosts=True)


def main(values: flags.FlagValues, stop: Stop) -> int:
  """Runs the stage; returns the exit code."""
  from nas3d_jax.training.config import TrainConfig

  config = build(TrainConfig, values, fold=parse_fold(values["fold"].value))
  _refuse_of_another_network(values, config)
  stop = start(values, stop)
  from nas3d_jax.training.train import train

  train(config, stop)
  return 0


def _refuse_of_another_network(values: flags.FlagValues, config: Any) -> None:
  """Raises InputError for a flag that does not concern the network, and would have no effect."""
  from nas3d_jax.errors import InputError
  from nas3d_jax.options import options_of

  for name, option in options_of(type(config)).items():
    if option.networks and config.network not in option.networks and values[name].present:
      own = " or ".join(option.networks)
      raise InputError(
        f"--{name} is of --network={own}, got it with --network={config.network}; leave out one of them"
      )
