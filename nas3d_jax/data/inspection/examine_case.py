"""Reads one case, file by file, and finds what is wrong or strange in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np

from nas3d_jax.data.brain import box_of
from nas3d_jax.data.cases.case_files import CaseFiles
from nas3d_jax.data.cases.find_and_read import AFFINE_TOLERANCE
from nas3d_jax.data.cases.intensity_faults import intensity_fault
from nas3d_jax.data.cases.nifti import Volume, VolumeError, read_labels, read_volume
from nas3d_jax.data.cases.strange import BACKGROUND, HEADER, RANGE, background, header_faults, squeezed
from nas3d_jax.data.inspection.words import lengths, millimetres, number, voxels
from nas3d_jax.schema.schema import Schema

Severity = Literal["error", "warning"]
_MOST_STRANGE = 20
_GRID = "resample all files of the case to one grid"


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that is wrong or strange.

  Attributes:
    case: name of the case; None for the data set as a whole.
    severity: "error" for what keeps a case from being used, "warning" for what is strange.
    kind: what it is, one of `inspection.KINDS`.
    reason: in words.
    remedy: what to do about it.
  """

  case: str | None
  severity: Severity
  kind: str
  reason: str
  remedy: str


@dataclasses.dataclass(frozen=True)
class Intensities:
  """Of the voxels of a modality that are not zero, slope and intercept applied."""

  low: float
  median: float
  percentile99: float
  high: float


@dataclasses.dataclass(frozen=True)
class Examination:
  """What was found in one case.

  Attributes:
    name: name of the case.
    shape: (D, H, W) of the first volume that could be read, in voxels; None where none could.
    spacing: edge lengths of its voxels in mm; None without one.
    affine: float64 [4, 4], its voxel indices to millimetres; None without one.
    checksums: SHA-256 (hex) of each file that could be read, by file name.
    intensities: of each modality that could be read and is neither constant nor has voxels that are not finite.
    labels: voxels of each value in the segmentation, whether the schema knows it or not, of values from 0 to 255 all,
      of others the first few; None without a segmentation that could be read.
    label_voxels: all voxels of that segmentation; 0 without one.
    labelled: whether there is a segmentation.
    findings: what is wrong or strange in the case alone, whatever the schema's labels.
  """

  name: str
  shape: tuple[int, int, int] | None
  spacing: tuple[float, float, float] | None
  affine: np.ndarray | None
  checksums: Mapping[str, str]
  intensities: Mapping[str, Intensities]
  labels: Mapping[float, int] | None
  label_voxels: int
  labelled: bool
  findings: tuple[Finding, ...]

  @property
  def orientation(self) -> str | None:
    """Where the axes point, as in "LPS": to the left, to the back and up; None without a volume."""
    return None if self.affine is None else "".join(map(str, nib.aff2axcodes(self.affine)))


def examine(files: CaseFiles, schema: Schema) -> Examination:
  """Reads every file of a case once; holds one of them at a time, and which voxels are brain."""
  return _Reading(files, schema).examine()


