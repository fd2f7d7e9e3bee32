"""How well a segmentation agrees with the truth: overlap and surface distance of each region.

NumPy and SciPy only. `score` takes label volumes; `Overlap`, `surface` and `hausdorff95` take masks
of one region.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, spatial

from nas3d_jax.errors import InputError
from nas3d_jax.schema import Schema

METRICS = ("dice", "sensitivity", "specificity", "hausdorff95")
STATISTICS = ("count", "mean", "std", "min", "q25", "median", "q75", "max")

EMPTY_DISTANCE = 373.13
"""Distance in mm where only one of two regions is empty: the diagonal of 240 x 240 x 155 mm."""

CONVENTIONS = (
  "Dice is 2 TP / (2 TP + FP + FN), sensitivity TP / (TP + FN), specificity TN / (TN + FP) over "
  "the whole volume. hausdorff95 is in mm: the larger of the two directed 95% quantiles (linear) "
  "of the distance from a surface voxel to the nearest one of the other surface; a surface is the "
  "region minus its 6-neighbour erosion, and outside the volume is background. Region empty in "
  "prediction and truth: Dice 1, sensitivity 1, distance 0. Empty in one of them: Dice 0, "
  f"sensitivity 0, distance {EMPTY_DISTANCE}. Specificity is 1 where the region fills the volume "
  "in the truth."
)
"""How the metrics are defined and empty regions counted; `--help` and the outputs quote it."""

_QUANTILE = 0.95
# One query of the k-d tree costs about as much as the distance transform of this many voxels: the
# tree wins on solid regions, where few voxels are surface, the transform on ragged ones.
_VOXELS_PER_QUERY = 10

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Overlap:
  """Voxel counts of one region of one case, and the ratios that follow from them.

  Attributes:
    both: voxels in prediction and truth, the true positives.
    prediction: voxels in the prediction.
    truth: voxels in the truth.
    volume: voxels of the whole volume.
  """

  both: int
  prediction: int
  truth: int
  volume: int

  @classmethod
  def of(cls, prediction: Mask, truth: Mask, volume: int | None = None) -> Overlap:
    """Counts two masks of one shape; `volume` is the size of the volume they are crops of."""
    both = np.count_nonzero(prediction & truth)
    return cls(
      both=int(both),
      prediction=int(np.count_nonzero(prediction)),
      truth=int(np.count_nonzero(truth)),
      volume=truth.size if volume is None else volume,
    )

  @property
  def dice(self) -> float:
    """2 TP / (2 TP + FP + FN); 1 where both are empty."""
    total = self.prediction + self.truth
    return 2 * self.both / total if total else 1.0

  @property
  def sensitivity(self) -> float:
    """TP / (TP + FN); where the truth is empty, 1 if the prediction is empty too and 0 if not."""
    return self.both / self.truth if self.truth else float(self.prediction == 0)

  @property
  def specificity(self) -> float:
    """TN / (TN + FP) over the whole volume; 1 where the truth fills it."""
    background = self.volume - self.truth
    return 1 - (self.prediction - self.both) / background if background else 1.0


def score(
  prediction: ArrayLike, truth: ArrayLike, schema: Schema, spacing: Sequence[float]
) -> dict[str, dict[str, float]]:
  """Scores the label volume of one case against the truth, as `CONVENTIONS` says.

  Args:
    prediction: integer labels `[D, H, W]`.
    truth: integer labels, same shape.
    schema: names the labels and the regions they form.
    spacing: edges of a voxel along D, H and W, in mm.

  Returns:
    Region -> metric -> value, for the schema's regions and `METRICS`: "dice", "sensitivity" and
    "specificity" in 0..1, "hausdorff95" in mm (equation 7).

  Raises:
    InputError: an argument has the wrong shape or type, or holds a label outside the schema.
  """
  prediction = _checked_labels("prediction", prediction)
  truth = _checked_labels("truth", truth)
  if prediction.shape != truth.shape:
    raise InputError(
      f"prediction has shape {prediction.shape} and truth {truth.shape}; give both on one grid"
    )
  spacing = _checked_spacing(spacing)
  # Outside this box everything is background, which belongs to no region.
  box = _box((prediction != 0) | (truth != 0))
  predicted_masks = _region_masks("prediction", prediction[box], schema)
  true_masks = _region_masks("truth", truth[box], schema)
  result = {}
  for region, predicted, true in zip(
    schema.region_names, predicted_masks, true_masks, strict=True
  ):
    overlap = Overlap.of(predicted, true, volume=truth.size)
    result[region] = {
      "dice": overlap.dice,
      "sensitivity": overlap.sensitivity,
      "specificity": overlap.specificity,
      "hausdorff95": hausdorff95(predicted, true, spacing),
    }
  return result


def surface(mask: Mask) -> Mask:
  """The voxels of a mask `[D, H, W]` with background, or the volume's end, among 6 neighbours."""
  return mask & ~ndimage.binary_erosion(mask)


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
  filled = prediction.any(), truth.any()
  if not all(filled):
    return EMPTY_DISTANCE if any(filled) else 0.0
  box = _box(prediction | truth)
  ours, theirs = surface(prediction[box]), surface(truth[box])
  steps = np.asarray(spacing, np.float64)
  directed = _distances(ours, theirs, steps), _distances(theirs, ours, steps)
  return float(max(np.quantile(distances, _QUANTILE) for distances in directed))


