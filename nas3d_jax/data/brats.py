"""Finds cases on disk in the layout of BraTS 2017 to 2021, and reads and checks one. No JAX here.

    data_dir/[HGG|LGG/]<case>/<case><suffix>.nii[.gz]

with one file a modality and, where known, one segmentation; the suffixes are the schema's.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from nas3d_jax.data.nifti import Volume, VolumeError, read_volume
from nas3d_jax.errors import InputError
from nas3d_jax.schema import BRATS2019, Schema

GRADES = ("HGG", "LGG")
AFFINE_TOLERANCE = 1e-3
"""Two affines are one when no entry differs by more (mm): tools round them in single precision."""
_DEPTH = 4
_NIFTI = re.compile(r"(?P<stem>.+)\.nii(\.gz)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Fault:
  """One thing wrong with one case: its name, the reason, the remedy."""

  case: str
  reason: str
  remedy: str

  def __str__(self):
    return f"{self.case}: {self.reason}; {self.remedy}"


class CaseError(InputError):
  """A case that cannot be used.

  Attributes:
    faults: everything that is wrong with it.
  """

  def __init__(self, faults: Iterable[Fault]):
    self.faults = tuple(faults)
    super().__init__("\n".join(map(str, self.faults)))


@dataclasses.dataclass(frozen=True)
class CaseFiles:
  """Where the files of a case are.

  Attributes:
    name: name of the case, that of its folder.
    grade: "HGG" or "LGG" where the parent folder is called so, else None.
    folder: the folder of the case.
    images: one file a modality, in the schema's order.
    segmentation: the file of its labels, or None.
  """

  name: str
  grade: str | None
  folder: Path
  images: tuple[Path, ...]
  segmentation: Path | None


@dataclasses.dataclass(frozen=True)
class RawCase:
  """The voxels of a case, whole. D, H, W are the axes of the files, in their order.

  Attributes:
    files: where it came from.
    image: [D, H, W, M] intensities; int16 where all are whole and fit, else float32; in Fortran
      order, as the files are.
    labels: uint8 [D, H, W] in the same order, or None without segmentation.
    affine: float64 [4, 4], voxel indices to millimetres.
    header: header of the first modality.
    spacing: edge lengths of a voxel along D, H, W, in mm.
    checksums: SHA-256 (hex) of each file, by file name.
  """

  files: CaseFiles
  image: np.ndarray
  labels: np.ndarray | None
  affine: np.ndarray
  header: nib.Nifti1Header
  spacing: tuple[float, float, float]
  checksums: dict[str, str]


def find_cases(
  data_dir: str | Path, schema: Schema = BRATS2019
) -> tuple[list[CaseFiles], list[Fault]]:
  """Finds every case below a folder; voxels are not read.

  A folder that holds NIfTI files is a case, named after the folder. Hidden files are left out.

  Args:
    data_dir: the folder of the cases, or of HGG and LGG folders of cases, or a single case.
    schema: the names that the files go by.

  Returns:
    The cases whose files are complete, sorted by name, and what is wrong with the others.

  Raises:
    InputError: there is no such folder, or it holds no case.
  """
  root = Path(os.path.abspath(data_dir))
  if not root.is_dir():
    raise InputError(f"data_dir must be a folder of cases, got {str(data_dir)!r}; is it mistyped?")
  cases, faults = [], []
  for folder in _case_folders(root, _DEPTH):
    try:
      cases.append(_case_files(folder, schema))
    except CaseError as error:
      faults.extend(error.faults)
  if not cases and not faults:
    raise InputError(
      f"data_dir holds no case, got {str(data_dir)!r}; give the folder of the case folders, each "
      f"with <case>{schema.modalities[0].suffixes[0]}.nii.gz and its siblings"
    )
  counts = Counter(files.name for files in cases)
  for name in sorted(name for name, count in counts.items() if count > 1):
    where = " and ".join(str(f.folder.relative_to(root)) for f in cases if f.name == name)
    reason = f"{counts[name]} cases have this name: {where}"
    faults.append(Fault(name, reason, "rename or remove all but one"))
  unique = [files for files in cases if counts[files.name] == 1]
  return sorted(unique, key=lambda files: files.name), faults


def read_case(files: CaseFiles, schema: Schema = BRATS2019) -> RawCase:
  """Reads a case and checks it whole.

  Raises:
    CaseError: anything is wrong with it: a file that cannot be read or is damaged, a shape or
      affine unlike its siblings', voxels that are not finite, a modality without contrast, a label
      that the schema does not know.
  """
  names = [*schema.modality_names, "segmentation"]
  paths = [*files.images, files.segmentation]
  volumes: dict[str, Volume] = {}
  found: list[tuple[str, str]] = []
  for name, path in zip(names, paths, strict=True):
    if path is None:
      continue
    try:
      volumes[name] = read_volume(path)
    except VolumeError as error:
      found.append((error.reason, error.remedy))
  found += _geometry_faults(volumes)
  for name, volume in volumes.items():
    if name == "segmentation":
      found += _label_faults(volume.data, schema)
    else:
      found += _image_faults(name, volume.data)
  if found:
    raise CaseError(Fault(files.name, *fault) for fault in found)
  truth = volumes.pop("segmentation", None)
  first = volumes[names[0]]
  present = [path for path in paths if path is not None]
  checked = [*volumes.values()] if truth is None else [*volumes.values(), truth]
  return RawCase(
    files=files,
    image=_stack([volume.data for volume in volumes.values()]),
    labels=None if truth is None else truth.data.astype(np.uint8, copy=False),
    affine=first.affine,
    header=first.header,
    spacing=first.spacing,
    checksums={p.name: v.checksum for p, v in zip(present, checked, strict=True)},
  )


def _case_folders(folder: Path, depth: int) -> list[Path]:
  """Folders that hold NIfTI files, and those with neither files of that kind nor folders."""
  children = [child for child in sorted(folder.iterdir()) if not child.name.startswith(".")]
  found = [folder] if any(_is_nifti(child) for child in children) else []
  if depth:
    for child in children:
      if child.is_dir():
        below = _case_folders(child, depth - 1)
        found += below or ([] if child.name.upper() in GRADES else [child])
  return found


def _is_nifti(path: Path) -> bool:
  return bool(_NIFTI.fullmatch(path.name)) and path.is_file()


def _case_files(folder: Path, schema: Schema) -> CaseFiles:
  """The files of one folder, or a CaseError with all that is wrong with their names."""
  name = folder.name
  found: dict[str, list[Path]] = {}
  for path in sorted(folder.iterdir()):
    if not path.name.startswith(".") and _is_nifti(path):
      found.setdefault(_NIFTI.fullmatch(path.name)["stem"], []).append(path)
  wanted = [m.suffixes for m in schema.modalities] + [schema.segmentation]
  matches = [[p for s in suffixes for p in found.pop(name + s, [])] for suffixes in wanted]
  others = ", ".join(path.name for paths in found.values() for path in paths)
  faults = []
  for kind, suffixes, paths in zip(
    [*schema.modality_names, "segmentation"], wanted, matches, strict=True
  ):
    expected = f"{name}{suffixes[0]}.nii.gz"
    if len(paths) > 1:
      files = " and ".join(path.name for path in paths)
      faults.append(Fault(name, f"{kind} is there twice: {files}", "keep one of them"))
    elif not paths and kind == "segmentation" and others:
      reason = f"no segmentation {name}{suffixes[0]}.nii or .nii.gz, but {others} is there"
      # The extension says whether a file is compressed: a new name must keep it.
      ending = ".nii.gz" if others.lower().endswith(".gz") else ".nii"
      remedy = f"rename it to {name}{suffixes[0]}{ending} if it is the segmentation, else move it"
      faults.append(Fault(name, reason, f"{remedy} out of the folder"))
    elif not paths and kind != "segmentation":
      seen = f" (other NIfTI files there: {others})" if others else ""
      reason = f"no {kind} image {expected} or .nii in {folder.parent.name}/{name}{seen}"
      faults.append(Fault(name, reason, "add the file, or rename the one that it is"))
  if faults:
    raise CaseError(faults)
  grade = folder.parent.name.upper()
  *images, truth = matches
  return CaseFiles(
    name=name,
    grade=grade if grade in GRADES else None,
    folder=folder,
    images=tuple(paths[0] for paths in images),
    segmentation=truth[0] if truth else None,
  )


def _geometry_faults(volumes: dict[str, Volume]) -> list[tuple[str, str]]:
  """Volumes that do not lie on the grid of the first."""
  faults = []
  remedy = "resample all files of the case to one grid"
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


def _image_faults(name: str, data: np.ndarray) -> list[tuple[str, str]]:
  """Voxels that are not finite, or all alike: eq. 2 divides by their range."""
  low, high = float(data.min()), float(data.max())
  largest = float(np.finfo(np.float32).max)
  if not (-largest <= low and high <= largest):  # NaN fails both
    count = int((~(np.abs(data) <= largest)).sum())
    reason = f"{name} has {count} voxels that are NaN, infinite or beyond single precision"
    return [(reason, "export the volume again, or replace them by 0")]
  remedy = "put the right volume there, or leave the case out"
  if low == high:
    return [(f"{name} is {low:g} in every voxel", remedy)]
  inside = data[data != 0]
  if inside.min() == inside.max():
    return [(f"{name} is {float(inside[0]):g} in every voxel that is not zero", remedy)]
  return []


def _label_faults(data: np.ndarray, schema: Schema) -> list[tuple[str, str]]:
  """Values of a segmentation that are no labels of the schema."""
  known = np.asarray(schema.label_values)
  unknown = data[~np.isin(data, known)]
  if not unknown.size:
    return []
  values = ", ".join(f"{v:g}" for v in np.unique(unknown)[:8].tolist())
  reason = (
    f"segmentation has {unknown.size} voxels with labels ({values}) that schema {schema.name!r} "
    f"does not know ({', '.join(map(str, known))})"
  )
  return [(reason, "correct the labels, or choose the schema that fits")]


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
