"""What a supernet says of genotypes: its validation loss with the operations of each alone, without training anew."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.files.run_layout import SEARCH
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.inheritance import genotype_paths
from nas3d_jax.models.networks import Supernet
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.models.precision import activation_dtype, computing
from nas3d_jax.models.search_space import CustomOperation, SearchSpace
from nas3d_jax.runtime.compiling import announced
from nas3d_jax.training.config import SearchConfig
from nas3d_jax.training.epoch import mean_loss
from nas3d_jax.training.setup import RunSetup
from nas3d_jax.training.steps import make_validation_step


class _OnPaths(NamedTuple):
  """A supernet on paths that are given with its variables, so that one program serves all genotypes."""

  net: PackedNet

  def apply(self, given: tuple[Any, Any], image: jax.Array, **options: Any) -> jax.Array:
    variables, paths = given
    return self.net.apply(variables, image, weights=paths, **options)


def genotype_losses(
  config: SearchConfig, genotypes: Mapping[str, Genotype], *, operations: Sequence[CustomOperation] = ()
) -> dict[str, float]:
  """Validation losses of the last supernet of a search on the hybrid part, each with one genotype's operations.

  Args:
    config: of the search, which is over; its work directory holds the checkpoint and the data set.
    genotypes: of its space, by name.
    operations: candidates of the user's own.

  Returns:
    The mean loss over all patches of the hybrid part, without dropout, by name.

  Raises:
    InputError: there is no such checkpoint, a genotype does not fit, or a loss is not finite.
  """
  setup = RunSetup.of(config, SearchSpace.of(config.operations, operations))
  paths = {name: genotype_paths(genotype, setup.network) for name, genotype in genotypes.items()}
  _, variables, _ = restore(Path(config.workdir) / SEARCH, "last", operations=operations)
  stream = setup.stream("hybrid", setup.dataset.fold_cases(config.fold), seed=2 * config.seed)
  net = PackedNet(Supernet(setup.network, config.dropout, dtype=activation_dtype(config.precision)), variables)
  packed = setup.replicas.replicate(net.pack(variables))
  found = {}
  with computing(config.precision), contextlib.closing(stream.host):
    step = announced(
      "the validation step", make_validation_step(_OnPaths(net), replicas=setup.replicas, **setup.objective)
    )
    for name, path in paths.items():
      given = packed, setup.replicas.replicate(path)
      found[name] = mean_loss(
        f"supernet as {name}",
        stream.host.one_pass(),
        stream.order.steps,
        lambda batch, weight, given=given: step(given, batch, weight),
      )
  return found
