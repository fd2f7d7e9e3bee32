"""Checks of single values, and those that the configurations of the commands share."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
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


def check_numbers(config: Any, *, counts: Collection[str], positive: Collection[str]) -> None:
  """Checks fields of a configuration; those that all have, `seed`, `dropout`, `devices`, `skip_nonfinite`, among them.

  Args:
    config: the dataclass instance.
    counts: fields that are whole numbers of at least 1.
    positive: fields that are finite numbers above 0.

  Raises:
    InputError: names the field and its value.
  """
  for name in counts:
    check_whole(name, getattr(config, name), 1)
  for name in positive:
    value = getattr(config, name)
    _require(config, name, is_number(value) and value > 0, "a number above 0")
  for name in ("seed", "skip_nonfinite"):
    check_whole(name, getattr(config, name), 0)
  devices = config.devices is None or is_whole(config.devices, 1)
  _require(config, "devices", devices, "a whole number of at least 1, or None")
  dropout = isinstance(config.dropout, (int, float)) and 0 <= config.dropout < 1
  _require(config, "dropout", dropout, "a number of at least 0 and below 1")


def _require(config: Any, name: str, good: bool, wanted: str) -> None:
  if not good:
    raise InputError(f"{name} must be {wanted}, got {getattr(config, name)!r}")
