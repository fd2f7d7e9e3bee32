"""A preprocessed data set on disk: its manifest, its cases, their arrays.

    dataset/manifest.json             everything about the cases but their voxels
    dataset/config.json               the flags that made it
    dataset/cases/<name>/image.npy    [d, h, w, M] int16 or float32, cropped to the brain cube; as `Intensities.prepare`
                                      leaves it, which is raw for the paper's
    dataset/cases/<name>/labels.npy   [d, h, w] uint8, cropped alike; absent without segmentation
    dataset/verified.json             size and time of change of arrays whose checksums were compared
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.verify import verify
from nas3d_jax.data.intensities import PAPER_INTENSITIES, Intensities
from nas3d_jax.errors import InputError, Unreadable
from nas3d_jax.files.hashing import sum_or_none
from nas3d_jax.files.run_layout import CASES, IMAGE, LABELS, MANIFEST
from nas3d_jax.files.strict_json import read_json, refuse_unreadable
from nas3d_jax.schema.geometry import Geometry, most_common, same_length
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import is_whole

Stamp = tuple[int, int] | None
"""Size and time of change of a file, None of one that is not there."""

FORMAT = "nas3d_jax.dataset"
VERSION = 1
# NumPy parses the header of a file with `ast`, which on CPython 3.11 fails at times in two threads at once (cpython
# issue 106905); patches are read ahead by several.
_PARSING = threading.Lock()
REMEDY = "make the data set anew with `python -m launch preprocess --overwrite`"


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A preprocessed data set; `Dataset.open` makes one.

  Attributes:
    folder: where it lies.
    schema: what its modalities, labels and regions are.
    cases: all cases, sorted by name.
    folds: number of folds.
    seed: seed of the folds.
    versions: versions of the packages that made it.
    stored_geometry: orientation and voxel size that all cases were brought to; None in data sets from before there
      was one, whose cases are as their files are.
    intensities: what of the cases is foreground, and how their intensities were, or are to be, normalised.
    stamps: size and time of change of each array's file when the data set was opened, by its path; a file that has
      another one later is read only if its checksum is the same. Empty: nothing is compared.
  """

  folder: Path
  schema: Schema
  cases: tuple[Case, ...]
  folds: int
  seed: int
  versions: Mapping[str, str] = dataclasses.field(hash=False)
  stored_geometry: Geometry | None = None
  intensities: Intensities = PAPER_INTENSITIES
  stamps: dict[Path, Stamp] = dataclasses.field(compare=False, repr=False, default_factory=dict)

  @property
  def geometry(self) -> Geometry | None:
    """Orientation and voxel size of the cases; None where an older data set holds cases that differ in them."""
    if self.stored_geometry is not None:
      return self.stored_geometry
    first, *others = (Geometry.of(case.affine) for case in self.cases)
    return most_common([first]) if all(map(first.matches, others)) else None

  @property
  def fingerprint(self) -> str:
    """SHA-256 (hex) of the schema, folds, seed, geometry, intensities and cases; equal for equal inputs."""
    content = self._content()
    for case in content["cases"]:
      # They follow from the rest, and older data sets have none.
      case.pop("arrays", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

  def _content(self) -> dict[str, Any]:
    geometry = self.stored_geometry
    return {
      "format": FORMAT,
      "version": VERSION,
      "schema": self.schema.to_dict(),
      "folds": self.folds,
      "seed": self.seed,
      "cases": [case.to_dict() for case in self.cases],
      **({} if geometry is None else {"geometry": geometry.to_dict()}),
      **({} if self.intensities.is_paper else {"intensities": self.intensities.to_dict()}),
    }

  def manifest(self) -> dict[str, Any]:
    """What stands in manifest.json."""
    return {
      **self._content(), "fingerprint": self.fingerprint, "versions": dict(self.versions)
    }

  @classmethod
  def open(cls, folder: str | Path) -> Dataset:
    """Opens a data set and checks the manifest, the presence, shape and type of every array, and its checksum.

    An array is read for that only if its size or time of change is not that of the last time, see `verify.py`.

    Args:
      folder: the folder that `preprocess` wrote, `dataset` of a run directory.

    Raises:
      InputError: there is no data set, it is of another version, or it is damaged.
    """
    folder = Path(folder)
    manifest = read_json(folder / MANIFEST, REMEDY, missing="run preprocess, or give another folder")
    found = manifest.get("format"), manifest.get("version")
    if found != (FORMAT, VERSION):
      raise InputError(
        f"{folder} must hold a data set of format {FORMAT} version {VERSION}, "
        f"got {found[0]} version {found[1]}; {REMEDY}"
      )
    try:
      dataset = cls._from_manifest(folder, manifest)
      dataset = dataclasses.replace(dataset, stamps=dataset._stamps_now())
      for case in dataset.cases:
        dataset.image(case)
        dataset.labels(case)
      verify(folder, dataset.cases)
    except Unreadable:
      raise
    except InputError as error:
      raise InputError(f"{folder} is damaged: {error}; {REMEDY}") from error
    return dataset

  @classmethod
  def _from_manifest(cls, folder: Path, manifest: Mapping[str, Any]) -> Dataset:
    names = {"format", "version", "schema", "folds", "seed", "cases", "fingerprint", "versions"}
    if set(manifest) - {"geometry", "intensities"} != names:
      raise InputError(f"the manifest must have exactly the fields {sorted(names)}")
    for field, good in (
      ("folds", is_whole(manifest["folds"], 1)),
      ("seed", is_whole(manifest["seed"], 0)),
      ("cases", isinstance(manifest["cases"], list) and manifest["cases"]),
      ("versions", isinstance(manifest["versions"], Mapping)),
    ):
      if not good:
        raise InputError(f"{field} of the manifest is wrong: {manifest[field]!r}")
    schema = Schema.from_dict(manifest["schema"])
    cases = tuple(Case.from_dict(record, schema) for record in manifest["cases"])
    order = [case.name for case in cases]
    if order != sorted(set(order)):
      raise InputError("the cases of the manifest are not sorted by name, or one is doubled")
    if manifest["folds"] > len(cases):
      raise InputError(f"the manifest has {manifest['folds']} folds, but only {len(cases)} cases")
    folds = range(manifest["folds"])
    stray = [c.name for c in cases if c.fold not in (folds if c.label_counts else (None,))]
    if stray:
      raise InputError(f"cases {stray} are in none of the {manifest['folds']} folds")
    geometry = Geometry.from_dict(manifest["geometry"]) if "geometry" in manifest else None
    astray = [c.name for c in cases if geometry and not all(map(same_length, c.spacing, geometry.spacing))]
    if astray:
      raise InputError(f"cases {astray} are not of the voxel size of the manifest, {geometry}")
    intensities = Intensities.from_dict(manifest["intensities"]) if "intensities" in manifest else PAPER_INTENSITIES
    if (count := len(intensities.kinds)) not in (0, len(schema.modalities)):
      raise InputError(f"the manifest has {count} normalizations for {len(schema.modalities)} modalities")
    dataset = cls(
      folder, schema, cases, manifest["folds"], manifest["seed"], dict(manifest["versions"]), geometry, intensities
    )
    if dataset.fingerprint != manifest["fingerprint"]:
      raise InputError("the fingerprint does not fit: the manifest was changed by hand")
    return dataset

  def image(self, case: Case) -> np.ndarray:
    """Intensities of a case in its brain cube, as `intensities.prepare` leaves them.

    Returns:
      Memory map [d, h, w, M] of int16 or float32, M the number of modalities in the schema's order.

    Raises:
      InputError: the file is missing or not as it should be.
    """
    shape = (*case.cube_shape, len(self.schema.modalities))
    return self._memory_map(case, IMAGE, shape, ("int16", "float32"))

  def labels(self, case: Case) -> np.ndarray | None:
    """Labels of a case in its brain cube.

    Returns:
      Memory map [d, h, w] of uint8, or None where the case has no labels.

    Raises:
      InputError: the file is missing or not as it should be.
    """
    if case.label_counts is None:
      return None
    return self._memory_map(case, LABELS, case.cube_shape, ("uint8",))

  def _memory_map(self, case: Case, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> np.ndarray:
    path, fault = self.folder / CASES / case.name / name, None
    try:
      array = _memory_map(path, shape, dtypes)
    except InputError as error:
      fault = error
    # After it is opened: what is read from here on is this file, whatever takes its name.
    if path in self.stamps and (now := _stamp(path)) != self.stamps[path]:
      if case.arrays and sum_or_none(path) == case.arrays[name]:
        # Made anew from the same inputs, or merely touched.
        self.stamps[path] = now
        return self._memory_map(case, name, shape, dtypes)
      raise InputError(
        f"{path} is not what it was when the data set was opened: it was made anew meanwhile, or something else wrote "
        "to it. What was saved is of the data set of before: put that back to go on, or start anew with --overwrite"
      ) from fault
    if fault is not None:
      raise fault
    return array

  def _stamps_now(self) -> dict[Path, Stamp]:
    paths = [self.folder / CASES / case.name / name for case in self.cases for name in (IMAGE, LABELS)]
    return {path: _stamp(path) for path in paths}

  def fold_cases(self, fold: int) -> tuple[Case, ...]:
    """The labelled cases of a fold: the hybrid part of a search, the validation of a training.

    Raises:
      InputError: the fold is out of range.
    """
    self._check_fold(fold)
    return tuple(case for case in self.cases if case.fold == fold)

  def other_cases(self, fold: int) -> tuple[Case, ...]:
    """The labelled cases of all other folds.

    Raises:
      InputError: the fold is out of range.
    """
    self._check_fold(fold)
    return tuple(case for case in self.cases if case.fold not in (None, fold))

  def _check_fold(self, fold: int) -> None:
    if not is_whole(fold, 0) or fold >= self.folds:
      raise InputError(f"fold must be from 0 to {self.folds - 1}, got {fold!r}")


def _stamp(path: Path) -> Stamp:
  try:
    found = os.stat(path)
  except OSError:
    return None
  return found.st_size, found.st_mtime_ns


def _memory_map(path: Path, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> np.ndarray:
  """The array in a file, unread, if it has this shape and one of these types."""
  try:
    # Unlike np.load, this opens no archive, and no array of objects, whose reading could run code.
    with _PARSING:
      array = np.lib.format.open_memmap(path, mode="r")
  except Exception as error:  # its header is Python's, and a damaged one makes the tokeniser raise what it likes
    refuse_unreadable(path, error)
    raise InputError(f"{path} cannot be opened ({error})") from error
  if array.shape != shape or array.dtype.name not in dtypes:
    found = f"{array.dtype} {array.shape}"
    raise InputError(f"{path} must be {' or '.join(dtypes)} of shape {shape}, got {found}")
  return array
