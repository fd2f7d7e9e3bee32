"""Scores a folder of predicted label volumes against the truth.

Every case is scored, or the evaluation is refused with the list of what is wrong: a table never
speaks of fewer cases than were given.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from nas3d_jax.data.cases.case_files import CaseError, Fault, check_names, refuse
from nas3d_jax.data.cases.detect_schema import find_schema
from nas3d_jax.data.cases.find_and_read import geometry_faults, label_faults
from nas3d_jax.data.cases.nifti import Volume, VolumeError, exact, read_labels
from nas3d_jax.data.cases.segmentations import find_segmentations, nifti_files
from nas3d_jax.data.cases.shared_folders import labels_folder
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation import metrics
from nas3d_jax.evaluation.scores import RegionMetrics, Scores
from nas3d_jax.files.atomic import writing
from nas3d_jax.files.hashing import file_sums
from nas3d_jax.files.locks import locked
from nas3d_jax.files.run_layout import PREDICTIONS_JSON, SCORES_CSV, SCORES_JSON
from nas3d_jax.inference.prediction_record import pending_cases, stored_schema
from nas3d_jax.runtime.parallel import each
from nas3d_jax.schema.schema import Schema
from nas3d_jax.schema.translation import translate, translation
from nas3d_jax.validation import check_whole

_UNSCORED = "cannot be scored, so nothing was written"


class _Pair(NamedTuple):
  """A case and its files, "prediction" and "truth"."""

  case: str
  files: dict[str, Path]


def evaluate(
  predictions_dir: str | Path,
  data_dir: str | Path,
  out: str | Path,
  *,
  schema: str | Path | Schema | None = None,
  cases: Iterable[str] | None = None,
  only_predicted: bool = False,
  tolerance: float = metrics.TOLERANCE,
  overwrite: bool = False,
  workers: int | None = None,
) -> Scores:
  """Scores predicted label volumes and writes `scores.csv` and `scores.json` (see `scores.py`).

  Predictions have the labels of the schema in their `predictions.json`, without one those of the truth. Where the two
  schemas differ, regions are matched by name.

  A second call with the same files reuses what the first wrote. Progress goes to stderr.

  Args:
    predictions_dir: the folder of `<case>.nii.gz` (or .nii) label volumes, one a case.
    data_dir: the folder of the cases, as `preprocess` takes it; only segmentations are read.
    out: the folder to write into.
    schema: what labels, regions and files of the truth are, see `find_schema`; None means to find it out.
    cases: the cases to score; None means every prediction and every segmentation.
    only_predicted: whether segmentations without a prediction are left out, as where one fold was predicted. Cases
      that `predictions.json` has as not predicted yet are missing all the same.
    tolerance: of the surface Dice, in mm, at least 0.
    overwrite: whether to replace scores of other files, or of another tolerance, that are there already.
    workers: cases read and scored at once; None means one a core.

  Returns:
    The scores of every case.

  Raises:
    InputError: both cases and only_predicted are given; no schema fits the truth, or its regions are other ones than
      those of the predictions; a prediction or a segmentation is missing, or cannot be read, or the two differ in
      shape, affine or labels (all such cases are listed; nothing is written), or `out` holds scores of other files
      or another tolerance and overwrite is not given.
  """
  if workers is None:
    workers = os.cpu_count() or 1
  check_whole("workers", workers, 1)
  tolerance = metrics.check_tolerance(tolerance)
  if only_predicted and cases is not None:
    raise InputError("only_predicted and cases both say which cases are scored; give one of them")
  predicted = stored_schema(predictions_dir)
  schema = find_schema(data_dir, schema, like=predicted)
  predicted = predicted or schema
  table = translation(predicted, schema)
  pairs = _pair(Path(predictions_dir), Path(data_dir), schema, cases, only_predicted)
  out = Path(out)
  if not overwrite and (out / SCORES_JSON).exists():
    return _reuse(out, pairs, schema, tolerance, workers)
  if not overwrite and (out / SCORES_CSV).exists():
    raise InputError(f"{out / SCORES_CSV} would be lost; give --overwrite, or another --out")
  if changed := {value: other for value, other in table.items() if value != other}:
    what = ", ".join(f"{value} as {other}" for value, other in changed.items())
    say = f"labels of the predictions (schema {predicted.name}) are read by their regions: {what} of {schema.name}"
    Console(stderr=True).print(say, markup=False, highlight=False, soft_wrap=True)
  work = functools.partial(_score_pair, predicted=predicted, schema=schema, tolerance=tolerance)
  results = each("evaluate", work, pairs, workers)
  refuse([fault for result in results if isinstance(result, CaseError) for fault in result.faults], _UNSCORED)
  named = dict(zip((pair.case for pair in pairs), results, strict=True))
  scores = Scores(
    schema,
    {case: values for case, (values, _) in named.items()},
    {case: checksums for case, (_, checksums) in named.items()},
    tolerance,
  )
  with locked(out), writing(out):
    scores.write(out)
  return scores


def _pair(
  predictions_dir: Path, data_dir: Path, schema: Schema, cases: Iterable[str] | None, only_predicted: bool
) -> list[_Pair]:
  """Prediction and truth of each case, sorted by name; or one InputError with all the faults."""
  truths, faults = find_segmentations(data_dir, schema)
  predictions: dict[str, list[Path]] = {}
  for path, stem in nifti_files(predictions_dir, "predictions_dir", 0):
    predictions.setdefault(stem, []).append(path)
  at_fault = {fault.case for fault in faults}
  pending = pending_cases(predictions_dir)
  if cases is not None:
    wanted, where = set(cases), "cases"
  elif only_predicted:
    wanted, where = set(predictions) | pending, str(predictions_dir)
  else:
    wanted, where = set(predictions) | set(truths) | at_fault, f"{predictions_dir} and {data_dir}"
  if not wanted:
    raise InputError(f"there is no case to score in {where}; give at least one")
  faults = [*(fault for fault in faults if fault.case in wanted), *check_names(wanted)]
  for case in wanted:
    found = predictions.get(case, [])
    if not found:
      reason = f"no prediction {case}.nii.gz or .nii in {predictions_dir}"
      # So it is where a shard is missing, was stopped, or could not predict it.
      reason += f", whose {PREDICTIONS_JSON} has it as not predicted yet" if case in pending else ""
      remedy = "predict it, or name the cases to score with --cases, or leave out all like it with --only_predicted"
      if case in pending:
        remedy = "run predict again, all its shards, or name the cases to score with --cases"
      faults.append(Fault(case, reason, remedy))
    if len(found) > 1:
      files = " and ".join(path.name for path in found)
      faults.append(Fault(case, f"it has {len(found)} predictions: {files}", "keep one of them"))
    if case not in truths and case not in at_fault:
      whole = schema.layout == "folders"
      file = f"{case}{schema.segmentation[0]}" if whole else case
      where = f"below {data_dir}" if whole else f"in {labels_folder(data_dir.absolute(), schema)}"
      reason = f"no segmentation {file}.nii.gz or .nii {where}"
      faults.append(Fault(case, reason, "add it, or name the cases to score with --cases"))
  refuse(faults, _UNSCORED)
  return [_Pair(case, {"prediction": predictions[case][0], "truth": truths[case]}) for case in sorted(wanted)]


def _score_pair(
  pair: _Pair, *, predicted: Schema, schema: Schema, tolerance: float
) -> tuple[RegionMetrics, dict[str, str]] | CaseError:
  """Metrics of each region and checksums of the files of a case, or all that is wrong with it."""
  volumes: dict[str, Volume] = {}
  found: list[tuple[str, str]] = []
  for what, path in pair.files.items():
    try:
      volumes[what] = read_labels(path)
    except VolumeError as error:
      found.append((f"{what} {error.reason}", error.remedy))
    else:
      own = predicted if what == "prediction" else schema
      remedy = "give label volumes, or the schema that they follow"
      found += label_faults(f"{what} {path.name}", volumes[what].data, own, remedy)
  found += geometry_faults(dict(reversed(volumes.items())), "write the prediction on the grid of the case's images")
  if found:
    return CaseError(Fault(pair.case, *fault) for fault in found)
  # The labels are all known, so they are whole and fit.
  prediction, truth = (volumes[what].data.astype(np.uint8, copy=False) for what in pair.files)
  prediction = translate(prediction, predicted, schema)
  values = metrics.score(prediction, truth, schema, volumes["truth"].spacing, tolerance=tolerance)
  return values, {what: volume.checksum for what, volume in volumes.items()}


def _reuse(out: Path, pairs: Sequence[_Pair], schema: Schema, tolerance: float, workers: int) -> Scores:
  """The scores that are there, if they are of these files, read by this schema, with this tolerance."""
  scores = Scores.load(out)
  sums = each("compare", file_sums, [pair.files for pair in pairs], workers)
  now = dict(zip((pair.case for pair in pairs), sums, strict=True))
  before = scores.checksums
  changed = sorted(c for c in now.keys() | before.keys() if now.get(c) != before.get(c))
  remedy = "give --overwrite to score anew, or another --out"
  if scores.schema != schema:
    raise InputError(f"{out / SCORES_JSON} is of another schema ({scores.schema.name!r}); {remedy}")
  if scores.tolerance != tolerance:
    raise InputError(f"{out / SCORES_JSON} has tolerance={exact(scores.tolerance)}, got {exact(tolerance)}; {remedy}")
  if changed:
    raise InputError(f"{out / SCORES_JSON} is of other files of {', '.join(changed)}; {remedy}")
  if not (out / SCORES_CSV).exists():
    scores.write_csv(out)
  Console(stderr=True).print(f"{out / SCORES_JSON} is there, from the same files: reused")
  return scores
