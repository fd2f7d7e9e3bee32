"""A folder of predicted volumes, and the record of what made them.

    <out>/<case>.nii.gz                  uint8 labels in the geometry of the case's first modality
    <out>/probabilities/<case>.nii.gz    float32 [D, H, W, R], where asked for; in a folder of its own, because every
                                         volume directly in <out> counts as a label volume
    <out>/predictions.json               "format", "version", "settings" (schema, checkpoints, geometry, patch size,
                                         inference, what is written), "cases": {case: {file: SHA-256 of the images},
                                         null until done}, "missing": {case: modalities that it lacks}, where any does
"""

from __future__ import annotations

import errno
import gzip
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nas3d_jax.data.cases.case_files import CaseError, CaseFiles, Fault
from nas3d_jax.data.cases.find_and_read import RawCase
from nas3d_jax.data.dataset.case import is_file_name
from nas3d_jax.errors import InputError, Unreadable
from nas3d_jax.files.atomic import reading_remedy, whole
from nas3d_jax.files.hashing import file_sums
from nas3d_jax.files.run_layout import PREDICTIONS_JSON, PROBABILITIES
from nas3d_jax.files.strict_json import parse_json, write_json
from nas3d_jax.inference.config import PAPER
from nas3d_jax.schema.schema import Schema

FORMAT = "nas3d_jax.predictions"
VERSION = 1
_REMEDY = "give --overwrite to predict anew, or another --out"
# What is wrong with the disk or the folder, not with one file: no other case can be written either.
_DISK = frozenset(
  {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESTALE}
)


class OtherSettings(InputError):
  """A folder holds predictions that were made with other settings."""


class DiskError(InputError):
  """The folder cannot be written to; what is in it is whole."""


class PredictionFolder:
  """Predicted volumes, all made with the same settings; one writer at a time.

  Args:
    folder: where; made where it is missing.
    settings: plain JSON values that decide what is written: "schema", "patch_size", "probabilities" (whether they are
      written), "inference" (`InferenceChoices.to_dict()`), "checkpoints" (fingerprint -> where it lay, for the
      reader alone) and, where cases are brought to one, "geometry" (`Geometry.to_dict()`).
    cases: names of the cases that are going to be predicted.
    overwrite: whether to remove what earlier runs predicted, by their record, and start anew.

  Raises:
    InputError: the folder holds volumes that are not in its record, or a link in the place of a folder; or, as
      `OtherSettings`, predictions with other settings, or, as `DiskError`, it cannot be written to.
  """

  def __init__(self, folder: str | Path, *, settings: Mapping[str, Any], cases: Iterable[str], overwrite: bool = False):
    self.folder = Path(folder)
    if (link := self.folder / PROBABILITIES).is_symlink():
      raise InputError(f"{link} is a link to {os.readlink(link)}; nothing is written through it: remove it")
    record = _read_record(self.folder / PREDICTIONS_JSON)
    former, missing = record["cases"], record.get("missing", {})
    strays = _volumes(self.folder) - {f"{case}.nii.gz" for case in former}
    if strays:
      names = ", ".join(sorted(strays)[:5])
      raise InputError(f"{self.folder} holds {names}, predicted by no run; move it away, or give another --out")
    if not any(path.exists() for case in former for path in self._paths(case, probabilities=True)):
      former, missing = {}, {}  # nothing was made with these settings, so they bind nobody
    if former and not overwrite:
      _compare(self.folder, record["settings"], settings)
    self._settings = dict(settings)
    # A case is listed before it is predicted, so that the record covers what a killed run leaves.
    self._cases: dict[str, Mapping[str, str] | None] = {**dict.fromkeys(cases), **({} if overwrite else former)}
    self._missing: dict[str, list[str]] = {} if overwrite else dict(missing)
    try:
      if overwrite:
        self._remove(former)
      self.folder.mkdir(parents=True, exist_ok=True)
      if settings["probabilities"]:
        (self.folder / PROBABILITIES).mkdir(exist_ok=True)
      self._save()
    except OSError as error:
      raise DiskError(f"{self.folder} cannot be written to ({error.strerror}); give another --out") from error

  def is_done(self, files: CaseFiles) -> bool:
    """Whether a case was predicted, from the same images, and is still there.

    Raises:
      CaseError: it was predicted from other images.
    """
    made_of = self._cases[files.name]
    if made_of is None or not all(path.exists() for path in self._paths(files.name, self._settings["probabilities"])):
      return False
    sums = file_sums(files.named_images)
    if sums is None:
      return False  # reading the case will raise what is wrong with it
    # In their order, which is that of the channels.
    if list(made_of.items()) != list(sums.items()):
      raise CaseError([Fault(files.name, f"it was predicted in {self.folder} from other images", _REMEDY)])
    return True

  def write(self, raw: RawCase, labels: np.ndarray, probabilities: np.ndarray | None) -> None:
    """Writes the volumes of a case, then records it.

    Args:
      raw: the case, without segmentation.
      labels: uint8 [D, H, W].
      probabilities: float32 [D, H, W, R], or None where the settings do not ask for them.

    Raises:
      CaseError: something is in the way of a file.
      DiskError: nothing can be written to the folder, as when the disk is full; what was written before stays.
    """
    case = raw.files.name
    arrays = [labels] if probabilities is None else [labels, probabilities]
    try:
      for path, array in zip(self._paths(case, probabilities is not None), arrays, strict=True):
        write_volume(path, array, raw.header)
      self._cases[case] = raw.checksums
      self._missing.pop(case, None)
      if raw.files.missing:
        self._missing[case] = list(raw.files.missing)
      self._save()
    except OSError as error:
      if error.errno in _DISK:
        reason = f"the prediction of {case} cannot be written to {self.folder} ({error.strerror})"
        raise DiskError(f"{reason}; make room or correct the permissions, and run again") from error
      reason = f"its prediction cannot be written to {error.filename2 or error.filename} ({error.strerror})"
      raise CaseError([Fault(case, reason, "move away what is there, and run again")]) from error

  def _paths(self, case: str, probabilities: bool) -> list[Path]:
    name = f"{case}.nii.gz"
    return [self.folder / name] + [self.folder / PROBABILITIES / name] * probabilities

  def _remove(self, cases: Iterable[str]) -> None:
    for case in cases:
      for path in self._paths(case, probabilities=True):
        path.unlink(missing_ok=True)

  def _save(self) -> None:
    record = {"format": FORMAT, "version": VERSION, "settings": self._settings, "cases": self._cases}
    record |= {"missing": self._missing} if self._missing else {}
    write_json(self.folder / PREDICTIONS_JSON, record)


