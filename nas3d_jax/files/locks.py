"""One writer a folder: a lock that the system releases when its process ends, however it ends.

The lock is `flock` on a file in the folder. The file names the process, its host and the time for whoever has to wait,
and is removed in the end; one that a killed process left locks nothing. Systems without `fcntl` (Windows) and file
systems that refuse `flock` have no lock; reading takes none.

The package filelock would replace the call of `flock` alone: its lock on a file does not name the holder, and where
there is no `flock` it leaves marks that outlive a killed process.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import writing
from nas3d_jax.files.own_files import is_at, open_kept

try:
  import fcntl
except ImportError:
  fcntl = None

LOCK = ".lock"
_EVERY = 0.02
"""Seconds between two tries of whoever waits for a lock."""
_WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def locked(folder: str | Path, name: str = LOCK, *, wait: float = 0.0, needed: bool = False) -> Iterator[None]:
  """Keeps every other process from writing to a folder.

  Args:
    folder: the folder; made where it is missing, and removed again if nothing was put into it.
    name: of the file in it.
    wait: seconds to wait for another process that has the lock.
    needed: whether to refuse a system or a file system that has no locks.

  Raises:
    InputError: another process has the lock, something else is in the folder's place, or it cannot be written to; or
      there are no locks, where they are needed.
  """
  folder = Path(folder)
  if folder.exists() and not folder.is_dir():
    raise InputError(f"{folder} must be a folder, but there is a file; move it away, or give another folder")
  made = [path for path in (folder, *folder.parents) if not path.exists()]
  try:
    with writing(folder):
      file = _take(folder, folder / name, time.monotonic() + wait, needed)
    try:
      yield
    finally:
      with contextlib.suppress(OSError):
        (folder / name).unlink()
      file.close()
  finally:
    with contextlib.suppress(OSError):
      for path in made:
        path.rmdir()


def holds_nothing(folder: Path) -> bool:
  """Whether a folder is empty, but for a lock and what a killed process had begun to write."""
  return all(path.name == LOCK or (path.name[0] == "." and path.suffix == ".partial") for path in folder.iterdir())


def is_held(path: Path) -> bool:
  """Whether a process holds the lock of a file; not where there is no such file.

  Raises:
    OSError: the file cannot be opened, and is there.
  """
  if fcntl is None:
    return False
  try:
    file = open_kept(path, make=False)
  except FileNotFoundError:
    return False
  with file:
    try:
      # Shared, so that those who ask do not see each other.
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      return True
    except OSError as error:
      if error.errno not in _WITHOUT_LOCKS:
        raise
  return False


def _take(folder: Path, path: Path, until: float, needed: bool) -> BinaryIO:
  """Takes a lock and returns its open file, which holds the lock until it is closed."""
  while True:
    folder.mkdir(parents=True, exist_ok=True)
    try:
      if path.is_symlink():
        path.unlink()  # it is none of ours; what it leads to stays as it is
      file = open_kept(path)
    except FileNotFoundError:
      continue  # whoever made the folder has just removed it
    try:
      if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      elif needed:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    except BlockingIOError:
      other = _read(file)
      file.close()
      if time.monotonic() < until:
        time.sleep(_EVERY)
        continue
      raise InputError(f"another process{other} writes to {folder}; wait for it, or give another folder") from None
    except OSError as error:
      if error.errno not in _WITHOUT_LOCKS:
        file.close()
        raise
      if needed:
        path.unlink(missing_ok=True)
        file.close()
        raise InputError(
          f"several processes cannot share {folder}: it is where there are no locks ({error.strerror}); give each a "
          "folder of its own, or another file system"
        ) from None
    # The former holder may have removed the file after it was opened here and before it was locked.
    if is_at(file, path):
      break
    file.close()
  try:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()}, since {now}\n".encode())
    file.flush()
  except OSError:
    path.unlink(missing_ok=True)
    file.close()
    raise
  return file


def _read(file: BinaryIO) -> str:
  """Who holds a lock, by its file; empty where the file is."""
  file.seek(0)
  text = file.read(200).decode("utf-8", "replace").strip()
  return f" ({text})" if text else ""
