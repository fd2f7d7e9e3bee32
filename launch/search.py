"""Searches the network: which operations, wired how, the cells are made of.

Fold k is the hybrid part, on which the weights of the operations are learned, the other folds the
kernel part (Table 2 of the paper). It ends with search/genotype.json. Run again, it goes on from
its last checkpoint.
"""

from __future__ import annotations

from absl import flags

from nas3d_jax.runtime.stopping import Stop

from .flags import build, define_options, define_platform, start

REQUIRED = ("workdir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  from nas3d_jax.training.config import SearchConfig

  define_options(values, SearchConfig)
  define_platform(values, hosts=True)


def main(values: flags.FlagValues, stop: Stop) -> int:
  """Runs the stage; returns the exit code."""
  from nas3d_jax.training.config import SearchConfig

  config = build(SearchConfig, values)
  stop = start(values, stop)
  from nas3d_jax.training.search import search

  search(config, stop)
  return 0