def stored_schema(folder: str | Path) -> Schema | None:
  """The schema whose labels the predictions of a folder have, by their record; None without one.

  Raises:
    InputError: the record is damaged.
  """
  path = Path(folder) / PREDICTIONS_JSON
  settings = _read_record(path)["settings"]
  try:
    return Schema.from_dict(settings["schema"]) if "schema" in settings else None
  except InputError as error:
    raise InputError(f"{path} is damaged: {error}; {_REMEDY}") from error


def write_volume(path: Path, array: np.ndarray, like: nib.Nifti1Header) -> None:
  """Writes an array as .nii.gz on the grid of another volume, whole or not at all.

  Shape, affine, voxel size, units, qform and sform with their codes are those of `like`, to the bit; slope 1, intercept
  0. The fields of `like` on its own values, range and intent, are left out. Equal arrays give equal files.

  Args:
    path: the file, which is replaced.
    array: [D, H, W] or [D, H, W, R], of a type that NIfTI knows.
    like: header of a volume of shape [D, H, W].
  """
  header = like.copy()
  header.set_data_dtype(array.dtype)
  header["cal_min"] = header["cal_max"] = 0
  header.set_intent("none")
  image = nib.Nifti1Image(array, like.get_best_affine(), header)
  with whole(path) as file, gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream:
    image.to_stream(stream)


def _volumes(folder: Path) -> set[str]:
  """Names of the volumes directly in a folder, which may be missing."""
  names = (path.name for path in folder.glob("[!.]*"))
  return {name for name in names if name.lower().endswith((".nii", ".nii.gz"))}


def _read_record(path: Path) -> dict[str, Any]:
  """The record of a folder, empty where there is none."""
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


def _compare(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  """Raises OtherSettings unless both give the same predictions; where a checkpoint lies does not matter."""
  former = {"inference": PAPER.to_dict()}  # what records from before there were choices mean
  for name in [*now, *(before.keys() - now.keys())]:
    was, value = before.get(name, former.get(name)), now.get(name)
    same = set(was or ()) == set(value or ()) if name == "checkpoints" else was == value
    if not same:
      raise OtherSettings(f"{folder} was predicted with {name}={was!r:.300}, got {value!r:.300}; {_REMEDY}")
