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

# What a genotype that is drawn depends on, or its network has to have; all else is of training.
_DRAWS = frozenset(
  {"workdir", "method", "seed", "operations", "nodes", "kernels", "depth", "variant", "patch_size", "fold", "overwrite"}
)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  from nas3d_jax.training.config import SearchConfig

  define_options(values, SearchConfig)
  define_platform(values, hosts=True)


def main(values: flags.FlagValues, stop: Stop) -> int:
  """Runs the stage; returns the exit code."""
  from nas3d_jax.training.config import SearchConfig

  config = build(SearchConfig, values)
  if config.method == "random":
    _check_draw(values, SearchConfig)
  stop = start(values, stop)
  from nas3d_jax.training.search import search

  search(config, stop)
  return 0


def _check_draw(values: flags.FlagValues, config: type) -> None:
  """Raises InputError where a flag was given that a genotype at random has no use for."""
  from nas3d_jax.errors import InputError
  from nas3d_jax.options import options_of

  if unused := [f"--{name}" for name in options_of(config) if name not in _DRAWS and values[name].present]:
    them = "them" if len(unused) > 1 else "it"
    raise InputError(
      f"--method=random draws a genotype without training and does not use {', '.join(unused)}; leave {them} out"
    )
