"""SHA-256 over what a checkpoint holds, so that a flipped byte is found when it is read. No JAX here.

Over the content in memory, not over files: a checkpoint may be copied or rewritten, and what counts is what comes back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nas3d_jax.errors import InputError


class DamagedCheckpoint(InputError):
  """A checkpoint that cannot be read, or does not hold what was saved."""


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
