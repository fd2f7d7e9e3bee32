"""The same work on many cases at once, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nas3d_jax.runtime.progress_bar import ProgressBar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(what: str, work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
  """`work` of each item, in order, by `workers` threads; `what` stands beside the progress on stderr."""
  results = []
  with ProgressBar(what, len(items)) as bar, ThreadPoolExecutor(workers) as pool:
    for result in pool.map(work, items):
      results.append(result)
      bar.advance()
  return results
