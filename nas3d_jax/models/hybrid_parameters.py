"""The hybrid parameters of a supernet: their shapes, and the softmax weights that they stand for (section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.search_space import CELLS, direction_of, edge_list, edge_row


def hybrid_shapes(config: NetworkConfig) -> dict[str, tuple[int, int]]:
  """Name and shape [edges, candidates] of each array of hybrid parameters (alpha in section 2.2).

  `<cell>_<direction>` has a row for each edge of that direction, in the order of `edge_list`, and a column for each
  candidate operation of `config.space`. Three nodes and the paper's space: down_normal (3, 5), down_down (6, 6),
  up_normal (6, 5), up_up (3, 4).
  """
  shapes = {}
  for cell in CELLS:
    for direction, names in config.space.candidates.items():
      count = sum(direction_of(cell, state) == direction for _, state in edge_list(config.nodes))
      if count:
        shapes[f"{cell}_{direction}"] = (count, len(names))
  return shapes


def hybrid_weights(hybrid: Mapping[str, Any], config: NetworkConfig) -> dict[str, dict[tuple[int, int], np.ndarray]]:
  """Softmax weights of every hybrid module (equation in section 2.2).

  Args:
    hybrid: the arrays of `hybrid_shapes` by name, or variables of a supernet that hold them.
    config: the supernet's configuration.

  Returns:
    By cell and (node, state), float64 [candidates].

  Raises:
    InputError: an array is missing, misshapen or not finite.
  """
  arrays = hybrid.get("params", hybrid)
  arrays = arrays.get("hybrid", arrays)
  values = {}
  for name, shape in hybrid_shapes(config).items():
    value = np.asarray(arrays[name], np.float64) if name in arrays else None
    if value is None or value.shape != shape:
      got = "nothing" if value is None else f"shape {value.shape}"
      raise InputError(f"hybrid parameters must hold {name!r} of shape {shape} for nodes={config.nodes}, got {got}")
    if not np.isfinite(value).all():
      raise InputError(f"hybrid parameters {name!r} are not finite; the search has diverged, lower its learning rate")
    exponentials = np.exp(value - value.max(axis=-1, keepdims=True))
    values[name] = exponentials / exponentials.sum(axis=-1, keepdims=True)
  return {
    cell: {
      (node, state): values[f"{cell}_{direction_of(cell, state)}"][edge_row(cell, node, state)]
      for node, state in edge_list(config.nodes)
    }
    for cell in CELLS
  }
