"""The same work on many cases at once, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nas3d_jax.runtime.progress_bar import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(what: str, work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
  """`work` of each item, in order, by `workers` threads; `what` stands beside a bar on stderr."""
  results = []
  with progress_bar(remaining=True) as bar, ThreadPoolExecutor(workers) as pool:
    task = bar.add_task(what, total=len(items))
    for result in pool.map(work, items):
      results.append(result)
      bar.advance(task)
  return results
