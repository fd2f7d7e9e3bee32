"""What is strange about a volume that can be read, and changes what a network sees or how far apart two voxels are.

`inspect` lists it case by case, `preprocess` says it in a line: a background that is not zero, a few voxels that rule
the range of intensities, a header that says two things about the place of the voxels or has slanted axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from nas3d_jax.data.cases.case_files import few
from nas3d_jax.data.cases.find_and_read import RawCase
from nas3d_jax.data.intensities import border_value, foreground_of
from nas3d_jax.data.intensity_names import Foreground
from nas3d_jax.schema.schema import Schema

BACKGROUND, RANGE, HEADER = "background", "range", "header"
"""Kinds of what is strange."""
WORDS = {
  BACKGROUND: "the background is not 0",
  RANGE: "a few voxels rule the range of intensities",
  HEADER: "the header contradicts itself, or has slanted axes",
}

_FEWEST_VOXELS = 100
_LEFT_OUT = 1000
"""One voxel in so many is left out at each end of the intensities, and one at the least."""
_LEAST_SHARE = 0.1
"""Of the range, that all other voxels have in images that are sound: a fifth and more in those seen."""
_LENGTHS_DIFFER = 0.01
"""Part by which the sizes of a voxel in one header differ when they are not one size that was rounded."""
_PLACES_DIFFER = 0.5
"""Of a voxel's shortest edge; a quaternion in single precision misses the far corner of a head by up to 0.1."""
_RIGHT_ANGLES = 0.01
"""Cosine of the angle of two axes from which they are slanted; 0.6 degrees, far beyond rounding."""
_UNITS = {1: "metres", 3: "micrometres"}


class Core(NamedTuple):
  """Where nearly all intensities of an image lie, and its range."""

  least: float
  greatest: float
  low: float
  high: float

  @property
  def share(self) -> float:
    """The part of the range that they take."""
    return (self.greatest - self.least) / (self.high - self.low)


def background(data: NDArray) -> float | None:
  """The value other than zero that most voxels on the faces of a volume [D, H, W] have; None without one."""
  return border_value(data) or None


def squeezed(values: NDArray) -> Core | None:
  """Where nearly all intensities lie, if that is less than a tenth of their range; None if not.

  Args:
    values: those of the voxels that are not zero, finite and flat; their order changes.
  """
  if values.size < _FEWEST_VOXELS:
    return None
  cut = max(values.size // _LEFT_OUT, 1)
  ends = (0, cut, values.size - 1 - cut, values.size - 1)
  values.partition(ends)
  low, least, greatest, high = (float(values[end]) for end in ends)
  core = Core(least, greatest, low, high)
  return core if low < high and core.share < _LEAST_SHARE else None


def header_faults(header: nib.Nifti1Header) -> Iterator[str]:
  """What is strange in a header about size, place, angles and unit of the voxels, in words without the file's name."""
  unit = int(header["xyzt_units"]) & 7
  if unit in _UNITS:
    yield f"lengths are said to be {_UNITS[unit]}, and taken as mm"
  if not header["sform_code"]:
    return
  sform = np.asarray(header.get_sform(), np.float64)
  own, said = voxel_sizes(sform), np.abs(np.asarray(header["pixdim"][1:4], np.float64))
  if (np.abs(own - said) > _LENGTHS_DIFFER * np.maximum(own, said)).any():
    yield f"the sform has voxels of {_lengths(own)}, pixdim says {_lengths(said)}"
    return  # the qform has its voxel sizes from pixdim
  axes = sform[:3, :3] / own
  if (most := float(np.abs(axes.T @ axes - np.eye(3)).max())) > _RIGHT_ANGLES:
    yield f"two axes of the sform are {np.degrees(np.arccos(most)):.1f} degrees apart, and lengths are taken as of 90"
    return  # which a qform cannot be
  if not header["qform_code"]:
    return
  try:
    qform = np.asarray(header.get_qform(), np.float64)
  except HeaderDataError:
    yield "the qform is none"
    return
  # Its voxel sizes are those of pixdim, which agree but for rounding, and would add up over the volume.
  qform[:3, :3] *= own / voxel_sizes(qform)
  one, other = ("".join(map(str, nib.aff2axcodes(affine))) for affine in (sform, qform))
  corners = np.asarray(list(itertools.product(*((0, length - 1) for length in header.get_data_shape()[:3]))))
  apart = float(np.linalg.norm(apply_affine(sform, corners) - apply_affine(qform, corners), axis=1).max())
  if one != other:
    yield f"the sform has orientation {one}, the qform {other}"
  elif apart > _PLACES_DIFFER * own.min():
    yield f"sform and qform place voxels up to {apart:.3g} mm apart"


def strangeness(raw: RawCase, schema: Schema, foreground: Foreground = "nonzero") -> list[tuple[str, str]]:
  """What is strange about a case: kind and where, of images the modality, of the first header in words."""
  found = [(HEADER, text) for text in header_faults(raw.header)]
  for channel, name in enumerate(schema.modality_names):
    data = raw.image[..., channel]
    found += [(BACKGROUND, name)] if foreground == "nonzero" and background(data) is not None else []
    found += [(RANGE, name)] if squeezed(data[foreground_of(data, foreground)]) else []
  return found


def summary(cases: Mapping[str, Iterable[tuple[str, str]]]) -> list[str]:
  """A line for each kind of `strangeness` among cases: where, in how many and in which."""
  lines = []
  for kind, words in WORDS.items():
    found = {name: [where for what, where in strange if what == kind] for name, strange in cases.items()}
    names = [name for name, places in found.items() if places]
    if names:
      places = ", ".join(dict.fromkeys(place for name in names for place in found[name]))
      lines.append(f"warning: {words} ({places}) in {len(names)} of {len(cases)} cases: {few(names)}; see inspect")
  return lines


def _lengths(spacing: NDArray) -> str:
  return " x ".join(f"{length:.4g}" for length in spacing) + " mm"
