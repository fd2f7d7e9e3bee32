"""Files that appear whole or not at all, and clear errors where a disk is full or read-only."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nas3d_jax.errors import InputError
from nas3d_jax.files.own_files import is_at, open_new

_ROOM, _RIGHTS, _AWAY = "make room", "correct the permissions", "move away what is in its place"
_FILES = "allow the process more open files (ulimit -n)"
_FAULTS = {
  errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EFBIG: _ROOM, errno.EROFS: _RIGHTS, errno.EACCES: _RIGHTS,
  errno.EPERM: _RIGHTS, errno.EISDIR: _AWAY, errno.ENOTDIR: _AWAY, errno.ELOOP: _AWAY, errno.EMFILE: _FILES,
  errno.ENFILE: _FILES, errno.ENAMETOOLONG: "give a shorter name",
}


def reading_remedy(error: OSError) -> str:
  """What helps where the system does not let us read a file, in words that end a message."""
  if error.errno in (errno.EMFILE, errno.ENFILE):
    return _FILES
  return f"{_RIGHTS}, or what else the system complains about"


def write_whole(path: Path, content: str | bytes) -> None:
  """Writes a file as `whole` does.

  Args:
    path: the file, which is replaced.
    content: text, written as UTF-8, or bytes.
  """
  with whole(path) as file:
    file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
  """A file to write, seen on disk before it takes its name: not even a power failure leaves half of it.

  Args:
    path: the file, which is replaced when the context ends without an exception.
  """
  beside = path.with_name(f".{path.name}.partial")
  try:
    with open_new(beside) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
      if not is_at(file, beside):
        raise FileExistsError(errno.EEXIST, "another process writes the same file", str(path))
    os.replace(beside, path)
  except BaseException:
    with contextlib.suppress(OSError):
      beside.unlink(missing_ok=True)
    raise
  sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
  """Sees the names in a folder on disk, where the system can."""
  with contextlib.suppress(OSError):
    handle = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
  """A folder to fill, which takes its name when the context ends without an exception.

  Args:
    path: the folder, which is not there yet; those above it are made.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".partial", dir=path.parent) as beside:
    # One folder further in, because only its own user may enter a temporary one.
    folder = Path(beside, path.name)
    folder.mkdir()
    yield folder
    folder.rename(path)
  sync_folder(path.parent)


@contextlib.contextmanager
def writing(folder: str | Path) -> Iterator[None]:
  """Turns errors of a full or read-only disk, while a folder is written to, into one that names folder and remedy.

  Args:
    folder: what is written to.

  Raises:
    InputError: there is no room, a quota or a limit of the file size is reached, or the permissions do not suffice;
      whether Python raised that or a library in errors of its own.
  """
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    refused = refusal(error, folder)
    if refused is None:
      raise
    raise refused from error


def refusal(error: BaseException, folder: str | Path | None = None) -> InputError | None:
  """The InputError for an error that a disk caused; None if it is of another kind.

  Args:
    error: an OSError, or one whose message holds the system's words for it, as TensorStore's do.
    folder: what was written to; None if that is not known.
  """
  number = getattr(error, "errno", None)
  if number not in _FAULTS:
    text = str(error)
    number = next((number for number in _FAULTS if os.strerror(number) in text), None)
  if number is None:
    return None
  name = getattr(error, "filename", None)
  named = f"{os.fsdecode(name)}: " if isinstance(name, (str, bytes)) else ""
  where = f"{folder} cannot be written to" if folder is not None else "a file or folder cannot be used"
  return InputError(
    f"{where} ({named}{os.strerror(number)}); {_FAULTS[number]}, and run the same command again; what was saved before "
    "is whole"
  )
