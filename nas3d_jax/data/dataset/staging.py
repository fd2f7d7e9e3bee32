"""Builds the folder of a data set beside its final place, and swaps it in whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas3d_jax.data.cases.case_files import CaseFiles
from nas3d_jax.data.dataset.dataset import FORMAT, REMEDY, VERSION
from nas3d_jax.data.intensities import Intensities
from nas3d_jax.errors import InputError, Unreadable
from nas3d_jax.files.own_files import own_folder, remove
from nas3d_jax.files.run_layout import CASES, CONFIG, MANIFEST, RECORDS
from nas3d_jax.files.strict_json import read_json, write_json
from nas3d_jax.schema.geometry import Geometry
from nas3d_jax.schema.schema import Schema


def mark(schema: Schema, geometry: Geometry | None, intensities: Intensities) -> dict[str, Any]:
  """The mark of a folder that preprocess made, with what its cases have in common."""
  stored = geometry and geometry.to_dict()
  own = None if intensities.is_paper else intensities.to_dict()
  return {
    "format": FORMAT, "version": VERSION, "schema": schema.to_dict(), "geometry": stored, "intensities": own
  }


def _is_ours(folder: Path) -> bool:
  """Whether preprocess made this folder."""
  for path in (folder / CONFIG, folder / MANIFEST):
    try:
      if path.exists() and read_json(path, REMEDY).get("format") == FORMAT:
        return True
    except Unreadable:
      raise
    except InputError:
      continue  # it is damaged, but by the other one the folder may still be known
  return False


def settle(out: Path) -> bool:
  """Whether there is a data set, after an overwrite cut short between its renames is mended.

  Raises:
    InputError: there is something else in its place.
  """
  former = out.with_name(f".{out.name}.former")
  if former.exists() and _is_ours(former):
    if out.exists():
      discard(former)
    else:
      os.replace(former, out)
  for removed in out.parent.glob(f".{out.name}.*.removed"):
    remove(removed)
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return False
  if not out.is_dir() or not _is_ours(out):
    raise InputError(f"out_dir must be new or hold a data set, got {str(out)!r}; move it away")
  return True


def prepare(out: Path, found: Sequence[CaseFiles], marked: Mapping[str, Any], *, fresh: bool) -> Path:
  """Makes the temporary folder, or goes on with that of an interrupted run whose cases are stored in the same way.

  Args:
    out: the final folder.
    found: the cases that it is going to hold; what was stored of others is removed.
    marked: its `mark`.
    fresh: whether to start anew in any case.

  Returns:
    The temporary folder, with `cases` and `records` in it.

  Raises:
    InputError: something else is in its place.
  """
  partial = out.with_name(f".{out.name}.partial")
  # The first file may have been half written when a run was killed.
  if partial.exists() and any(path.name != ".config.json.partial" for path in partial.iterdir()):
    if not _is_ours(partial):
      raise InputError(f"{partial} is in the way and not from preprocess; move it away")
    kept = read_json(partial / CONFIG, REMEDY)
    if fresh or any(kept.get(key) != value for key, value in marked.items()):
      discard(partial)
  own_folder(partial)
  write_json(partial / CONFIG, marked)
  for name in (CASES, RECORDS):
    own_folder(partial / name)
  names = {files.name for files in found}
  for folder in (partial / CASES).iterdir():
    if folder.name not in names:
      remove(folder)
  return partial


def swap(partial: Path, out: Path) -> None:
  """Puts the new folder in its place; the old one goes only after that."""
  former = out.with_name(f".{out.name}.former")
  if out.exists():
    os.replace(out, former)
  os.replace(partial, out)
  if former.exists():
    discard(former)


def discard(folder: Path) -> None:
  """Removes a folder that preprocess made, by a rename first: one half removed would be taken for something else."""
  removed = folder.with_name(f"{folder.name}.removed")
  os.replace(folder, removed)
  remove(removed)
