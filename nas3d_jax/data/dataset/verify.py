"""Writes the arrays of a data set with checksums, and checks that they still are what was written.

The manifest holds the SHA-256 of every array's file. To read them all takes long, so a file that was compared once is
known by its size and time of change, which `verified.json` in the data set's folder keeps, and is compared again only
where these differ: after a copy, or when something wrote to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nas3d_jax.data.dataset.case import Case
from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import write_whole
from nas3d_jax.files.hashing import sum_or_none
from nas3d_jax.files.own_files import open_new
from nas3d_jax.files.run_layout import CASES, VERIFIED
from nas3d_jax.files.strict_json import parse_json, refuse_unreadable
from nas3d_jax.runtime.parallel import each

_MOST_WORKERS = 4


def verify(folder: Path, cases: Sequence[Case], *, everything: bool = False) -> None:
  """Compares the arrays of cases with the checksums in the manifest; of cases without checksums none.

  Args:
    folder: of the data set.
    cases: all of its cases.
    everything: whether to read every file, known or not.

  Raises:
    InputError: an array was changed; all that were are named.
  """
  sums = {f"{CASES}/{case.name}/{name}": value for case in cases for name, value in (case.arrays or {}).items()}
  stamps = {name: _stamp(folder / name, value) for name, value in sums.items()}
  known = {} if everything else _read(folder / VERIFIED)
  unknown = [name for name, stamp in stamps.items() if known.get(name) != stamp]
  if not unknown:
    return
  for name in unknown:
    _check_readable(folder / name)
  found = each("check the data set", lambda name: sum_or_none(folder / name), unknown, _MOST_WORKERS)
  changed = [name for name, value in zip(unknown, found, strict=True) if value != sums[name]]
  if changed:
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    raise InputError(f"{', '.join(changed[:5])}{more} changed since preprocess wrote it: the checksum does not fit")
  _write(folder, stamps)


def _check_readable(path: Path) -> None:
  """Raises Unreadable for a file that the system does not let us read, which is no change of it."""
  try:
    path.open("rb").close()
  except OSError as error:
    refuse_unreadable(path, error)  # what is not there is changed


def vouch(folder: Path, cases: Sequence[Case]) -> None:
  """Notes that the arrays of cases fit their checksums, as when they were just written."""
  sums = {f"{CASES}/{case.name}/{name}": value for case in cases for name, value in (case.arrays or {}).items()}
  _write(folder, {name: _stamp(folder / name, value) for name, value in sums.items()})


def store_array(path: Path, array: np.ndarray) -> str:
  """Writes an array as `.npy` and sees it on disk; returns the SHA-256 (hex) of the file."""
  with open_new(path) as file:
    stream = _Summed(file)
    np.save(stream, array, allow_pickle=False)
    file.flush()
    os.fsync(file.fileno())
  return stream.sum.hexdigest()


class _Summed:
  """A file that takes the checksum of what is written to it."""

  def __init__(self, file: BinaryIO):
    self._file, self.sum = file, hashlib.sha256()

  def write(self, data: bytes) -> int:
    self.sum.update(data)
    return self._file.write(data)


def _stamp(path: Path, value: str) -> list[Any] | None:
  try:
    found = os.stat(path)
  except OSError:
    return None
  return [found.st_size, found.st_mtime_ns, value]


def _read(path: Path) -> dict[str, Any]:
  """What was compared before; without it, or where it is damaged, everything is compared anew."""
  try:
    content = parse_json(path.read_bytes())
  except (OSError, ValueError):
    return {}
  return content if isinstance(content, dict) else {}


def _write(folder: Path, stamps: dict[str, Any]) -> None:
  # A data set that can only be read is compared each time.
  with contextlib.suppress(OSError):
    if _read(folder / VERIFIED) != stamps:
      write_whole(folder / VERIFIED, json.dumps(stamps, indent=1) + "\n")
