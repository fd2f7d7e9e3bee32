"""Scores lesion by lesion, as the BraTS challenge of 2023 defines them for gliomas.

Scores of a whole region hide a small lesion that was missed beside a large one that was found. Here every lesion counts
alike, and so does every false one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nas3d_jax.data.brain import Box, Mask, box_of
from nas3d_jax.evaluation.surfaces import hausdorff95

DILATION = 3
"""Voxels that are added around the truth, 18 neighbours at a time: what then touches is one lesion."""

SMALLEST = 50
"""Lesions of so many voxels or fewer are left out."""

PENALTY = 374.0
"""Distance in mm of a lesion that was missed, and of a predicted one that is none."""

_ALL_NEIGHBOURS = ndimage.generate_binary_structure(3, 3)


@dataclasses.dataclass(frozen=True)
class LesionScores:
  """Scores of one region of one case, lesion by lesion.

  Attributes:
    dice: mean Dice over the lesions of the truth and the false ones, which count 0; 1 where there is none of either.
    hausdorff95: mean 95% Hausdorff distance in mm, missed and false lesions counting `PENALTY`; 0 where there is none.
    found: lesions of the truth that a predicted component touches.
    missed: lesions of the truth that none touches.
    false: predicted components that touch no lesion.
  """

  dice: float
  hausdorff95: float
  found: int
  missed: int
  false: int


def lesion_scores(
  prediction: Mask, truth: Mask, spacing: Sequence[float], *, whole: float | None = None
) -> LesionScores:
  """Scores two masks lesion by lesion.

  The truth is dilated by `DILATION` voxels; the truth within one 26-connected component of that is a lesion. All
  26-connected components of the prediction that touch the dilated lesion are compared with it together, so that one may
  stand for several lesions. Lesions of up to `SMALLEST` voxels are then left out; a component that touches one of them
  is not false. A predicted component is false however small it is.

  Args:
    prediction: mask `[D, H, W]`.
    truth: mask, same shape.
    spacing: edges of a voxel along D, H and W, in mm; sizes and dilation are in voxels whatever it is.
    whole: `hausdorff95` of the two masks where it is known, which spares measuring a single lesion again.

  Returns:
    The means and the counts; lesions that are left out are in none of them.
  """
  # Within the box of both masks, dilated lesions meet exactly where they meet in the volume: it is convex.
  box = box_of(prediction | truth)
  prediction, truth = prediction[box], truth[box]
  if not prediction.size:
    return LesionScores(1.0, 0.0, 0, 0, 0)
  zones, lesions = _zones(truth)
  parts, components = ndimage.label(prediction, _ALL_NEIGHBOURS)
  predicted = parts[prediction]
  touch = _touching(zones[prediction], predicted)
  sizes, both = (np.bincount(zones[mask], minlength=lesions + 1)[1:] for mask in (truth, truth & prediction))
  part_sizes = np.bincount(predicted, minlength=components + 1)
  compared = np.bincount(touch[0], part_sizes[touch[1]], minlength=lesions + 1)[1:]
  counted, hit = sizes > SMALLEST, compared > 0
  false = components - np.unique(touch[1]).size
  missed = np.count_nonzero(counted & ~hit)
  total = np.count_nonzero(counted) + false
  if not total:
    return LesionScores(1.0, 0.0, 0, 0, 0)
  which = np.flatnonzero(counted & hit) + 1
  if lesions == 1 and not false and whole is not None:
    distances = [whole] * which.size
  else:
    distances = _measure(zones, truth, parts, touch, which=which.tolist(), spacing=spacing)
  dice = 2 * both[counted] / (sizes + compared)[counted]
  return LesionScores(
    dice=float(dice.sum() / total),
    hausdorff95=float((sum(distances) + PENALTY * (missed + false)) / total),
    found=which.size,
    missed=int(missed),
    false=int(false),
  )


def _zones(truth: Mask) -> tuple[NDArray[np.integer], int]:
  """The components of the dilated truth, numbered from 1, 0 elsewhere; and how many there are."""
  zones = np.zeros(truth.shape, np.int32)
  near = tuple(slice(max(0, span.start - DILATION), span.stop + DILATION) for span in box_of(truth))
  labels, count = ndimage.label(_dilate(truth[near]), _ALL_NEIGHBOURS)
  zones[near] = labels
  return zones, count


def _touching(zones: NDArray[np.integer], parts: NDArray[np.integer]) -> NDArray[np.int64]:
  """Which lesion and which component share a voxel: [2, pairs], each pair once, sorted by lesion.

  Args:
    zones: lesion that each predicted voxel is in or near, 0 where in none.
    parts: component that it belongs to.
  """
  near = zones > 0
  base = int(parts.max(initial=0)) + 1
  pairs = np.unique(zones[near].astype(np.int64) * base + parts[near])
  return np.stack(np.divmod(pairs, base))


def _measure(
  zones: NDArray[np.integer],
  truth: Mask,
  parts: NDArray[np.integer],
  touch: NDArray[np.int64],
  *,
  which: Sequence[int],
  spacing: Sequence[float],
) -> list[float]:
  """95% Hausdorff distance of each of these lesions to all components that touch it."""
  zone_boxes, part_boxes = ndimage.find_objects(zones), ndimage.find_objects(parts)
  begin, end = (np.searchsorted(touch[0], which, side) for side in ("left", "right"))
  distances = []
  for lesion, first, last in zip(which, begin, end, strict=True):
    own = touch[1, first:last]
    box = _around([zone_boxes[lesion - 1], *(part_boxes[part - 1] for part in own)])
    theirs = (zones[box] == lesion) & truth[box]
    distances.append(hausdorff95(np.isin(parts[box], own), theirs, spacing))
  return distances


def _around(boxes: Sequence[Box]) -> Box:
  """The smallest box around all of these."""
  return tuple(
    slice(min(span.start for span in axis), max(span.stop for span in axis)) for axis in zip(*boxes, strict=True)
  )


def _dilate(mask: Mask) -> Mask:
  """Adds `DILATION` times the 18 neighbours that share a face or an edge.

  A voxel with its 18 neighbours is three squares of 3 x 3, one along each pair of axes, and a square is two lines;
  three times faster than SciPy's dilation.
  """
  for _ in range(DILATION):
    first, second = _lines(mask, 0), _lines(mask, 1)
    mask = _lines(first, 1) | _lines(first, 2) | _lines(second, 2)
  return mask


def _lines(mask: Mask, axis: int) -> Mask:
  """Adds the two neighbours along an axis."""
  out = mask.copy()
  moved, there = np.moveaxis(out, axis, 0), np.moveaxis(mask, axis, 0)
  moved[1:] |= there[:-1]
  moved[:-1] |= there[1:]
  return out
