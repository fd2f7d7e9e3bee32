"""Files and folders that are ours alone: what is written or removed through a link would be somebody else's.

A folder that was received from others may hold links under the names that we use. A link to a file is replaced, or
refused where what is there has to stay; a folder is never emptied through a link.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from nas3d_jax.errors import InputError

# Windows has no links that are followed unasked, and none of these.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_BYTES = getattr(os, "O_BINARY", 0)


def open_new(path: Path) -> BinaryIO:
  """A new file to write; whatever bears its name is removed before, a link and not what it leads to.

  Raises:
    OSError: it cannot be made, or a folder is in its place.
  """
  path.unlink(missing_ok=True)
  return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _BYTES, 0o666), "w+b")


def open_kept(path: Path, *, append: bool = False, make: bool = True) -> BinaryIO:
  """A file to read and write, with what it holds.

  Args:
    path: the file.
    append: whether what is written comes at its end.
    make: whether to make it where it is missing.

  Raises:
    InputError: it is a link, has a second name elsewhere or is no file.
    OSError: it cannot be opened.
  """
  flags = os.O_RDWR | _NO_LINK | _BYTES | (os.O_APPEND if append else 0) | (os.O_CREAT if make else 0)
  try:
    handle = os.open(path, flags, 0o666)
  except OSError:
    if path.is_symlink():
      raise InputError(f"{path} is a link to {os.readlink(path)}; nothing is written through it: remove it") from None
    raise
  found = os.fstat(handle)
  # A file that was just removed by another process has no name at all.
  if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
    os.close(handle)
    raise InputError(f"{path} must be a file of its own, without a second name elsewhere; move it away")
  return os.fdopen(handle, "r+b")


def is_at(file: BinaryIO, path: Path) -> bool:
  """Whether an open file is still the one of this name."""
  try:
    return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
  except FileNotFoundError:
    return False


def own_folder(path: Path) -> Path:
  """Makes a folder where it is missing; a link in its place is removed, and not what it leads to.

  Raises:
    OSError: it cannot be made.
  """
  if path.is_symlink():
    path.unlink()
  path.mkdir(parents=True, exist_ok=True)
  return path


def remove(path: Path) -> None:
  """Removes a folder with what is in it, a file or a link, as far as that goes; not what a link leads to."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path, ignore_errors=True)
  else:
    with contextlib.suppress(OSError):
      path.unlink(missing_ok=True)
