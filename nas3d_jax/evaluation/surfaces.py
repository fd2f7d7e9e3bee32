"""Surfaces of masks and the distances between them (equation 7). NumPy and SciPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

from nas3d_jax.data.brain import Mask, box_of

EMPTY_DISTANCE = 373.13
"""Distance in mm where only one of two regions is empty: the diagonal of 240 x 240 x 155 mm."""


_QUANTILE = 0.95
# One query of the k-d tree costs about as much as the distance transform of this many voxels: the
# tree wins on solid regions, where few voxels are surface, the transform on ragged ones.
_VOXELS_PER_QUERY = 10
# A distance that is a tolerance but for the rounding of a square root is within it.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class SurfaceDistances:
  """How far each surface voxel of one mask is from the surface of another, both ways, in mm.

  Attributes:
    to_truth: of each surface voxel of the prediction, in no set order; empty without prediction.
    to_prediction: of each surface voxel of the truth; empty without truth. Where only one of the
      masks is empty, both arrays are as long as their surfaces, and infinite.
  """

  to_truth: NDArray[np.float64]
  to_prediction: NDArray[np.float64]

  @classmethod
  def between(cls, prediction: Mask, truth: Mask, spacing: Sequence[float]) -> SurfaceDistances:
    """Measures two masks `[D, H, W]`; `spacing` are the edges of a voxel along D, H, W in mm."""
    box = box_of(prediction | truth)
    ours, theirs = surface(prediction[box]), surface(truth[box])
    steps = np.asarray(spacing, np.float64)
    return cls(_distances(ours, theirs, steps), _distances(theirs, ours, steps))

  def hausdorff95(self) -> float:
    """The larger of the two directed 95% quantiles, linear between values, in mm (equation 7).

    0 where both masks are empty, `EMPTY_DISTANCE` where one is.
    """
    filled = self.to_truth.size, self.to_prediction.size
    if not all(filled):
      return EMPTY_DISTANCE if any(filled) else 0.0
    return float(max(np.quantile(way, _QUANTILE) for way in (self.to_truth, self.to_prediction)))

  def surface_dice(self, tolerance: float) -> float:
    """Surface voxels within `tolerance` mm of the other surface, as part of those of both surfaces.

    1 where both masks are empty, 0 where one is.
    """
    count = self.to_truth.size + self.to_prediction.size
    limit = tolerance + _ROUNDING
    near = np.count_nonzero(self.to_truth <= limit) + np.count_nonzero(self.to_prediction <= limit)
    return float(near / count) if count else 1.0


def surface(mask: Mask) -> Mask:
  """The voxels of a mask `[D, H, W]` with background, or the volume's end, among 6 neighbours."""
  found = np.zeros_like(mask)
  box = box_of(mask)
  found[box] = mask[box] & ~ndimage.binary_erosion(mask[box])
  return found


def hausdorff95(prediction: Mask, truth: Mask, spacing: Sequence[float]) -> float:
  """95% Hausdorff distance of two masks (equation 7): the larger of the two directed 95% quantiles.

  Args:
    prediction: mask `[D, H, W]`.
    truth: mask, same shape.
    spacing: edges of a voxel along D, H and W, in mm.

  Returns:
    Distance in mm between the surfaces; 0 where both masks are empty, `EMPTY_DISTANCE` where one
    is.
  """
  return SurfaceDistances.between(prediction, truth, spacing).hausdorff95()


def _distances(source: Mask, target: Mask, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
  """Distance in mm from each voxel of `source` to the nearest of `target`, in no set order."""
  distances = np.zeros(np.count_nonzero(source))
  if not target.any():
    return np.full_like(distances, np.inf)
  apart = source & ~target  # the shared voxels are at distance 0
  queries = np.count_nonzero(apart)
  if queries * _VOXELS_PER_QUERY > source.size:
    distances[:queries] = ndimage.distance_transform_edt(~target, sampling=spacing)[apart]
  elif queries:
    # Sliding midpoints build faster than medians, and voxels of a grid never make them degenerate.
    tree = spatial.KDTree(np.argwhere(target) * spacing, balanced_tree=False, compact_nodes=False)
    distances[:queries] = tree.query(np.argwhere(apart) * spacing)[0]
  return distances
