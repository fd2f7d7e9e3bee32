"""The checksum of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


def file_sum(path: Path) -> str:
  """SHA-256 (hex) of the content of a file.

  Raises:
    OSError: it cannot be read.
  """
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def sum_or_none(path: Path) -> str | None:
  """SHA-256 (hex) of the content of a file, None where it cannot be read."""
  try:
    return file_sum(path)
  except OSError:
    return None


def file_sums(paths: Mapping[str, Path]) -> dict[str, str] | None:
  """SHA-256 (hex) of each of some files, by the same names; None where one cannot be read."""
  sums = {name: sum_or_none(path) for name, path in paths.items()}
  return None if None in sums.values() else sums
