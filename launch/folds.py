"""The flag --fold: the number of a fold, or all."""

from __future__ import annotations

from typing import Literal


def parse_fold(text: str) -> int | Literal["all"]:
  """`"2"` -> 2, `"all"` -> "all".

  Raises:
    InputError: it is neither.
  """
  from nas3d_jax.errors import InputError

  if text == "all":
    return "all"
  if not text.isdecimal():
    raise InputError(f"--fold must be the number of a fold, from 0, or all, got {text!r}")
  return int(text)
