"""Reads JSON from anywhere more strictly than Python does, and writes JSON files whole."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nas3d_jax.errors import InputError, Unreadable
from nas3d_jax.files.atomic import reading_remedy, write_whole

MOST_NESTED = 64
"""Levels of lists and objects: what comes after can walk and print such a value without running out of stack."""
_LARGEST = sys.float_info.max
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(content: bytes | str) -> Any:
  """The value of a JSON text, as RFC 8259 means it.

  Args:
    content: the text, or its bytes in UTF-8.

  Raises:
    InputError: it is no JSON, or no plain value (see `check_plain`), or an object has a name twice. The message gives
      the reason; the caller adds the place and the remedy.
  """
  try:
    # Editors on Windows put a byte order mark in front.
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content.removeprefix("\ufeff")
    value = json.loads(text, object_pairs_hook=_object)
  except InputError:
    raise
  except ValueError as error:  # no UTF-8, no JSON, or a number of thousands of digits
    raise InputError(str(error)) from None
  except RecursionError:
    raise InputError(f"it is nested more than {MOST_NESTED} deep") from None
  check_plain(value)
  return value


def check_plain(value: Any, most: int | None = None) -> None:
  """Checks that a value is safe to walk, to print and to calculate with.

  Args:
    value: lists, mappings, texts, numbers, True, False, None.
    most: most values in it, each counted as often as it can be reached; None for any number.

  Raises:
    InputError: it is nested more than 64 deep (or holds itself), a number is not finite or beyond double precision, a
      text has half of a surrogate pair, which no file takes, or NUL, which no name of a file takes, something is of
      another type, or there are too many.
  """
  left, seen = [(value, 0)], 0
  while left:
    item, depth = left.pop()
    seen += 1
    if most is not None and seen > most:
      raise InputError(f"it holds more than {most} values")
    if isinstance(item, (Mapping, list, tuple)):
      if depth == MOST_NESTED:
        raise InputError(f"it is nested more than {MOST_NESTED} deep")
      if isinstance(item, Mapping):
        left.extend((key, depth + 1) for key in item)
        item = item.values()
      left.extend((entry, depth + 1) for entry in item)
    elif isinstance(item, str):
      if _SURROGATE.search(item):
        raise InputError(f"text {item!r:.80} has half of a surrogate pair")
      if "\0" in item:
        raise InputError(f"text {item!r:.80} has the character NUL")
    elif isinstance(item, (int, float)):
      if not abs(item) <= _LARGEST:  # NaN fails too; a whole number is compared exactly
        raise InputError("a number in it is not finite, or too large")
    elif item is not None:
      raise InputError(f"a value in it is of type {type(item).__name__}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    raise InputError(f"an object has {twice[0]!r:.80} twice")
  return found


def read_file(path: Path, remedy: str, *, missing: str | None = None) -> bytes:
  """The content of a file.

  Args:
    path: the file.
    remedy: what helps where it is not there, in words that end the message; it is of this file, not of files at large.
    missing: the same where another remedy helps then.

  Raises:
    InputError: there is no such file; as `Unreadable`, the system does not let us read it, which is no damage.
  """
  try:
    return path.read_bytes()
  except FileNotFoundError as error:
    raise InputError(f"{path} is missing; {missing or remedy}") from error
  except OSError as error:
    raise Unreadable(f"{path} cannot be read ({error.strerror}); {reading_remedy(error)}") from error
  except ValueError as error:  # a name that no file can have
    raise InputError(f"{str(path)!r} is no name of a file ({error}); {remedy}") from error


def refuse_unreadable(path: Path, error: Exception) -> None:
  """Raises Unreadable where an error means that the system does not let us read a file, and not that it is none.

  Such are refused permissions, too many open files, no memory for it.
  """
  damage = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
  if isinstance(error, OSError) and error.strerror and not isinstance(error, damage):
    raise Unreadable(f"{path} cannot be read ({error.strerror}); {reading_remedy(error)}") from error


def read_json(path: Path, remedy: str, *, missing: str | None = None) -> dict[str, Any]:
  """The object in a JSON file.

  Args:
    path: the file.
    remedy: what helps where it is damaged, see `read_file`.
    missing: what helps where it is not there; None means the same.

  Raises:
    InputError: there is no such file, it cannot be read (as `Unreadable`), or it holds no JSON object.
  """
  content = read_file(path, remedy, missing=missing)
  try:
    value = parse_json(content)
  except InputError as error:
    raise InputError(f"{path} is no JSON: {error}; {remedy}") from error
  if not isinstance(value, dict):
    raise InputError(f"{path} must hold a JSON object, got {type(value).__name__}; {remedy}")
  return value


def read_records(path: Path) -> Iterator[dict[str, Any]]:
  """The objects of a file with one a line, in order; none without the file.

  A last line without end is left out: it is still being written, or was when its process was killed.

  Raises:
    InputError: the file cannot be read, or, when its turn comes, a line holds no JSON object.
  """
  try:
    content = read_file(path, "remove it") if path.exists() else b""
    for line in content.splitlines(keepends=True):
      if line.endswith(b"\n"):
        record = parse_json(line)
        if not isinstance(record, dict):
          raise InputError(f"{record!r:.80} is no JSON object")
        yield record
  except Unreadable:
    raise
  except InputError as error:
    raise InputError(f"{path} is damaged ({error}); run with --overwrite, or remove the line") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
  """Writes an object as readable JSON, whole or not at all.

  Raises:
    InputError: `parse_json` would refuse it, as it would a name that is not UTF-8. Nothing is written.
  """
  try:
    check_plain(value)
  except InputError as error:
    raise InputError(f"{path} cannot be written: {error}; rename what is called so, or correct it") from error
  write_whole(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
