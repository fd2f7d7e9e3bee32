"""One axis of a volume with voxels of another length, about the same centre. No JAX here."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ON_THE_EDGE = 1e-3  # a place this near to the middle between two voxels is the lower one's, however it is rounded
_POINT = 1e-6  # a mean over less than this is the value in the middle


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
