"""How alike genotypes are, what chance would give, and how much of one computes nothing that is learned."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Set
from typing import Any

from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.search_space import CELLS, Row, direction_of, family

PARAMETER_FREE = ("pool", "identity")
"""Families without a kernel; a search that collapses chooses little else (Zela et al. 2020)."""


def row_overlap(first: Genotype, second: Genotype) -> float:
  """Part of the rows of a genotype that another has at the same node; 0 where they differ in nodes."""
  return _overlap(first, second, lambda rows: rows)


def edge_overlap(first: Genotype, second: Genotype) -> float:
  """The same of the edges alone, whatever their operations."""
  return _overlap(first, second, lambda rows: {state for _, state in rows})


def _overlap(first: Genotype, second: Genotype, seen: Callable[[frozenset[Row]], Set[Any]]) -> float:
  """The same of what is seen of the rows of each node."""
  if first.nodes != second.nodes:
    return 0.0
  pairs = zip(itertools.chain(*first.structure()), itertools.chain(*second.structure()), strict=True)
  return sum(len(seen(one) & seen(other)) for one, other in pairs) / (2 * first.nodes * len(CELLS))


def chance_overlap(config: NetworkConfig) -> tuple[float, float]:
  """The mean `edge_overlap` and `row_overlap` of two genotypes that are drawn as `random_genotype` draws them."""
  edges = rows = 0.0
  for cell in CELLS:
    for node in range(config.nodes):
      counts = [len(config.space.candidates[direction_of(cell, state)]) for state in range(node + 2)]
      pairs = list(itertools.combinations(range(len(counts)), 2))
      every = sum(counts[one] * counts[other] for one, other in pairs)
      for state, count in enumerate(counts):
        # How often a genotype has this edge.
        kept = sum(counts[one] * counts[other] for one, other in pairs if state in (one, other)) / every
        edges += kept**2
        rows += kept**2 / count
  places = 2 * config.nodes * len(CELLS)
  return edges / places, rows / places


def parameter_free_share(genotype: Genotype) -> float:
  """Part of the rows whose operation is a pool or the identity."""
  rows = genotype.down + genotype.up
  return sum(family(operation) in PARAMETER_FREE for operation, _ in rows) / len(rows)
