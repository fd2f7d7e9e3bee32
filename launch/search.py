"""Searches the network: which operations, wired how, the cells are made of.

Fold k is the hybrid part, on which the weights of the operations are learned, the other folds the
kernel part (Table 2 of the paper). It ends with search/genotype.json. Run again, it goes on from
its last checkpoint.
"""

from __future__ import annotations

from absl import flags

from launch.flags import define_common, define_devices, settings, start
from nas3d_jax.runtime.stopping import Stop

REQUIRED = ("workdir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  rate = dict(lower_bound=0.0, flag_values=values)
  count = dict(lower_bound=1, flag_values=values)
  flags.DEFINE_string(
    "workdir", None, "run directory with dataset/; search/ is written", flag_values=values
  )
  flags.DEFINE_integer("fold", 0, "the fold that is the hybrid part", flag_values=values)
  flags.DEFINE_integer("patch_size", 64, "edge of a patch, in voxels", **count)
  flags.DEFINE_integer("epochs", 100, "epochs at most", **count)
  flags.DEFINE_integer("min_count", 40, "stop when a genotype appeared this many times", **count)
  define_common(values)
  flags.DEFINE_float("hybrid_learning_rate", 1e-3, "Adam, weights of the operations", **rate)
  flags.DEFINE_float("kernel_learning_rate", 1e-3, "Adam, all other parameters", **rate)
  flags.DEFINE_float("dropout", 0.1, "part of the channels dropped", upper_bound=1.0, **rate)
  flags.DEFINE_integer("seed", 0, "seed of parameters, order, dropout", flag_values=values)
  flags.DEFINE_bool("overwrite", False, "start anew: search/ is deleted", flag_values=values)
  define_devices(values, hosts=True)


def main(values: flags.FlagValues, stop: Stop) -> int:
  """Runs the stage; returns the exit code."""
  stop = start(values, stop)
  from nas3d_jax.training.config import SearchConfig
  from nas3d_jax.training.search import search

  search(SearchConfig(**settings(values)), stop)
  return 0
