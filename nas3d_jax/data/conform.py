"""Brings a case to the orientation and voxel size of a data set, and back.

A volume is turned first: its axes are permuted and mirrored, which loses nothing. Not even an oblique volume is
rotated. Then each axis whose voxels are longer or shorter than they should be is resampled, about the centre of the
volume:

- intensities along straight lines between the voxels, averaged where voxels grow (`blend`). Voxels outside the
  brain take no part in it, so the brain keeps its intensities up to its border, and outside it all is zero;
- brain and labels by the nearest voxel;
- probabilities, on their way back, as intensities.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from nibabel import orientations
from numpy.typing import ArrayLike, NDArray

from nas3d_jax.data.brain import brain_of
from nas3d_jax.errors import InputError
from nas3d_jax.schema.geometry import Geometry, same_length

_MOST_RATIO = 64
_MOST_VOXELS = 1 << 28
_ON_THE_EDGE = 1e-3  # a place this near to the middle between two voxels is the lower one's, however it is rounded
_POINT = 1e-6  # a mean over less than this is the value in the middle


@dataclasses.dataclass(frozen=True, eq=False)
class Regrid:
  """The way from the grid of a volume to that of a geometry, and back.

  Attributes:
    shape: (D, H, W) of the volume.
    source: its affine, 4x4, voxel indices to millimetres.
    geometry: where to.

  Raises:
    InputError: the affine cannot be inverted, or the voxels differ so much from those of the geometry that the volume
      cannot be a head.
  """

  shape: tuple[int, int, int]
  source: NDArray[np.float64]
  geometry: Geometry

  def __post_init__(self):
    spacing = self._turned_spacing
    ratios = [max(s / t, t / s) for s, t in zip(spacing, self.geometry.spacing, strict=True)]
    if max(ratios) > _MOST_RATIO or math.prod(self.new_shape) > max(_MOST_VOXELS, math.prod(self.shape)):
      raise InputError(
        f"a volume of {' x '.join(map(str, self.shape))} voxels of {Geometry.of(self.source)} cannot be brought to "
        f"{self.geometry}, it would have {' x '.join(map(str, self.new_shape))}; check the voxel size in its header"
      )

  @functools.cached_property
  def _turn(self) -> NDArray:
    return self._turn_between(Geometry.of(self.source).orientation, self.geometry.orientation)

  @staticmethod
  def _turn_between(start: str, end: str) -> NDArray:
    return orientations.ornt_transform(orientations.axcodes2ornt(start), orientations.axcodes2ornt(end))

  @functools.cached_property
  def _turned_spacing(self) -> tuple[float, ...]:
    return Geometry.of(self.source).turned(self.geometry.orientation).spacing

  @functools.cached_property
  def _turned_shape(self) -> tuple[int, ...]:
    return tuple(self.shape[axis] for axis in np.argsort(self._turn[:, 0]))

  @property
  def turns(self) -> bool:
    """Whether axes are permuted or mirrored."""
    return Geometry.of(self.source).orientation != self.geometry.orientation

  @property
  def resamples(self) -> bool:
    """Whether an axis is resampled."""
    return bool(self._resampled)

  @functools.cached_property
  def _resampled(self) -> tuple[int, ...]:
    """The axes, after turning, whose voxels are of another length."""
    pairs = zip(self._turned_spacing, self.geometry.spacing, strict=True)
    return tuple(axis for axis, lengths in enumerate(pairs) if not same_length(*lengths))

  @property
  def spacing(self) -> tuple[float, float, float]:
    """Edge lengths of a voxel of the new grid, in mm."""
    theirs = self._turned_spacing
    return tuple(t if axis in self._resampled else theirs[axis] for axis, t in enumerate(self.geometry.spacing))

  @functools.cached_property
  def new_shape(self) -> tuple[int, int, int]:
    """Voxels of the new grid: as many as make up the volume's length, rounded, at least 1 an axis."""
    lengths = zip(self._turned_shape, self._turned_spacing, self.spacing, strict=True)
    return tuple(n if s == t else max(1, math.floor(n * s / t + 0.5)) for n, s, t in lengths)

  @functools.cached_property
  def affine(self) -> NDArray[np.float64]:
    """Of the new grid, 4x4, voxel indices to millimetres."""
    turned = np.asarray(self.source, np.float64) @ orientations.inv_ornt_aff(self._turn, self.shape)
    scale = np.eye(4)
    for axis in self._resampled:
      ratio = self.spacing[axis] / self._turned_spacing[axis]
      scale[axis, axis] = ratio
      scale[axis, 3] = places(self._turned_shape[axis], self.new_shape[axis], ratio)[0]
    return turned @ scale

  def image(self, image: NDArray) -> NDArray:
    """Intensities on the new grid.

    Args:
      image: [D, H, W, M] intensities; a voxel that is zero in every channel is outside the brain.

    Returns:
      The image itself where nothing changes; a view of it where axes are only turned; else float32 [D', H', W', M] in
      Fortran order, zero outside the brain.
    """
    turned = self._turned(image)
    if not self.resamples:
      return turned
    inside = brain_of(turned)
    nearest = self._nearest(inside)
    weight = self._blend(inside)
    out = np.zeros((*nearest.shape, turned.shape[3]), np.float32, order="F")
    for channel in range(turned.shape[3]):
      np.divide(self._blend(turned[..., channel]), weight, out=out[..., channel], where=nearest)
    return out

  def labels(self, labels: NDArray) -> NDArray:
    """Labels [D, H, W] on the new grid, of the nearest voxel; itself or a view where nothing is resampled."""
    turned = self._turned(labels)
    return self._nearest(turned) if self.resamples else turned

  def back(self, probabilities: NDArray[np.float32], brain: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Probabilities of the new grid on the volume's own.

    Args:
      probabilities: [D', H', W', R], 0 outside the brain.
      brain: [D, H, W], where the volume's brain is; asked for only where an axis is resampled.

    Returns:
      float32 [D, H, W, R], 0 outside the brain; itself where nothing changes.
    """
    if self.resamples:
      inside = self._turned(brain)
      weight = self._blend(self._nearest(inside), back=True)
      inside = inside & (weight > 0)
      out = np.zeros((*inside.shape, probabilities.shape[3]), np.float32, order="F")
      for channel in range(probabilities.shape[3]):
        np.divide(self._blend(probabilities[..., channel], back=True), weight, out=out[..., channel], where=inside)
      probabilities = np.minimum(out, 1, out=out)  # the quotient may round up
    if not self.turns:
      return probabilities
    inverse = self._turn_between(self.geometry.orientation, Geometry.of(self.source).orientation)
    return orientations.apply_orientation(probabilities, inverse)

  def _turned(self, array: NDArray) -> NDArray:
    if array.shape[:3] != tuple(self.shape):
      raise InputError(f"array must be of shape {tuple(self.shape)} first, got {array.shape}")
    return orientations.apply_orientation(array, self._turn) if self.turns else array

  def _nearest(self, volume: NDArray) -> NDArray:
    for axis in self._resampled:
      ratio = self.spacing[axis] / self._turned_spacing[axis]
      volume = nearest(volume, axis, self.new_shape[axis], ratio)
    return volume

  def _blend(self, volume: NDArray, *, back: bool = False) -> NDArray[np.float32]:
    """A volume [D, H, W] on the new grid, or on the way back the one before."""
    volume = volume.astype(np.float32)
    lengths = self._turned_shape if back else self.new_shape
    # What shrinks goes first, so that the least is held and computed.
    for axis in sorted(self._resampled, key=lambda axis: lengths[axis] / volume.shape[axis]):
      ratio = self.spacing[axis] / self._turned_spacing[axis]
      volume = blend(volume, axis, lengths[axis], 1 / ratio if back else ratio)
    return volume


@dataclasses.dataclass(frozen=True, eq=False)
class Conformed:
  """A case in a geometry, and the way back.

  Attributes:
    image: [D', H', W', M] intensities, see `Regrid.image`.
    regrid: the way; None where nothing was to be changed.
    brain: [D, H, W], where the brain of the original is; None where nothing was resampled.
  """

  image: NDArray
  regrid: Regrid | None
  brain: NDArray[np.bool_] | None

  def back(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities [D', H', W', R] on the grid of the original, float32 [D, H, W, R]; 0 outside the brain."""
    return probabilities if self.regrid is None else self.regrid.back(probabilities, self.brain)


def conform(image: NDArray, affine: ArrayLike, geometry: Geometry | None) -> Conformed:
  """Brings a case to the orientation and voxel size of a geometry; what is there already is not touched.

  Args:
    image: [D, H, W, M] intensities, finite; a voxel that is zero in every channel is outside the brain.
    affine: 4x4, voxel indices to millimetres.
    geometry: where to; None means that it stays as it is.

  Raises:
    InputError: the image is of another shape, or `Regrid` raises it.
  """
  if image.ndim != 4:
    raise InputError(f"image must be [D, H, W, M], got shape {image.shape}")
  if geometry is None:
    return Conformed(image, None, None)
  regrid = Regrid(image.shape[:3], np.asarray(affine, np.float64), geometry)
  if not regrid.turns and not regrid.resamples:
    return Conformed(image, None, None)
  return Conformed(regrid.image(image), regrid, brain_of(image) if regrid.resamples else None)


def places(length: int, count: int, ratio: float) -> NDArray[np.float64]:
  """Where `count` voxels lie among `length` others, `ratio` times as long, both with one centre; in voxels of these."""
  return (length - 1) / 2 + (np.arange(count) - (count - 1) / 2) * ratio


def nearest(volume: NDArray, axis: int, count: int, ratio: float) -> NDArray:
  """`count` voxels along an axis, each as the nearest of those there, `ratio` times as long as they are."""
  length = volume.shape[axis]
  where = np.floor(places(length, count, ratio) + 0.5 - _ON_THE_EDGE)
  return volume.take(np.clip(where, 0, length - 1).astype(int), axis)


def blend(volume: NDArray[np.float32], axis: int, count: int, ratio: float) -> NDArray[np.float32]:
  """`count` voxels along an axis of [D, H, W], `ratio` times as long as those there.

  A voxel takes the mean of the straight lines between those there over `ratio` - 1 of them, about its centre; where it
  is not longer than they are, that is the value of the line at its centre. Beyond the first and the last the line goes
  on level.
  """
  length = volume.shape[axis]
  where = places(length, count, ratio)
  width = max(ratio - 1, 0)
  sources = np.floor(where - width / 2).astype(int)[:, None] + np.arange(math.ceil(width) + 2)
  distance = where[:, None] - sources
  if width < _POINT:
    weights = np.maximum(1 - np.abs(distance), 0)
  else:
    weights = (_area(distance + width / 2) - _area(distance - width / 2)) / width
  planes = np.ascontiguousarray(np.moveaxis(volume, axis, 0))
  out = np.zeros((count, *planes.shape[1:]), np.float32)
  # Plane by plane and term by term: the last bits of a matrix product differ between machines.
  rows = zip(np.clip(sources, 0, length - 1), weights.astype(np.float32), strict=True)
  for index, row in enumerate(rows):
    for source, share in zip(*row, strict=True):
      if share:
        out[index] += planes[source] * share
  return np.moveaxis(out, 0, axis)


def _area(upto: NDArray[np.float64]) -> NDArray[np.float64]:
  """Of a triangle from -1 to 1 with the height 1 at 0, left of a place."""
  upto = np.clip(upto, -1, 1)
  return np.where(upto < 0, (upto + 1) ** 2 / 2, 1 - (1 - upto) ** 2 / 2)
