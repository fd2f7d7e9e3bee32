"""Shards: several processes predict into one folder, each its share of the cases.

Each shard holds a lock of its own in the folder, and a run of all cases the folder's; whoever comes takes theirs first
and looks for the others' then, so that of two that exclude each other at most one goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from nas3d_jax.errors import InputError
from nas3d_jax.files.locks import LOCK, is_held, locked

MOST_SHARDS = 100_000
WAIT = 2.0
"""Seconds that a lock may be held by another shard that looks whether it is a dead one's."""
_LOCK = re.compile(r"\.shard-\d+-of-(\d+)\.lock")
_ARRAY = "SLURM_ARRAY_TASK_"
_OFF = "give --shard=K/N, or --shard=1/1 to predict all cases in this process"


class Shard(NamedTuple):
  """Part `number` of `count`, from 1."""

  number: int
  count: int

  def __str__(self):
    return f"{self.number}/{self.count}"

  @property
  def lock(self) -> str:
    """Name of its lock."""
    return f".shard-{self.number}-of-{self.count}.lock"

  def of(self, names: Iterable[str]) -> frozenset[str]:
    """Its part of some names: sorted, they are dealt to the shards in turn, whatever lies on disk."""
    return frozenset(sorted(set(names))[self.number - 1 :: self.count])


@dataclasses.dataclass(frozen=True)
class Share:
  """A shard and its cases.

  Attributes:
    shard: which.
    cases: their names.
  """

  shard: Shard
  cases: frozenset[str]

  def others_write(self, folder: Path) -> bool:
    """Whether other shards of the same number write to a folder now."""
    return any(is_held(path) for path in _locks(folder) if path.name != self.shard.lock)


def parse_shard(text: str) -> Shard:
  """`"2/8"` -> Shard(2, 8).

  Raises:
    InputError: it is none.
  """
  found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text) if isinstance(text, str) else None
  number, count = map(int, found.groups()) if found else (0, 0)
  if not 1 <= number <= count <= MOST_SHARDS:
    raise InputError(
      f"shard must be K/N, the part K, from 1 to N, of N parts of the cases, at most {MOST_SHARDS}, got "
      f"{text!r:.100}; give 2/8, say, or 1/1 for all cases"
    )
  return Shard(number, count)


def shard_of_array(environ: Mapping[str, str]) -> Shard | None:
  """The shard that a task of a SLURM job array stands for, by the place of its ID among those of the array.

  SLURM tells the ID of the task, the lowest and highest of the array, their number and their step; from that the place
  follows where the IDs are evenly spaced, as of `--array=0-7` or `--array=1-15:2`.

  Args:
    environ: environment variables.

  Returns:
    The shard; None outside of an array, and in one of a single task.

  Raises:
    InputError: the variables contradict each other, or the IDs are not evenly spaced.
  """
  if f"{_ARRAY}ID" not in environ:
    return None
  names = [f"{_ARRAY}{name}" for name in ("ID", "MIN", "MAX", "COUNT", "STEP")]
  for name in names:
    if not re.fullmatch("[0-9]{1,9}", environ.get(name, "")):
      raise InputError(f"{name} of this SLURM array must be a whole number, got {environ.get(name)!r:.100}; {_OFF}")
  task, low, high, count, step = (int(environ[name]) for name in names)
  if count == 1 and task == low == high:
    return None
  place, rest = divmod(task - low, step or 1)
  even = step > 0 and 1 < count <= MOST_SHARDS and high == low + step * (count - 1)
  if not even or rest or not 0 <= place < count:
    said = ", ".join(f"{name}={environ[name]}" for name in names)
    raise InputError(f"which part of the cases this task of a SLURM array has does not follow from {said}; {_OFF}")
  return Shard(place + 1, count)


@contextlib.contextmanager
def writing_to(folder: Path, shard: Shard | None) -> Iterator[None]:
  """Keeps others from writing to a folder: all other processes, or those that are not another shard of the same number.

  Args:
    folder: the folder of predictions.
    shard: which one writes; None where this process predicts all cases.

  Raises:
    InputError: such a process writes to it, or there are no locks, without which shards would harm each other.
  """
  with locked(folder, shard.lock if shard else LOCK, needed=shard is not None):
    theirs = [path for path in _locks(folder) if not shard or int(_LOCK.fullmatch(path.name)[1]) != shard.count]
    for path in [*theirs, *[folder / LOCK] * (shard is not None and (folder / LOCK).exists())]:
      # One that a killed process left goes; other shards may be about to remove it too.
      with locked(folder, path.name, wait=WAIT):
        pass
    yield


def _locks(folder: Path) -> list[Path]:
  """The locks of shards that are in a folder, held or left by killed processes."""
  return sorted(path for path in folder.glob(".shard-*.lock") if _LOCK.fullmatch(path.name))
