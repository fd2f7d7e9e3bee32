"""Converts a checkpoint of the authors' released program (PyTorch) to a run of this one.

Supernet or derived network. Nothing that is in the file is run, and PyTorch is not needed. What the file does not hold
has to be said: the schema, the order of its modalities and regions, of a derived network the genotype.
"""

from __future__ import annotations

from absl import flags

from .flags import build, define_options, define_path, define_platform, start

REQUIRED = ("from", "out")


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  from nas3d_jax.convert.config import ConvertConfig

  define_path(values, "from", "file that torch.save wrote, with the parameters of the network")
  define_options(values, ConvertConfig)
  define_platform(values)


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code."""
  from nas3d_jax.convert.config import ConvertConfig

  config = build(ConvertConfig, values)
  start(values)
  from nas3d_jax.convert.write import convert_file

  print(convert_file(values["from"].value, config))
  return 0
