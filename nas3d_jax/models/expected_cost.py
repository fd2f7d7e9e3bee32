"""The cost of the network that hybrid parameters stand for, differentiable in them.

A node of the derived network keeps two edges, and each of them one operation (section 2.4). With p the softmax weights,
and c the cost of an operation on an edge in all cells of its kind,

    cost = sum over cells, nodes and the two edges that `Genotype.from_hybrid` would keep now, of sum_o p_o c_o

so that it is exact where the weights are settled. It moves the operations of edges that are kept; which edges those are
counts as given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.flops import operation_flops
from nas3d_jax.models.hybrid_parameters import hybrid_shapes
from nas3d_jax.models.operations import layer_shapes
from nas3d_jax.models.search_space import CELLS, direction_of, edge_list, edge_row
from nas3d_jax.validation import PatchSize

CostKind = Literal["flops", "parameters"]
"""What is counted; time is measured, see `training.operation_times`."""


def operation_costs(config: NetworkConfig, kind: CostKind, patch_size: PatchSize) -> dict[str, np.ndarray]:
  """The cost of each candidate in all cells of a kind: by name of the hybrid parameters, float64 [candidates].

  Args:
    config: of the supernet.
    kind: "flops", floating-point operations of a forward pass (see `flops.forward_flops`), or "parameters".
    patch_size: length of the patch in voxels; one, or one an axis. Parameters do not depend on it.

  Raises:
    InputError: the search space has operations of the user's own, whose cost is not known.
  """
  if config.space.custom:
    names = ", ".join(operation.name for operation in config.space.custom)
    raise InputError(f"the cost of operations of one's own is not known, got {names}; give cost=time to measure it")
  found = {}
  for name in hybrid_shapes(config):
    cell, direction = name.split("_")
    count = config.depth + (cell == "up")
    found[name] = np.array(
      [
        sum(_cost(operation, f"{cell}_{level}", config, kind, patch_size) for level in range(count))
        for operation in config.space.candidates[direction]
      ]
    )
  return found


def make_expected_cost(
  config: NetworkConfig, costs: Mapping[str, Sequence[float] | np.ndarray]
) -> Callable[[Mapping[str, jax.Array]], jax.Array]:
  """The cost of hybrid parameters, relative to the mean over the genotypes of the search space.

  Args:
    config: of the supernet.
    costs: of each candidate in all cells of a kind, by name of the hybrid parameters, in any unit: `operation_costs`.

  Returns:
    A function: hybrid parameters by name, float32 [edges, candidates] -> float32 scalar, 1 for a cost as of a random
    genotype.
  """
  costs = {name: np.asarray(row, np.float64) for name, row in costs.items()}
  mean = _mean_cost(config, costs)

  def expected(hybrid: Mapping[str, jax.Array]) -> jax.Array:
    weights = {name: jax.nn.softmax(alpha) for name, alpha in hybrid.items()}
    total = jnp.float32(0)
    for cell in CELLS:
      for node in range(config.nodes):
        strengths, of_edges = [], []
        for state in range(node + 2):
          name = f"{cell}_{direction_of(cell, state)}"
          row = weights[name][edge_row(cell, node, state)]
          strengths.append(row.max() * row.size)
          of_edges.append((row * jnp.asarray(costs[name] / mean, jnp.float32)).sum())
        # Of equals the first, as a genotype keeps them.
        kept = jnp.argsort(-jax.lax.stop_gradient(jnp.stack(strengths)), stable=True)[:2]
        total += jnp.stack(of_edges)[kept].sum()
    return total

  return expected


def _mean_cost(config: NetworkConfig, costs: Mapping[str, np.ndarray]) -> float:
  """Of the pairs of edges of each node and of their operations, all as likely."""
  total = 0.0
  for cell in CELLS:
    for node, state in edge_list(config.nodes):
      total += costs[f"{cell}_{direction_of(cell, state)}"].mean() * 2 / (node + 2)
  return total


def _cost(operation: str, cell: str, config: NetworkConfig, kind: CostKind, patch_size: PatchSize) -> float:
  if kind == "flops":
    return operation_flops(operation, cell, config, patch_size)
  layers = layer_shapes(operation, config.cell_channels(cell), config.variant)
  return float(sum(np.prod(shape) for arrays in layers.values() for shape in arrays.values()))
