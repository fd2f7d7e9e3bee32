"""Checks of single values."""

from __future__ import annotations

import math
import numbers
import os
import sys
from collections.abc import Sequence
from typing import Any

from nas3d_jax.errors import InputError


def is_whole(value: Any, low: float = -math.inf, kind: type = int) -> bool:
  """Whether a value is a whole number of at least `low`; True and False are no numbers.

  Args:
    value: anything.
    low: least number that is allowed.
    kind: of whole number; `numbers.Integral` allows those of NumPy, which JSON does not hold.
  """
  return isinstance(value, kind) and not isinstance(value, bool) and value >= low


def is_number(value: Any) -> bool:
  """Whether a value is a finite number in double precision; True and False are no numbers."""
  return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_whole(name: str, value: Any, low: int, kind: type = int, *, below: int = 1 << 63) -> None:
  """Raises InputError, with the name and the value, unless `is_whole(value, low, kind)` and below a limit.

  Without one given it is that of the machine's whole numbers, beyond which no library here takes them.
  """
  if is_whole(value, below, kind):
    raise InputError(f"{name} must be a whole number of at least {low} and below {below}, got {value!r:.100}")
  if not is_whole(value, low, kind):
    raise InputError(f"{name} must be a whole number of at least {low}, got {value!r}")


PatchSize = int | tuple[int, int, int]
"""Length of a patch in voxels: one along all axes, or one each along D, H and W."""


def axis_lengths(size: PatchSize | Sequence[int]) -> tuple[int, int, int]:
  """The lengths along D, H and W: 64 -> (64, 64, 64)."""
  return (size,) * 3 if isinstance(size, numbers.Integral) else tuple(size)


def patch_size_of(size: Any) -> Any:
  """A patch size in the form in which runs hold it: a number for a cube, else a tuple; what is none stays as it is."""
  if isinstance(size, (list, tuple)) and len(size) == 3:
    return size[0] if is_whole(size[0]) and all(length == size[0] for length in size) else tuple(size)
  return size


def spelled_size(size: PatchSize) -> str:
  """As flags take it: 64, or 40,56,40."""
  return str(size) if isinstance(size, numbers.Integral) else ",".join(map(str, size))


# In bytes, of one name and of a whole path: less than systems take, for the files that are written below and beside it.
_LONGEST_NAME, _LONGEST_PATH = 230, 3800


def path_fault(path: str | os.PathLike[str]) -> str | None:
  """Why a path cannot be used wherever it leads, with the remedy; None if it can.

  Records, checkpoints and reports hold paths as UTF-8, which not every path on disk is.
  """
  text = os.fspath(path)
  if not text:
    return "it is empty; give a path"
  if "\0" in text:
    return "it has the character NUL, which no path can have; leave it out"
  whole = os.path.abspath(text)
  try:
    same = whole.encode("utf-8") == os.fsencode(whole)
  except UnicodeEncodeError:
    same = False
  if not same:
    return f"{whole!r} is not UTF-8 on this disk; rename that folder, or give a link to it that has another name"
  if max(map(len, os.fsencode(whole).split(b"/"))) > _LONGEST_NAME or len(os.fsencode(whole)) > _LONGEST_PATH:
    return f"a name may have {_LONGEST_NAME} bytes and a path {_LONGEST_PATH}; give a shorter one"
  return None


def check_path(name: str, value: str | os.PathLike[str]) -> None:
  """Raises InputError, with the name and the value, where `path_fault` finds one."""
  if (fault := path_fault(value)) is not None:
    raise InputError(f"{name} must be a path that can be used, got {os.fspath(value)!r:.300}: {fault}")
