"""Exports the network of a training, for JAX or for ONNX.

The folder holds the network with its parameters, its normalisation and its metadata, and runs without this program's
code of networks.
"""

from __future__ import annotations

from absl import flags

from .flags import build, define_options, define_platform, start

REQUIRED = ("checkpoint", "out")


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  from nas3d_jax.export.config import ExportConfig

  define_options(values, ExportConfig)
  define_platform(values)


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code."""
  from nas3d_jax.export.config import ExportConfig

  config = build(ExportConfig, values)
  start(values)
  from nas3d_jax.export.write import export_network

  print(export_network(config))
  return 0
