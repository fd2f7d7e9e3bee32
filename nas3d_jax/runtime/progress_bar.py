"""The one progress bar: on stderr, with what is done beside it."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar(*, elapsed: bool = False, remaining: bool = False, silent: bool = False) -> Progress:
  """A bar for each task: its description, the bar, how many of how many.

  Args:
    elapsed: whether the time since the task began stands behind.
    remaining: whether the time that is left stands behind.
    silent: whether nothing is shown.
  """
  times = ([TimeElapsedColumn()] if elapsed else []) + ([TimeRemainingColumn()] if remaining else [])
  columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times
  return Progress(*columns, console=Console(stderr=True), disable=silent)
