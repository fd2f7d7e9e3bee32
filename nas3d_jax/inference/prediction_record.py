"""The record of a folder of predictions, `predictions.json`: read strictly, and compared.

    "format", "version"
    "settings"    schema, checkpoints, geometry, patch size, inference, what is written
    "cases"       {case: {file: SHA-256 of the images}, null until done}: all cases of the run, of all shards
    "missing"     {case: modalities that it lacks}, where any does
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas3d_jax.data.dataset.case import is_file_name
from nas3d_jax.errors import InputError, Unreadable
from nas3d_jax.files.atomic import reading_remedy
from nas3d_jax.files.run_layout import PREDICTIONS_JSON
from nas3d_jax.files.strict_json import parse_json
from nas3d_jax.inference.config import PAPER
from nas3d_jax.schema.schema import Schema

FORMAT = "nas3d_jax.predictions"
VERSION = 1
REMEDY = "give --overwrite to predict anew, or another --out"


def read_record(path: Path) -> dict[str, Any]:
  """The record of a folder of predictions, empty where there is none.

  Raises:
    InputError: it is damaged, or of another version; as `Unreadable`, the system does not let us read it.
  """
  try:
    record = parse_json(path.read_bytes())
  except FileNotFoundError:
    return {"settings": {}, "cases": {}}
  except OSError as error:
    raise Unreadable(f"{path} cannot be read ({error.strerror}); {reading_remedy(error)}") from error
  except ValueError as error:
    raise InputError(f"{path} cannot be read ({error}); move it away with the predictions beside it") from error
  names = {"format", "version", "settings", "cases"}
  good = isinstance(record, dict) and set(record) - {"missing"} == names and record["format"] == FORMAT
  if not good or not isinstance(record["cases"], dict) or not isinstance(record["settings"], dict):
    raise InputError(f"{path} is no record of predictions; give another --out")
  if not all(_is_texts(sums) for sums in [*record["cases"].values(), record["settings"].get("checkpoints")]):
    raise InputError(f"{path} is damaged: cases and checkpoints must be texts by name; give another --out")
  missing = record.get("missing", {})
  if not isinstance(missing, dict) or not all(isinstance(names, list) for names in missing.values()):
    raise InputError(f"{path} is damaged: missing must be lists of modalities by case; give another --out")
  # What is recorded may be replaced or removed, so it has to lie in this folder.
  strays = [case for case in record["cases"] if not is_file_name(case)]
  if strays:
    raise InputError(f"{path} names a case {strays[0]!r:.80}, which is no file name; give another --out")
  if record["version"] != VERSION:
    raise InputError(f"{path} has version {record['version']!r}, this nas3d_jax reads {VERSION}; give another --out")
  return record


def _is_texts(value: Any) -> bool:
  """Whether it is texts by name, or nothing."""
  return value is None or (isinstance(value, dict) and all(isinstance(text, str) for text in value.values()))


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
  """What settings were and are, in words, where they give other predictions; None where they give the same.

  Where a checkpoint lies does not matter.
  """
  former = {"inference": PAPER.to_dict()}  # what records from before there were choices mean
  for name in [*now, *(before.keys() - now.keys())]:
    was, value = before.get(name, former.get(name)), now.get(name)
    same = set(was or ()) == set(value or ()) if name == "checkpoints" else was == value
    if not same:
      return f"{name}={was!r:.300}, got {value!r:.300}"
  return None


def pending_cases(folder: str | Path) -> frozenset[str]:
  """Names of the cases of a folder that its record lists and that are not done, as where a shard is missing.

  Raises:
    InputError: the record is damaged.
  """
  cases = read_record(Path(folder) / PREDICTIONS_JSON)["cases"]
  return frozenset(case for case, sums in cases.items() if sums is None)


def stored_schema(folder: str | Path) -> Schema | None:
  """The schema whose labels the predictions of a folder have, by their record; None without one.

  Raises:
    InputError: the record is damaged.
  """
  path = Path(folder) / PREDICTIONS_JSON
  settings = read_record(path)["settings"]
  try:
    return Schema.from_dict(settings["schema"]) if "schema" in settings else None
  except InputError as error:
    raise InputError(f"{path} is damaged: {error}; {REMEDY}") from error
