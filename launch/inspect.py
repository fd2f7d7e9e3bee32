"""Reads every case of a folder and lists what is wrong or strange, in one table.

An error keeps a case from being used; a warning is for a person to judge. Nothing is written but
the file of --json. The exit code is 0 when all is well, 1 when anything is listed, 2 when a flag is
wrong.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from absl import flags

from .flags import define_path, define_schema

REQUIRED = ("data_dir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  define_path(values, "data_dir", "folder of the cases")
  define_schema(values)
  flags.DEFINE_integer(
    "workers", None, "cases read at once; not given: the cores, 4 at most", lower_bound=1, flag_values=values
  )
  define_path(values, "json", "file to write everything to, beside the table; - prints it in its place")


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code."""
  from rich.console import Console

  from nas3d_jax.data.inspection.inspect_cases import inspect_cases
  from nas3d_jax.data.inspection.table import render
  from nas3d_jax.errors import InputError
  from nas3d_jax.files.strict_json import write_json

  out = values["json"].value
  place = None if out in (None, "-") else Path(out).absolute()
  if place is not None and (os.path.isdir(place) or not os.path.isdir(place.parent)):
    raise InputError(f"--json must name a file in a folder that is there, got {out!r}")
  inspection = inspect_cases(
    values["data_dir"].value, schema=values["schema"].value, workers=values["workers"].value
  )
  if out == "-":
    print(json.dumps(inspection.to_dict(), indent=1, allow_nan=False))
  else:
    Console(highlight=False).print(render(inspection))
    if place is not None:
      try:
        write_json(place, inspection.to_dict())
      except OSError as error:
        raise InputError(f"--json={out} cannot be written ({error.strerror}); name another file") from error
  return 0 if inspection.ok else 1
