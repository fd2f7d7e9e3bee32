"""Folders for Orbax, which takes the characters of a path for a pattern where it looks for the files of an array.

In a folder such as `run [1]` it finds none: what each process wrote is then never joined to one array, and nothing can
be read. So it gets such a folder by way of a link whose name has no such characters.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nas3d_jax.errors import InputError

_SPECIAL = frozenset("*?[]{}\\")
_JOINED, _OF_A_PROCESS = "manifest.ocdbt", "ocdbt.process_"


@contextlib.contextmanager
def literal(folder: Path) -> Iterator[Path]:
  """The folder itself, or a link to it that lasts as long as the context, where its path could be taken for a pattern.

  Raises:
    InputError: the path of temporary folders could be, too, or no link can be made.
  """
  if not _SPECIAL & set(str(folder)):
    yield folder
    return
  with _temporary(folder) as place:
    link = place / "folder"
    link.symlink_to(folder, target_is_directory=True)
    yield link


@contextlib.contextmanager
def merged(item: Path) -> Iterator[Path]:
  """The folder of an item of arrays, to be read; also one that Orbax did not join, because of its path.

  Raises:
    InputError: as `literal`.
  """
  parts = sorted(item.glob(f"{_OF_A_PROCESS}*"))
  if (item / _JOINED).exists() or len(parts) != 1:
    with literal(item) as found:
      yield found
    return
  with _temporary(item) as place:
    # A single process wrote it: its part is the whole.
    for entry in [*item.iterdir(), *parts[0].iterdir()]:
      (place / entry.name).symlink_to(entry.absolute(), target_is_directory=entry.is_dir())
    yield place


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
  with tempfile.TemporaryDirectory(prefix="nas3d_jax_") as place:
    if _SPECIAL & set(place):
      raise InputError(f"TMPDIR must be a path without any of * ? [ ] {{ }} \\ to reach {folder}, got {place}")
    yield Path(place)
