"""Finds cases on disk, in the layout of their schema, and reads and checks one.

`case_folders.py` has the layout of BraTS, a folder a case; `shared_folders.py` those where cases share folders.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from nas3d_jax.data.cases.case_files import CaseError, CaseFiles, Fault, check_names, readable
from nas3d_jax.data.cases.case_folders import find_in_folders
from nas3d_jax.data.cases.intensity_faults import intensity_fault
from nas3d_jax.data.cases.nifti import Volume, VolumeError, exact, read_labels, read_volume
from nas3d_jax.data.cases.shared_folders import find_in_layout
from nas3d_jax.errors import InputError
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.schema.schema import Schema

AFFINE_TOLERANCE = 1e-3
"""Two affines are one when no entry differs by more (mm): tools round them in single precision."""


@dataclasses.dataclass(frozen=True)
class RawCase:
  """The voxels of a case, whole. D, H, W are the axes of the files, in their order.

  Attributes:
    files: where it came from.
    image: [D, H, W, M] intensities; int16 where all are whole and fit, else float32; in Fortran
      order, as the files are. A modality in `files.missing` is 0.
    labels: uint8 [D, H, W] in the same order, or None without segmentation.
    affine: float64 [4, 4], voxel indices to millimetres.
    header: header of the first modality that is there.
    spacing: edge lengths of a voxel along D, H, W, in mm.
    checksums: SHA-256 (hex) of each file, by its name in `CaseFiles.named`.
  """

  files: CaseFiles
  image: np.ndarray
  labels: np.ndarray | None
  affine: np.ndarray
  header: nib.Nifti1Header
  spacing: tuple[float, float, float]
  checksums: dict[str, str]


def find_cases(
  data_dir: str | Path, schema: Schema = BRATS2019, *, labels: bool = True, incomplete: bool = False
) -> tuple[list[CaseFiles], list[Fault]]:
  """Finds every case below a folder; voxels are not read.

  In the layout "folders" a folder that holds NIfTI files is a case, named after the folder. In the others the cases are
  those of imagesTr, or of imagesTs where that is the folder given. Hidden files are left out.

  Args:
    data_dir: the folder of the cases, or of HGG and LGG folders of cases, or a single case; the folder of dataset.json,
      or imagesTr or imagesTs in it.
    schema: the names that the files go by.
    labels: whether segmentations are looked for; without, what is wrong with them does not matter.
    incomplete: whether a case may lack modalities, but not all; `CaseFiles.missing` names them.

  Returns:
    The cases whose files are complete, sorted by name, and what is wrong with the others.

  Raises:
    InputError: there is no such folder, or it holds no case, or its dataset.json does not fit the schema.
  """
  root = Path(os.path.abspath(data_dir))
  if not root.is_dir():
    raise InputError(f"data_dir must be a folder of cases, got {str(data_dir)!r}; is it mistyped?")
  find = find_in_folders if schema.layout == "folders" else find_in_layout
  try:
    cases, faults = find(root, schema, labels=labels, incomplete=incomplete)
  except OSError as error:
    raise InputError(f"data_dir cannot be read ({error}); check its permissions") from error
  faults = [*faults, *check_names(files.name for files in cases)]
  at_fault = {fault.case for fault in faults}
  return sorted((c for c in cases if readable(c.name) not in at_fault), key=lambda files: files.name), faults


def read_case(files: CaseFiles, schema: Schema = BRATS2019) -> RawCase:
  """Reads a case and checks it whole.

  Raises:
    CaseError: anything is wrong with it: a file that cannot be read or is damaged, a shape or
      affine unlike its siblings', voxels that are not finite or beyond 1e18, a modality without contrast, a label
      that the schema does not know.
  """
  found: list[tuple[str, str]] = []
  volumes: dict[str, Volume] = {}  # the images in the schema's order, the segmentation last
  checksums: dict[str, str] = {}
  there = [name for name in schema.modality_names if name not in files.missing]
  kinds = [*(there if files.channels is None else ["image"]), "segmentation"]
  for kind, (key, path) in zip(kinds, files.named.items(), strict=False):
    whole = files.channels is not None and path != files.segmentation
    try:
      volume = read_labels(path) if path == files.segmentation else read_volume(path, 4 if whole else 3)
      volumes |= _split(volume, files, schema) if whole else {kind: volume}
      checksums[key] = volume.checksum
    except VolumeError as error:
      found.append((files.told(path, error.reason), error.remedy))
  found += geometry_faults(volumes, "resample all files of the case to one grid")
  for name, volume in volumes.items():
    if name == "segmentation":
      found += label_faults(name, volume.data, schema, "correct the labels, or choose the schema that fits")
    elif fault := intensity_fault(name, volume.data[volume.data != 0], volume.data.size):
      found.append(fault[1:])
  if found:
    raise CaseError(Fault(files.name, *fault) for fault in found)
  truth = volumes.pop("segmentation", None)
  first = volumes[there[0]]
  nothing = np.zeros(first.data.shape, np.int16) if files.missing else None
  channels = [volumes[name].data if name in volumes else nothing for name in schema.modality_names]
  return RawCase(
    files=files,
    image=_stack(channels),
    labels=None if truth is None else truth.data.astype(np.uint8, copy=False),
    affine=first.affine,
    header=first.header,
    spacing=first.spacing,
    checksums=checksums,
  )


def _split(volume: Volume, files: CaseFiles, schema: Schema) -> dict[str, Volume]:
  """The modalities of a file that holds them all, in the schema's order."""
  count, names = volume.data.shape[3], files.channels
  if count != len(names):
    reason = f"{files.images[0].name} has {count} channels, but dataset.json {len(names)} ({', '.join(names)})"
    raise VolumeError(reason, "correct dataset.json, or put the right file there")
  header = volume.header.copy()
  header.set_data_shape(volume.data.shape[:3])
  return {
    name: dataclasses.replace(volume, data=volume.data[..., names.index(name)], header=header)
    for name in schema.modality_names
  }


