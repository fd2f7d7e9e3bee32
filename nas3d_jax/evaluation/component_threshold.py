"""Chooses the least component of the innermost region that is kept, on predictions with known truth."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas3d_jax.data.cases.nifti import VolumeError, read_volume
from nas3d_jax.data.cases.segmentations import find_segmentations
from nas3d_jax.errors import InputError
from nas3d_jax.inference.postprocessing import components_ml
from nas3d_jax.runtime.parallel import each
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.schema.schema import Schema

CANDIDATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Thresholds that are tried, in ml."""


@dataclasses.dataclass(frozen=True)
class Choice:
  """A threshold and why.

  Attributes:
    region: the innermost region, whose components the threshold is for.
    min_component_ml: the threshold chosen, in ml.
    dice: mean Dice of that region over the cases, for each threshold tried.
  """

  region: str
  min_component_ml: float
  dice: Mapping[float, float]

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON."""
    tried = [{"min_component_ml": threshold, "dice": dice} for threshold, dice in self.dice.items()]
    return {"region": self.region, "min_component_ml": self.min_component_ml, "tried": tried}


def choose_min_component(
  predictions_dir: str | Path,
  data_dir: str | Path,
  cases: Sequence[str],
  *,
  schema: Schema = BRATS2019,
  candidates: Sequence[float] = CANDIDATES,
) -> Choice:
  """Chooses the threshold of `remove_small` with the highest mean Dice on predictions with known truth.

  Both empty counts as Dice 1, one empty as 0, as in `metrics`: that is what removal is for. Of equals the smallest
  threshold is taken. The predictions should be those of the cross-validation, made with min_component_ml=0.

  Args:
    predictions_dir: the folder of `<case>.nii.gz`.
    data_dir: the folder of the cases with their segmentations.
    cases: names of the cases.
    schema: what the labels mean.
    candidates: thresholds in ml.

  Raises:
    InputError: a volume is missing or cannot be read, or there is nothing to try.
  """
  if not cases or not candidates:
    raise InputError(f"cases and candidates must not be empty, got {cases!r} and {candidates!r}")
  truths, _ = find_segmentations(data_dir, schema)
  missing = [case for case in cases if case not in truths]
  if missing:
    raise InputError(f"there is no segmentation of {', '.join(missing)} in {data_dir}; give cases with truth")
  thresholds = sorted(candidates)
  dice_of = functools.partial(_dice, Path(predictions_dir), truths, schema, thresholds)
  table = np.mean(each("threshold", dice_of, list(cases), os.cpu_count() or 1), axis=0)
  best = thresholds[int(np.argmax(table))]
  return Choice(schema.region_names[schema.innermost], best, dict(zip(thresholds, table.tolist(), strict=True)))


def _dice(
  predictions: Path, truths: Mapping[str, Path], schema: Schema, thresholds: Sequence[float], case: str
) -> list[float]:
  """Dice of the innermost region of a case for each threshold."""
  try:
    volumes = [read_volume(path) for path in (predictions / f"{case}.nii.gz", truths[case])]
  except VolumeError as error:
    raise InputError(f"{case} {error.reason}; {error.remedy}") from error
  if volumes[0].data.shape != volumes[1].data.shape:
    raise InputError(f"prediction and truth of {case} differ in shape; predict it anew")
  predicted, truth = (schema.region_masks(np.asarray(volume.data))[..., schema.innermost] for volume in volumes)
  components, sizes = components_ml(predicted, volumes[0].spacing)
  # Voxels of each component, and those of them that are right.
  voxels = np.bincount(components.ravel(), minlength=len(sizes) + 1)[1:]
  right = np.bincount(components[truth], minlength=len(sizes) + 1)[1:]
  kept = [sizes >= threshold for threshold in thresholds]
  totals = [int(voxels[keep].sum() + truth.sum()) for keep in kept]
  return [2 * int(right[keep].sum()) / total if total else 1.0 for keep, total in zip(kept, totals, strict=True)]
