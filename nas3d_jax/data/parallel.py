"""The same work on many cases at once, with a progress bar. No JAX here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(what: str, work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
  """`work` of each item, in order, by `workers` threads; `what` stands beside a bar on stderr."""
  columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
  results = []
  with Progress(*columns, console=Console(stderr=True)) as bar, ThreadPoolExecutor(workers) as pool:
    task = bar.add_task(what, total=len(items))
    for result in pool.map(work, items):
      results.append(result)
      bar.advance(task)
  return results
