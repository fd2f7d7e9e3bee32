"""The folders of a run's checkpoints: lists, keeps, removes and sets them aside."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path

from nas3d_jax.errors import DamagedCheckpoint
from nas3d_jax.files.atomic import writing
from nas3d_jax.files.own_files import remove

UNFINISHED = ".orbax-checkpoint-tmp"
"""In the name of what is being written, or removed; such a folder is never read."""
_LAST = 2


class StepFolders:
  """The steps of a run with their metrics, and what becomes of their folders; one writer at a time.

  Args:
    folder: of the checkpoints; it may be missing.
    metric: reads the metric of a step's folder, None where it has none; raises `DamagedCheckpoint`.
    first: whether to change what is on disk; of several processes that write together, one does.

  Attributes:
    metrics: of every step; None where there is none, or it cannot be read.
    unrated: what is wrong with those whose metric cannot be read; they are not removed.
  """

  def __init__(self, folder: Path, metric: Callable[[Path], float | None], *, first: bool = True):
    self._folder, self._first = folder, first
    self.metrics: dict[int, float | None] = {}
    self.unrated: dict[int, DamagedCheckpoint] = {}
    for step in steps_in(folder):
      try:
        self.metrics[step] = metric(folder / str(step))
      except DamagedCheckpoint as error:
        self.metrics[step], self.unrated[step] = None, error

  @property
  def last(self) -> int | None:
    """The last step, None where there is none."""
    return max(self.metrics, default=None)

  @property
  def best(self) -> int | None:
    """The step with the lowest metric, the later of equals; None where no step has one."""
    known = {step: value for step, value in self.metrics.items() if value is not None and math.isfinite(value)}
    return min(known, key=lambda step: (known[step], -step), default=None)

  def rated_best(self) -> int | None:
    """The same, where every metric is known.

    Raises:
      DamagedCheckpoint: one cannot be read.
    """
    for error in self.unrated.values():
      others = ", ".join(str(step) for step in sorted(self.metrics) if step not in self.unrated) or "none"
      raise DamagedCheckpoint(f"{error}. Without its metric the best cannot be told; the other steps are: {others}")
    return self.best

  def remove_superseded(self) -> None:
    """Removes the steps that are neither the last two nor the best; one half removed does not count as a step.

    Raises:
      InputError: the disk is full, or the permissions do not suffice.
    """
    kept = {*sorted(self.metrics)[-_LAST:], self.best, *self.unrated}
    for step in sorted(set(self.metrics) - kept):
      del self.metrics[step]
      if self._first:
        path = self._folder / f"{step}{UNFINISHED}-removed"
        with writing(self._folder):
          os.replace(self._folder / str(step), path)
          remove(path)

  def renew(self, step: int) -> None:
    """Lets the last step be saved again: the former one stands aside until the new one is whole.

    Raises:
      InputError: the disk is full, or the permissions do not suffice.
    """
    if self._first:
      with writing(self._folder):
        set_aside(self._folder, step)

  def settle(self) -> None:
    """Removes what stood aside, or puts it back where no new one took its place."""
    if self._first:
      settle(self._folder)

  def set_aside(self, step: int) -> Path:
    """Takes out a damaged step; returns its folder's new name, `<step>.damaged`, or `<step>.damaged.2` and so on.

    Raises:
      InputError: the disk is full, or the permissions do not suffice.
    """
    del self.metrics[step]
    self.unrated.pop(step, None)
    number, path = 1, self._folder / f"{step}.damaged"
    while self._first and path.exists():
      number += 1
      path = self._folder / f"{step}.damaged.{number}"
    if self._first:
      with writing(self._folder):
        os.replace(self._folder / str(step), path)
    return path


def steps_in(folder: Path) -> list[int]:
  """The steps that have a finished checkpoint, ascending; none where there is no such folder."""
  entries = folder.iterdir() if folder.is_dir() else ()
  return sorted(int(path.name) for path in entries if _is_number(path.name) and path.is_dir())


def is_step(path: Path) -> bool:
  """Whether a folder looks like the checkpoint of a step, wherever it lies."""
  return UNFINISHED not in path.name and (path / "params").is_dir() and (path / "metadata").is_dir()


def clear_up(folder: Path) -> None:
  """Removes what an interrupted write or removal left, and settles a step that was saved again."""
  for path in folder.glob(f"*{UNFINISHED}*"):
    remove(path)
  settle(folder)


def remove_all(folder: Path) -> None:
  """Removes every checkpoint, also those that were set aside, and then the folder if nothing else is in it.

  Where it is a link, as to a larger disk, its target is emptied and the link stays. Checkpoints are renamed before they
  are removed: those that are half removed would be taken for damaged ones.
  """
  for step in reversed(steps_in(folder)):
    os.replace(folder / str(step), folder / f"{step}{UNFINISHED}-removed")
  for pattern in (f"*{UNFINISHED}*", ".*.former", "*.damaged", "*.damaged.*"):
    for path in folder.glob(pattern):
      if _is_number(path.name.removeprefix(".").split(".")[0]):
        remove(path)
  if not folder.is_symlink():
    with contextlib.suppress(OSError):
      folder.rmdir()


def _is_number(name: str) -> bool:
  return name.isascii() and name.isdecimal() and str(int(name)) == name


def set_aside(folder: Path, step: int) -> None:
  """Renames the checkpoint of a step in a folder of checkpoints, so that the step can be saved again."""
  os.replace(folder / str(step), folder / f".{step}.former")


def settle(folder: Path) -> None:
  """Removes what was set aside, or puts it back where no new one took its place; not while one is being written."""
  for former in folder.glob(".*.former"):
    step = folder / former.name.split(".")[1]
    if step.exists():
      remove(former)
    else:
      os.replace(former, step)
