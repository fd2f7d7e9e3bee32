"""Genotypes drawn at random: what a search has to beat (Li and Talwalkar 2019; Yu et al. 2020)."""

from __future__ import annotations

import itertools
import random

from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.search_space import CELLS, CellKind, Row, direction_of


def random_genotype(config: NetworkConfig, seed: int) -> Genotype:
  """A genotype out of the search space of a network; each of them is drawn as often as any other.

  Args:
    config: nodes and candidate operations.
    seed: of the draw, a whole number; the same one gives the same genotype in all versions of Python.
  """
  numbers = random.Random(seed)
  cells = {}
  for cell in CELLS:
    nodes = [_choices(cell, node, config) for node in range(config.nodes)]
    # `random()` alone is promised to stay as it is.
    cells[cell] = tuple(row for choices in nodes for row in choices[int(numbers.random() * len(choices))])
  return Genotype(**cells, space=config.space)


def _choices(cell: CellKind, node: int, config: NetworkConfig) -> list[tuple[Row, Row]]:
  """All that a node can be: two rows, from different states."""
  candidates = config.space.candidates
  rows = [[(name, state) for name in candidates[direction_of(cell, state)]] for state in range(node + 2)]
  return [pair for states in itertools.combinations(rows, 2) for pair in itertools.product(*states)]