class _Reading:
  """The reading of one case: what is known so far."""

  def __init__(self, files: CaseFiles, schema: Schema):
    self.files, self.schema = files, schema
    self.findings: list[Finding] = []
    self.checksums: dict[str, str] = {}
    self.intensities: dict[str, Intensities] = {}
    self.labels: dict[float, int] | None = None
    self.label_voxels = 0
    self.first: tuple[str, Volume] | None = None  # without its voxels
    self.shape: tuple[int, ...] | None = None
    # Where an image is not zero; None as long as none was read, and useless once one could not be.
    self.brain: np.ndarray | None = None
    self.whole = True
    self.backgrounds: dict[str, float] = {}
    self.contradictions: dict[str, list[str]] = {}  # in a header -> the files that have it

  def examine(self) -> Examination:
    for key, path in self.files.named.items():
      self._file(key, path)
    self._whole_case()
    first = self.first and self.first[1]
    return Examination(
      self.files.name, self.shape, first and first.spacing, first and first.affine, self.checksums, self.intensities,
      self.labels, self.label_voxels, self.files.segmentation is not None, tuple(self.findings),
    )

  def _file(self, key: str, path: Path) -> None:
    """Reads a file, and releases it."""
    try:
      labels = path == self.files.segmentation
      volume = read_labels(path) if labels else read_volume(path, 4 if self._holds_all(path) else 3)
    except VolumeError as error:
      self._add("error", "unreadable", self.files.told(path, error.reason), error.remedy)
      self.whole = False
      return
    except MemoryError:
      reason = self.files.told(path, f"{path.name} does not fit into memory")
      self._add("error", "unreadable", reason, "crop it, or use fewer workers")
      self.whole = False
      return
    self.checksums[key] = volume.checksum
    for note in volume.notes:
      self._add("warning", "put_right", self.files.told(path, note), "if that is right, nothing needs to be done")
    self._scale(path, volume)
    for text in header_faults(volume.header):
      self.contradictions.setdefault(text, []).append(self._what(path))
    for kind, data in self._volumes(path, volume):
      self._volume(kind, data, volume)

  def _whole_case(self) -> None:
    """Notes what the files of a case mostly have in common, once."""
    for text, files in self.contradictions.items():
      remedy = "the sform is taken where there is one, and distances are measured by it; correct the header"
      self._add("warning", HEADER, f"in the header of {', '.join(files)}: {text}", remedy)
    if self.backgrounds:
      values = ", ".join(f"{number(value)} in {kind}" for kind, value in self.backgrounds.items())
      remedy = "preprocess --foreground=auto finds out whether it is so in most cases, and then leaves it out"
      self._add("warning", BACKGROUND, f"the background is not 0, but {values}", remedy)

  def _what(self, path: Path) -> str:
    """What a file is called in messages."""
    if path == self.files.segmentation:
      return "segmentation"
    return "image" if self._holds_all(path) else self.schema.modality_names[self.files.images.index(path)]

  def _add(self, severity: Severity, kind: str, reason: str, remedy: str) -> None:
    self.findings.append(Finding(self.files.name, severity, kind, reason, remedy))

  def _holds_all(self, path: Path) -> bool:
    return self.files.channels is not None and path != self.files.segmentation

  def _volumes(self, path: Path, volume: Volume) -> Iterator[tuple[str, np.ndarray]]:
    """What a file holds: "segmentation", or a modality and its voxels, one or all of them."""
    if path == self.files.segmentation:
      yield "segmentation", volume.data
    elif not self._holds_all(path):
      yield self.schema.modality_names[self.files.images.index(path)], volume.data
    elif volume.data.shape[3] != len(self.files.channels):
      reason = f"{path.name} has {volume.data.shape[3]} channels instead of {', '.join(self.files.channels)}"
      self._add("error", "unreadable", reason, "correct dataset.json, or put the right file there")
      self.whole = False
    else:
      for name in self.schema.modality_names:
        yield name, volume.data[..., self.files.channels.index(name)]

  def _volume(self, kind: str, data: np.ndarray, volume: Volume) -> None:
    on_grid = self._geometry(kind, data.shape, volume)
    flat = data.ravel(order="K")  # without a copy: the volumes are stored as the files are
    if kind == "segmentation":
      self.labels, self.label_voxels = _value_counts(flat), flat.size
      self._outside(flat, on_grid)
      return
    inside = flat != 0
    if on_grid:
      if self.brain is None:
        self.brain = inside
      else:
        self.brain |= inside
    if self._image(kind, flat[inside], flat.size) and (value := background(data)) is not None:
      self.backgrounds[kind] = value

  def _geometry(self, kind: str, shape: tuple[int, ...], volume: Volume) -> bool:
    """Whether a volume has the shape of the first; notes where its grid is another."""
    if self.first is None:
      self.first, self.shape = (kind, dataclasses.replace(volume, data=np.empty(0))), shape
      return True
    name, first = self.first
    if shape != self.shape:
      reason = f"{kind} has {lengths(shape)} voxels, {name} {lengths(self.shape)}"
      self._add("error", "geometry", reason, _GRID)
      self.whole = False
      return False
    if not np.allclose(volume.affine, first.affine, rtol=0, atol=AFFINE_TOLERANCE):
      self._add("error", "geometry", _affines_differ(kind, volume, name, first), _GRID)
    return True

  def _scale(self, path: Path, volume: Volume) -> None:
    slope, intercept = volume.header.get_slope_inter()
    if slope is not None and (slope, intercept) != (1.0, 0.0):
      reason = self.files.told(path, f"{path.name} has scale factors, slope {slope:g} and intercept {intercept:g}")
      self._add("warning", "scale", reason, "they are applied; see that the values are what they should be")

  def _image(self, kind: str, inside: np.ndarray, size: int) -> bool:
    """Notes the intensities of the voxels that are not zero, out of so many; whether they are usable."""
    if fault := intensity_fault(kind, inside, size):
      self._add("error", *fault)
      return False
    low, high = float(inside.min()), float(inside.max())
    middle, most = (inside.size - 1) // 2, (inside.size - 1) * 99 // 100
    inside.partition((middle, most))
    self.intensities[kind] = Intensities(low, float(inside[middle]), float(inside[most]), high)
    if core := squeezed(inside):
      reason = (
        f"a few voxels rule the range of {kind}, {number(low)} to {number(high)}: nearly all lie from "
        f"{number(core.least)} to {number(core.greatest)}, {core.share:.1%} of it"
      )
      self._add("warning", RANGE, reason, "the range scales the network's input: correct these voxels, or cut them off")
    return True

  def _outside(self, flat: np.ndarray, on_grid: bool) -> None:
    """Labelled voxels where all modalities are 0; preprocessing would lose those outside the box of the brain."""
    if not on_grid or not self.whole or self.brain is None:
      return
    outside = (flat != 0) & ~self.brain
    count = int(np.count_nonzero(outside))
    if not count:
      return
    # Flattened as the files are, whose first axis runs fastest.
    brain, outside = (mask.reshape(self.shape, order="F") for mask in (self.brain, outside))
    lost = count - int(np.count_nonzero(outside[box_of(brain)]))
    remedy = "check that the segmentation belongs to this case, or clear them"
    if lost:
      self._add("error", "outside_box", f"{voxels(lost)} with a label outside the box of the brain", remedy)
    if count > lost:
      reason = f"{voxels(count - lost)} with a label outside the brain, where all modalities are 0"
      self._add("warning", "outside_brain", reason, remedy)


