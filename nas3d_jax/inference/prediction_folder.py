"""A folder of predicted volumes, and the record of what made them.

    <out>/<case>.nii.gz                  uint8 labels in the geometry of the case's first modality
    <out>/probabilities/<case>.nii.gz    float32 [D, H, W, R], where asked for; in a folder of its own, because every
                                         volume directly in <out> counts as a label volume
    <out>/predictions.json               what made them, see `prediction_record`
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nas3d_jax.data.cases.case_files import CaseError, CaseFiles, Fault
from nas3d_jax.data.cases.find_and_read import RawCase
from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import whole
from nas3d_jax.files.hashing import file_sums
from nas3d_jax.files.locks import locked
from nas3d_jax.files.run_layout import PREDICTIONS_JSON, PROBABILITIES
from nas3d_jax.files.strict_json import write_json
from nas3d_jax.inference.prediction_record import FORMAT, REMEDY, VERSION, difference, pending_cases, read_record
from nas3d_jax.inference.shards import Shard, Share

_RECORD_LOCK = ".record.lock"
_WAIT = 600.0
"""Seconds, for each of thousands of shards that write their record at once."""
# What is wrong with the disk or the folder, not with one file: no other case can be written either.
_DISK = frozenset(
  {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESTALE}
)


class OtherSettings(InputError):
  """A folder holds predictions that were made with other settings."""


class DiskError(InputError):
  """The folder cannot be written to; what is in it is whole."""


class PredictionFolder:
  """Predicted volumes, all made with the same settings; one writer at a time, or several shards.

  Shards have one record, to which each adds its own cases, so that all together leave what one run leaves.

  Args:
    folder: where; made where it is missing.
    settings: plain JSON values that decide what is written: "schema", "patch_size", "probabilities" (whether they are
      written), "inference" (`InferenceChoices.to_dict()`), "checkpoints" (fingerprint -> where it lay, for the
      reader alone) and, where cases are brought to one, "geometry" (`Geometry.to_dict()`).
    cases: names of the cases that are going to be predicted, by all shards.
    overwrite: whether to remove what earlier runs predicted, by their record, and start anew; a shard removes its own
      cases, and others' only where they were made with other settings, or are none of `cases`.
    share: what of it this process does, as a shard; None for all of it.

  Raises:
    InputError: the folder holds volumes that are not in its record, or a link in the place of a folder; or, as
      `OtherSettings`, predictions with other settings, or, as `DiskError`, it cannot be written to.
  """

  def __init__(
    self,
    folder: str | Path,
    *,
    settings: Mapping[str, Any],
    cases: Iterable[str],
    overwrite: bool = False,
    share: Share | None = None,
  ):
    self.folder, self._share = Path(folder), share
    if (link := self.folder / PROBABILITIES).is_symlink():
      raise InputError(f"{link} is a link to {os.readlink(link)}; nothing is written through it: remove it")
    self._settings, names = dict(settings), list(cases)
    with self._alone():
      former, missing, anew = self._former(names, overwrite)
      kept = {case: sums for case, sums in former.items() if case not in anew}
      # A case is listed before it is predicted, so that the record covers what a killed run leaves.
      self._cases: dict[str, Mapping[str, str] | None] = {**dict.fromkeys(names), **kept}
      self._missing: dict[str, list[str]] = {case: lacks for case, lacks in missing.items() if case in kept}
      try:
        self._remove(anew)
        self.folder.mkdir(parents=True, exist_ok=True)
        if settings["probabilities"]:
          (self.folder / PROBABILITIES).mkdir(exist_ok=True)
        self._save()
      except OSError as error:
        raise DiskError(f"{self.folder} cannot be written to ({error.strerror}); give another --out") from error

  def _former(self, names: Collection[str], overwrite: bool) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Cases and missing modalities of the record that is there, and the cases whose predictions are to be removed."""
    record = read_record(self.folder / PREDICTIONS_JSON)
    former, missing = record["cases"], record.get("missing", {})
    strays = _volumes(self.folder) - {f"{case}.nii.gz" for case in former}
    if strays:
      found = ", ".join(sorted(strays)[:5])
      raise InputError(f"{self.folder} holds {found}, predicted by no run; move it away, or give another --out")
    others = self._share is not None and self._share.others_write(self.folder)
    if not others and not any(path.exists() for case in former for path in self._paths(case, probabilities=True)):
      return {}, {}, []  # nothing was made with these settings, so they bind nobody
    other = difference(record["settings"], self._settings) if former else None
    if other and (others or not overwrite):
      remedy = "wait for the other shards that write to it, or give another --out" if others else REMEDY
      raise OtherSettings(f"{self.folder} was predicted with {other}; {remedy}")
    if not overwrite:
      return former, missing, []
    if self._share is None or other:
      return former, missing, list(former)
    # What other shards of this run have made stays; what is of no shard goes, as one run removes it.
    return former, missing, [case for case in former if case in self._share.cases or case not in names]

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
      raise CaseError([Fault(files.name, f"it was predicted in {self.folder} from other images", REMEDY)])
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
      with self._alone():
        self._take_over()
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

  @property
  def shard(self) -> Shard | None:
    """Which part of the cases this process does; None for all of them."""
    return self._share and self._share.shard

  def pending(self) -> list[str]:
    """Names of the cases that no process has predicted by now."""
    return sorted(pending_cases(self.folder))

  @contextlib.contextmanager
  def _alone(self) -> Iterator[None]:
    """While it lasts, no other shard touches the record."""
    with locked(self.folder, _RECORD_LOCK, wait=_WAIT, needed=True) if self._share else contextlib.nullcontext():
      yield

  def _take_over(self) -> None:
    """Takes over what other shards have recorded in the meantime."""
    if self._share is None:
      return
    record = read_record(self.folder / PREDICTIONS_JSON)
    if record["cases"] and (other := difference(record["settings"], self._settings)):
      raise OtherSettings(f"{self.folder} was begun anew by another process, with {other}; give another --out")
    own, theirs = self._share.cases, record.get("missing", {})
    others = {case: sums for case, sums in record["cases"].items() if case not in own}
    self._cases = {case: sums for case, sums in self._cases.items() if case in own or case in others} | others
    self._missing = {case: lacks for case, lacks in self._missing.items() if case in own}
    self._missing |= {case: lacks for case, lacks in theirs.items() if case not in own}

  def _save(self) -> None:
    record = {"format": FORMAT, "version": VERSION, "settings": self._settings, "cases": self._cases}
    # In the order of the cases, which does not tell who came first.
    missing = {case: self._missing[case] for case in self._cases if case in self._missing}
    write_json(self.folder / PREDICTIONS_JSON, record | ({"missing": missing} if missing else {}))


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
