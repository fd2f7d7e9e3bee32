"""What is read of a checkpoint, and that it is what was saved. No JAX here.

`read` stands for the function that gives an item of a step's folder as Orbax gives it back, and raises
`DamagedCheckpoint` where it does not.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nas3d_jax import step_folders
from nas3d_jax.checksums import DamagedCheckpoint, check_arrays, check_value
from nas3d_jax.errors import InputError

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
  """What the run said of itself.

  Raises:
    InputError: a newer nas3d_jax wrote it, or it is none of ours.
    DamagedCheckpoint: as of `checked`.
  """
  found = read(folder, "metadata")
  version = found.get("format_version") if isinstance(found, dict) else None
  whole = isinstance(version, int) and not isinstance(version, bool)
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
  """The number by which the best checkpoint is told, None where a step has none.

  Raises:
    DamagedCheckpoint: as of `checked`.
  """
  sums = _sums(read, folder)
  if not (folder / "metrics").is_dir() and (sums is None or "metrics" not in sums):
    return None
  found = checked(read, folder, "metrics")
  with taking_apart(folder, "metrics"):
    return float(found["best_metric"])


def sound_steps(read: Read, folder: Path, without: int | None = None) -> list[int]:
  """The steps of a `checkpoints` folder, but one, of which all can be read and is what was saved."""
  sound = []
  for step in step_folders.steps_in(folder):
    with contextlib.suppress(InputError):
      if step != without:
        path = folder / str(step)
        metadata(read, path)
        metric(read, path)
        for item in ("input", *ARRAYS):
          checked(read, path, item)
        sound.append(step)
  return sound


@contextlib.contextmanager
def taking_apart(folder: Path, item: str) -> Iterator[None]:
  """Where an item is not as it should be, which only one without checksums can be, it is damaged.

  Raises:
    DamagedCheckpoint: it is.
  """
  try:
    yield
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise DamagedCheckpoint(f"checkpoint {folder} is damaged, in its {item} ({error!r:.100}); {REMEDY}") from error


def unreadable(folder: Path, item: str, reason: str) -> DamagedCheckpoint:
  """What to raise where an item cannot be read."""
  what = f"its {item} is damaged or incomplete ({reason})"
  return DamagedCheckpoint(f"checkpoint {folder} cannot be read, {what}; {REMEDY}")


def refuse_unreadable(folder: Path, error: Exception) -> None:
  """Raises an InputError where it is not the checkpoint's fault that it could not be read, but the system's."""
  if isinstance(error, MemoryError):
    raise InputError(f"checkpoint {folder} cannot be read, there is not enough memory for it") from error
  for path in folder.rglob("*"):
    try:
      if path.is_file():
        path.open("rb").close()
    except OSError as refused:
      if refused.errno not in (errno.EIO, errno.ENOENT):
        raise InputError(
          f"checkpoint {folder} cannot be read ({path.name}: {refused.strerror}); correct the permissions, or what "
          "else the system complains about"
        ) from error


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
