"""Checks that the configurations of the commands share."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from nas3d_jax.errors import InputError


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
    _require(config, name, _is_whole(getattr(config, name), 1), "a whole number of at least 1")
  for name in positive:
    value = getattr(config, name)
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    _require(config, name, good, "a number above 0")
  for name in ("seed", "skip_nonfinite"):
    _require(config, name, _is_whole(getattr(config, name), 0), "a whole number of at least 0")
  devices = config.devices is None or _is_whole(config.devices, 1)
  _require(config, "devices", devices, "a whole number of at least 1, or None")
  dropout = isinstance(config.dropout, (int, float)) and 0 <= config.dropout < 1
  _require(config, "dropout", dropout, "a number of at least 0 and below 1")


def _is_whole(value: Any, low: int) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _require(config: Any, name: str, good: bool, wanted: str) -> None:
  if not good:
    raise InputError(f"{name} must be {wanted}, got {getattr(config, name)!r}")
