"""How well a segmentation agrees with the truth: overlap, surface distance, lesions and volume of each region.

NumPy and SciPy only. `score` takes label volumes; `Overlap` takes masks of one region, and so do `surfaces` and
`lesions`.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas3d_jax.data.brain import Mask, box_of
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation import lesions
from nas3d_jax.evaluation.lesions import lesion_scores
from nas3d_jax.evaluation.surfaces import EMPTY_DISTANCE, SurfaceDistances
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import is_number

PAPER_METRICS = ("dice", "sensitivity", "specificity", "hausdorff95")
"""Those of the paper's Tables 3 and 4."""

METRICS = (*PAPER_METRICS, "lesion_dice", "lesion_hausdorff95", "surface_dice", "truth_ml", "prediction_ml")
STATISTICS = ("count", "mean", "std", "min", "q25", "median", "q75", "max")

UNITS: Mapping[str, str] = types.MappingProxyType(
  {"hausdorff95": "mm", "lesion_hausdorff95": "mm", "truth_ml": "ml", "prediction_ml": "ml"}
)
"""Unit of each metric that has one."""

TOLERANCE = 1.0
"""Default tolerance of the surface Dice, in mm."""

CONVENTIONS = (
  "Dice is 2 TP / (2 TP + FP + FN), sensitivity TP / (TP + FN), specificity TN / (TN + FP) over "
  "the whole volume. hausdorff95 is in mm: the larger of the two directed 95% quantiles (linear) "
  "of the distance from a surface voxel to the nearest one of the other surface; a surface is the "
  "region minus its 6-neighbour erosion, and outside the volume is background. Region empty in "
  "prediction and truth: Dice 1, sensitivity 1, distance 0. Empty in one of them: Dice 0, "
  f"sensitivity 0, distance {EMPTY_DISTANCE}. Specificity is 1 where the region fills the volume "
  "in the truth. lesion_dice and lesion_hausdorff95 are those of BraTS 2023: a lesion is the truth "
  f"within a 26-connected component of the truth dilated {lesions.DILATION} times by its 18 neighbours; it is "
  "compared with all 26-connected components of the prediction that touch it dilated; lesions of up to "
  f"{lesions.SMALLEST} voxels are left out; a missed lesion and a predicted component that touches none count Dice 0 "
  f"and distance {lesions.PENALTY:g}; the mean is over all of them, and 1 and 0 where there is none. surface_dice is "
  "the part of the surface voxels of both regions that lie within the tolerance, in mm, of the other surface; 1 where "
  "both are empty, 0 where one is. truth_ml and prediction_ml are volumes in ml."
)
"""How the metrics are defined and empty regions counted; `--help` and the outputs quote it."""


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
  prediction: ArrayLike, truth: ArrayLike, schema: Schema, spacing: Sequence[float], *, tolerance: float = TOLERANCE
) -> dict[str, dict[str, float]]:
  """Scores the label volume of one case against the truth, by the rules of `CONVENTIONS`.

  Args:
    prediction: integer labels `[D, H, W]`.
    truth: integer labels, same shape.
    schema: names the labels and the regions they form.
    spacing: edges of a voxel along D, H and W, in mm.
    tolerance: of the surface Dice, in mm, at least 0.

  Returns:
    Region -> metric -> value, for the schema's regions and `METRICS`: "dice", "sensitivity", "specificity",
    "lesion_dice" and "surface_dice" in 0..1, "hausdorff95" (equation 7) and "lesion_hausdorff95" in mm, "truth_ml" and
    "prediction_ml" in ml.

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
  tolerance = check_tolerance(tolerance)
  # Outside this box everything is background, which belongs to no region.
  box = box_of((prediction != 0) | (truth != 0))
  predicted_masks = _region_masks("prediction", prediction[box], schema)
  true_masks = _region_masks("truth", truth[box], schema)
  return {
    region: _region_scores(predicted, true, spacing, truth.size, tolerance)
    for region, predicted, true in zip(schema.region_names, predicted_masks, true_masks, strict=True)
  }


def check_tolerance(tolerance: float) -> float:
  """The tolerance of the surface Dice in mm, as a float.

  Raises:
    InputError: it is no finite number of at least 0.
  """
  if not is_number(tolerance) or tolerance < 0:
    raise InputError(f"tolerance must be a length in mm of at least 0, got {tolerance!r}")
  return float(tolerance)


def _region_scores(
  prediction: Mask, truth: Mask, spacing: Sequence[float], volume: int, tolerance: float
) -> dict[str, float]:
  """`METRICS` of one region; the masks are crops of a volume of so many voxels."""
  overlap = Overlap.of(prediction, truth, volume=volume)
  distances = SurfaceDistances.between(prediction, truth, spacing)
  hausdorff95 = distances.hausdorff95()
  by_lesion = lesion_scores(prediction, truth, spacing, whole=hausdorff95)
  millilitres = math.prod(spacing) / 1000
  values = (
    overlap.dice,
    overlap.sensitivity,
    overlap.specificity,
    hausdorff95,
    by_lesion.dice,
    by_lesion.hausdorff95,
    distances.surface_dice(tolerance),
    overlap.truth * millilitres,
    overlap.prediction * millilitres,
  )
  return dict(zip(METRICS, values, strict=True))


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