def _value_counts(flat: np.ndarray) -> dict[float, int]:
  """How often each value is there, in order; of values that no schema can have, the first few."""
  with np.errstate(invalid="ignore"):
    small = flat.astype(np.uint8, copy=False)
  fits = small == flat
  whole = bool(fits.all())
  counts = np.bincount(small if whole else small[fits])
  found: dict[float, int] = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
  if not whole:
    others, numbers = np.unique(flat[~fits], return_counts=True)
    found |= dict(zip(others[:_MOST_STRANGE].tolist(), numbers.tolist(), strict=False))
  return found


def _affines_differ(kind: str, volume: Volume, name: str, first: Volume) -> str:
  """In what two affines differ: orientation, voxel size, place or direction."""
  one, other = ("".join(map(str, nib.aff2axcodes(v.affine))) for v in (volume, first))
  if one != other:
    return f"{kind} has orientation {one}, {name} {other}"
  if not np.allclose(volume.spacing, first.spacing, rtol=0, atol=AFFINE_TOLERANCE):
    return f"{kind} has voxels of {millimetres(volume.spacing)}, {name} of {millimetres(first.spacing)}"
  if np.allclose(volume.affine[:3, :3], first.affine[:3, :3], rtol=0, atol=AFFINE_TOLERANCE):
    places = [", ".join(f"{x:.4g}" for x in v.affine[:3, 3]) for v in (volume, first)]
    return f"{kind} lies elsewhere than {name}: its first voxel is at ({places[0]}) mm, not ({places[1]})"
  return f"{kind} is turned against {name}: their affines differ"
