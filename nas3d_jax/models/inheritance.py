"""What a derived network has in the supernet that it was searched in: its path, and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.custom_operations import PREFIX, TAPS
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.hybrid_parameters import hybrid_shapes
from nas3d_jax.models.operations import parameter_shapes
from nas3d_jax.models.search_space import CELLS, direction_of, edge_row, reading_nodes
from nas3d_jax.models.single_path import Path

_NONE = -1


def genotype_paths(genotype: Genotype, config: NetworkConfig) -> dict[str, Path]:
  """The paths of a genotype, which a supernet takes as `weights`; edges that it does not keep have no operation.

  Raises:
    InputError: the genotype does not fit the network.
  """
  genotype.check(config)
  choices = {name: np.full(edges, _NONE, np.int32) for name, (edges, _) in hybrid_shapes(config).items()}
  for cell in CELLS:
    for index, (operation, state) in enumerate(getattr(genotype, cell)):
      direction = direction_of(cell, state)
      column = config.space.candidates[direction].index(operation)
      choices[f"{cell}_{direction}"][edge_row(cell, index // 2, state)] = column
  return {name: Path(jnp.asarray(found), jnp.ones(len(found), jnp.float32)) for name, found in choices.items()}


def derived_variables(variables: Mapping[str, Any], genotype: Genotype, config: NetworkConfig) -> dict[str, Any]:
  """The variables of a derived network that computes what the supernet does on the genotype's paths.

  Args:
    variables: of the supernet, float32.
    genotype: of the derived network.
    config: of both.

  Raises:
    InputError: the genotype does not fit the network.
  """
  genotype.check(config)
  derived: dict[str, Any] = {}
  for name, value in variables["params"].items():
    kind = name.split("_")[0]
    if name == "hybrid":
      continue
    if kind not in CELLS:
      derived[name] = value
      continue
    derived[name] = {layer: params for layer, params in value.items() if layer.startswith("preprocess")}
    for index, (operation, state) in enumerate(getattr(genotype, kind)):
      stacked = value[f"state_{state}"].get(operation)
      if stacked:  # a pool has none
        edge = reading_nodes(state, config.nodes).index(index // 2)
        derived[name][f"op_{index}"] = _edge(stacked, operation, edge, config)
  return {"params": derived}


def _edge(stacked: Mapping[str, Any], operation: str, edge: int, config: NetworkConfig) -> dict[str, Any]:
  """The parameters of an operation on one edge, out of those stacked over edges."""
  custom = config.space.custom_operation(operation) is not None
  # Shapes do not matter, only where the axis of edges stands.
  leaves = parameter_shapes("conv" if custom else operation, 1, config.variant)
  found: dict[str, Any] = {}
  for layer, arrays in stacked.items():
    if layer.startswith(PREFIX) or layer == TAPS:
      found[layer] = jax.tree.map(lambda array: array[edge], arrays)
    else:
      found[layer] = {
        name: jnp.take(array, edge, axis=leaves[layer, name].edge_axis) for name, array in arrays.items()
      }
  return found
