"""What is recorded of the genotypes of a search: how often each was read, and how settled."""

from __future__ import annotations

from typing import Any

import numpy as np

from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.search_space import CELLS, PAPER_SPACE, SearchSpace


class GenotypeCounts:
  """Counts of genotypes, the latest last; equal structures are one, whatever the order of their rows."""

  def __init__(self):
    # Python's dictionaries keep the order of insertion: a genotype that is counted again moves to the end.
    self._counts: dict[Genotype, int] = {}

  def __getitem__(self, genotype: Genotype) -> int:
    return self._counts.get(genotype, 0)

  @property
  def total(self) -> int:
    """How many were counted, which is the number of epochs begun, but for those of a warm-up."""
    return sum(self._counts.values())

  def add(self, genotype: Genotype) -> None:
    """Counts a genotype once more."""
    self._counts[genotype] = self._counts.pop(genotype, 0) + 1

  def most_common(self) -> Genotype:
    """The genotype with the highest count, of equals the one that was counted last."""
    return max(reversed(self._counts), key=self._counts.__getitem__)

  def to_list(self) -> list[dict[str, Any]]:
    """Plain values, for JSON, in order."""
    return [{"count": count, **rows_of(genotype)} for genotype, count in self._counts.items()]

  @classmethod
  def from_list(cls, entries: list[dict[str, Any]], space: SearchSpace = PAPER_SPACE) -> GenotypeCounts:
    """The inverse of `to_list`, of genotypes of a search space."""
    counts = cls()
    for entry in entries:
      counts._counts[Genotype(**{cell: entry[cell] for cell in CELLS}, space=space)] = entry["count"]
    return counts


def rows_of(genotype: Genotype) -> dict[str, list[list[Any]]]:
  """The rows of both cells as plain values, for JSON; `Genotype(**rows, space=space)` is the inverse."""
  return {cell: [list(row) for row in getattr(genotype, cell)] for cell in CELLS}


def describe(weights: dict[str, dict[tuple[int, int], np.ndarray]]) -> dict[str, Any]:
  """Softmax weights of each hybrid module and their entropy in nats; of a cell the mean entropy of its modules."""
  modules = {
    cell: [
      {"node": node, "state": state, "weights": row.tolist(), "entropy": _entropy(row)}
      for (node, state), row in weights[cell].items()
    ]
    for cell in CELLS
  }
  entropy = {cell: float(np.mean([module["entropy"] for module in modules[cell]])) for cell in CELLS}
  return {"hybrid_weights": modules, "entropy": entropy}


def _entropy(weights: np.ndarray) -> float:
  positive = weights[weights > 0]  # 0 log 0 is 0
  return float(-(positive * np.log(positive)).sum())
