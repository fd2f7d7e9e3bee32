"""Checks of single values."""

from __future__ import annotations

import math
import sys
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


def check_whole(name: str, value: Any, low: int, kind: type = int) -> None:
  """Raises InputError, with the name and the value, unless `is_whole(value, low, kind)`."""
  if not is_whole(value, low, kind):
    raise InputError(f"{name} must be a whole number of at least {low}, got {value!r}")