def geometry_faults(volumes: Mapping[str, Volume], remedy: str) -> list[tuple[str, str]]:
  """Reason and remedy for each volume, by name, that does not lie on the grid of the first."""
  faults = []
  for index, (name, volume) in enumerate(volumes.items()):
    if index == 0:
      first, reference = name, volume
    elif volume.data.shape != reference.data.shape:
      shapes = f"{name} has shape {volume.data.shape}, {first} {reference.data.shape}"
      faults.append((shapes, remedy))
    elif not np.allclose(volume.affine, reference.affine, rtol=0, atol=AFFINE_TOLERANCE):
      one, other = (np.round(v.affine[:3], 4).tolist() for v in (volume, reference))
      faults.append((f"{name} has the affine {one}, {first} {other}", remedy))
  return faults


def label_faults(name: str, data: np.ndarray, schema: Schema, remedy: str) -> list[tuple[str, str]]:
  """Reason and remedy where a label volume of any numeric dtype has values that are no labels of the schema."""
  known = schema.label_values
  unknown = data[~np.isin(data, known)]
  if not unknown.size:
    return []
  values = ", ".join(map(exact, np.unique(unknown)[:8].tolist()))
  reason = (
    f"{name} has {unknown.size} voxels with values ({values}) that are no labels of schema {schema.name!r} "
    f"({', '.join(map(str, known))})"
  )
  return [(reason, remedy)]


def _stack(volumes: Sequence[np.ndarray]) -> np.ndarray:
  """[D, H, W] volumes as [D, H, W, M], int16 if nothing is lost by it, else float32."""
  limits = np.iinfo(np.int16)
  fits = all(
    limits.min <= v.min() and v.max() <= limits.max
    and (v.dtype.kind != "f" or np.array_equal(v, np.rint(v)))
    for v in volumes
  )
  shape = (*volumes[0].shape, len(volumes))
  image = np.empty(shape, np.int16 if fits else np.float32, order="F")
  for channel, volume in enumerate(volumes):
    image[..., channel] = volume
  return image