def summarize(values: Iterable[float]) -> dict[str, float]:
  """Statistics of one metric over cases.

  Args:
    values: one finite number a case, at least one.

  Returns:
    `STATISTICS` by name. The standard deviation is the population's (division by the count), the
    quartiles and the median are linear between values.

  Raises:
    InputError: there is no value.
  """
  sample = np.asarray(list(values), np.float64)
  if not sample.size:
    raise InputError("values is empty; a summary needs at least one case")
  low, q25, median, q75, high = np.quantile(sample, (0, 0.25, 0.5, 0.75, 1)).tolist()
  return {
    "count": sample.size,
    "mean": float(sample.mean()),
    "std": float(sample.std()),
    "min": low,
    "q25": q25,
    "median": median,
    "q75": q75,
    "max": high,
  }


def _distances(source: Mask, target: Mask, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
  """Distance in mm from each voxel of `source` to the nearest of `target`, in no set order."""
  apart = source & ~target  # the shared voxels are at distance 0
  queries = np.count_nonzero(apart)
  distances = np.zeros(np.count_nonzero(source))
  if queries * _VOXELS_PER_QUERY > source.size:
    distances[:queries] = ndimage.distance_transform_edt(~target, sampling=spacing)[apart]
  elif queries:
    # Sliding midpoints build faster than medians, and voxels of a grid never make them degenerate.
    tree = spatial.KDTree(np.argwhere(target) * spacing, balanced_tree=False, compact_nodes=False)
    distances[:queries] = tree.query(np.argwhere(apart) * spacing)[0]
  return distances


def _box(mask: Mask) -> Box:
  """The smallest box that holds the mask; an empty one for an empty mask."""
  found = ndimage.find_objects(mask.view(np.uint8))
  return found[0] if found else (slice(0, 0),) * mask.ndim


def _checked_labels(name: str, labels: ArrayLike) -> NDArray[np.integer]:
  labels = np.asarray(labels)
  if labels.ndim != 3 or not labels.size:
    raise InputError(f"{name} must be a label volume [D, H, W], got shape {labels.shape}")
  if not np.issubdtype(labels.dtype, np.integer):
    raise InputError(f"{name} must hold integer labels, got {labels.dtype}; convert it first")
  return labels


def _region_masks(name: str, labels: NDArray[np.integer], schema: Schema) -> Mask:
  """Masks `[R, D, H, W]`, each contiguous, of labels that the schema knows."""
  known = set(schema.label_values)
  unknown = sorted(set(np.unique(labels).tolist()) - known)
  if unknown:
    raise InputError(
      f"{name} holds labels {unknown}, but schema {schema.name!r} has {sorted(known)}; "
      "give the schema that the labels follow"
    )
  return np.ascontiguousarray(np.moveaxis(schema.region_masks(labels), -1, 0))


def _checked_spacing(spacing: Sequence[float]) -> tuple[float, ...]:
  steps = np.asarray(spacing, np.float64)
  if steps.shape != (3,) or not np.all(np.isfinite(steps) & (steps > 0)):
    raise InputError(f"spacing must be three positive lengths in mm, got {spacing!r}")
  return tuple(steps.tolist())
