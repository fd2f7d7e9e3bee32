"""Reads a checkpoint and checks that it is what was saved.

Checksums are SHA-256 over the content in memory, not over files: a checkpoint may be copied or rewritten, and what
counts is what comes back.

`read` stands for the function that returns an item of a step's folder as Orbax restores it, and raises
`DamagedCheckpoint` where Orbax does not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nas3d_jax.checkpointing import step_folders
from nas3d_jax.errors import DamagedCheckpoint, InputError
from nas3d_jax.files.atomic import reading_remedy
from nas3d_jax.validation import is_whole

FORMAT_VERSION = 1
ARRAYS, VALUES, CHECKSUMS = ("params", "training"), ("metadata", "input", "metrics"), "checksums"
REMEDY = "use another checkpoint of the run, or copy it again"

Read = Callable[[Path, str], Any]


def checked(read: Read, folder: Path, item: str) -> Any:
  """An item of a step.

  Raises:
    DamagedCheckpoint: it cannot be read, or is not what was saved.
  """
  value = read(folder, item)
  _compare(read, folder, item, value)
  return value


def metadata(read: Read, folder: Path) -> dict[str, Any]:
  """The metadata of a step, plain JSON values.

  Raises:
    InputError: a newer nas3d_jax wrote it, or another program.
    DamagedCheckpoint: see `checked`.
  """
  found = read(folder, "metadata")
  version = found.get("format_version") if isinstance(found, dict) else None
  whole = is_whole(version)
  # Before the checksum, because what a newer version wrote must not be taken for damaged.
  if whole and version > FORMAT_VERSION:
    raise InputError(
      f"checkpoint {folder} has format version {version}, this nas3d_jax reads up to {FORMAT_VERSION}; update "
      "nas3d_jax, or move the folder away to go on without it"
    )
  _compare(read, folder, "metadata", found)
  if not whole:
    raise InputError(f"no checkpoint of nas3d_jax in {folder}: metadata has no format_version")
  return found


def metric(read: Read, folder: Path) -> float | None:
  """The metric of a step, of which the best checkpoint has the lowest; None where it has none.

  Raises:
    DamagedCheckpoint: see `checked`.
  """
  sums = _sums(read, folder)
  if not (folder / "metrics").is_dir() and (sums is None or "metrics" not in sums):
    return None
  found = checked(read, folder, "metrics")
  with taking_apart(folder, "metrics"):
    return float(found["best_metric"])


def sound_steps(read: Read, folder: Path, without: int | None = None) -> list[int]:
  """The steps of a `checkpoints` folder, except `without`, that can be read whole and are what was saved."""
  sound = []
  for step in step_folders.steps_in(folder):
    with contextlib.suppress(InputError):
      if step != without:
        check_whole(read, folder / str(step))
        sound.append(step)
  return sound


def check_whole(read: Read, folder: Path) -> None:
  """Reads everything of a step.

  Raises:
    InputError: something cannot be read, or is not what was saved.
  """
  metadata(read, folder)
  metric(read, folder)
  for item in ("input", *ARRAYS):
    checked(read, folder, item)


@contextlib.contextmanager
def taking_apart(folder: Path, item: str) -> Iterator[None]:
  """Turns errors over the structure of an item, which only one without checksums can cause, into damage.

  Raises:
    DamagedCheckpoint: the item has not the structure that the code in the context expects.
  """
  try:
    yield
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise DamagedCheckpoint(f"checkpoint {folder} is damaged, in its {item} ({error!r:.100}); {REMEDY}") from error


def unreadable(folder: Path, item: str, reason: str) -> DamagedCheckpoint:
  """The error for an item that cannot be read."""
  what = f"its {item} is damaged or incomplete ({reason})"
  return DamagedCheckpoint(f"checkpoint {folder} cannot be read, {what}; {REMEDY}")


def refuse_unreadable(folder: Path, *, scarce: bool = False) -> None:
  """Raises an InputError where it is not the checkpoint's fault that it could not be read, but the system's.

  Args:
    folder: of the step.
    scarce: whether memory ran out.
  """
  if scarce:
    raise InputError(f"checkpoint {folder} cannot be read, there is not enough memory for it")
  for path in (folder, *folder.rglob("*")):
    try:
      if path.is_file():
        path.open("rb").close()
      else:
        os.scandir(path).close()
    except OSError as refused:
      if refused.errno not in (errno.EIO, errno.ENOENT, errno.ENOTDIR):
        raise InputError(
          f"checkpoint {folder} cannot be read ({path.name}: {refused.strerror}); {reading_remedy(refused)}"
        ) from refused


def _compare(read: Read, folder: Path, item: str, value: Any) -> None:
  sums = _sums(read, folder)
  if sums is None:
    return
  try:
    (check_arrays if item in ARRAYS else check_value)(value, sums.get(item))
  except DamagedCheckpoint as error:
    raise DamagedCheckpoint(f"checkpoint {folder} is damaged, in its {item}: {error}; {REMEDY}") from None


def _sums(read: Read, folder: Path) -> Mapping[str, Any] | None:
  """The checksums of a step, None where it is from before there were any."""
  if not (folder / CHECKSUMS).is_dir():
    return None
  sums = read(folder, CHECKSUMS)
  return sums if isinstance(sums, Mapping) else {}


def array_sums(tree: Mapping[str, Any]) -> dict[str, str]:
  """SHA-256 (hex) of each array's dtype, shape and bytes, by its path, the keys with `/` between.

  Args:
    tree: nested dictionaries of NumPy arrays.
  """
  return {path: _array_sum(np.asarray(array)) for path, array in _leaves(tree, "")}


def value_sum(value: Any) -> str:
  """SHA-256 (hex) of a plain JSON value: of its text with sorted keys, no spaces and ASCII alone."""
  text = json.dumps(value, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode("ascii")).hexdigest()


def check_arrays(tree: Any, expected: Any) -> None:
  """Compares arrays with their checksums.

  Raises:
    DamagedCheckpoint: arrays are other than they were, missing or surplus; names the first three.
  """
  found = array_sums(tree) if isinstance(tree, Mapping) else {}
  if not isinstance(expected, Mapping) or found != expected:
    expected = expected if isinstance(expected, Mapping) else {}
    other = sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path))
    more = f" and {len(other) - 3} more" if len(other) > 3 else ""
    raise DamagedCheckpoint(f"the checksum of {', '.join(other[:3]) or 'all'}{more} does not fit")


def check_value(value: Any, expected: Any) -> None:
  """Compares a plain JSON value with its checksum.

  Raises:
    DamagedCheckpoint: it is another than it was.
  """
  if value_sum(value) != expected:
    raise DamagedCheckpoint("its checksum does not fit")


def _leaves(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, f"{path}{name}/")
    else:
      yield f"{path}{name}", value


def _array_sum(array: np.ndarray) -> str:
  digest = hashlib.sha256(f"{array.dtype.name}{list(array.shape)}".encode())
  digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return digest.hexdigest()
