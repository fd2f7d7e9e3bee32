"""The checksum of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_sum(path: Path) -> str:
  """SHA-256 (hex) of the content of a file.

  Raises:
    OSError: it cannot be read.
  """
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
