"""Cross-validation: each case with the network of the fold that did not see it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas3d_jax.data.cases.case_files import Fault
from nas3d_jax.data.cases.detect_schema import for_model, say_schema
from nas3d_jax.data.cases.find_and_read import find_cases
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.dataset.reference import open_dataset
from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import CONFIG
from nas3d_jax.files.strict_json import read_json
from nas3d_jax.inference.ensemble import restore_ensemble
from nas3d_jax.inference.jobs import Job
from nas3d_jax.models.search_space import CustomOperation
from nas3d_jax.validation import PatchSize


def cross_validation_jobs(
  workdir: str | Path,
  trainings: str | Path,
  data_dir: str | Path,
  *,
  only: Sequence[int] = (),
  cases: Sequence[str] | None = None,
  patch_size: PatchSize | None = None,
  devices: int | None = 1,
  operations: Sequence[CustomOperation] = (),
) -> tuple[list[Job], dict[str, Any], list[Fault]]:
  """Each case of a data set with the network of the one fold that was not trained on it.

  Args:
    workdir: run directory with the data set.
    trainings: the folder of the folds' trainings, a run directory each.
    data_dir: the folder that the data set was made from.
    only: the folds whose cases are predicted, with their trainings alone; none means all.
    cases: names of the cases; None means all that are in these folds.
    patch_size: see `restore_ensemble`.
    devices: see `restore_ensemble`.
    operations: see `restore_ensemble`.

  Returns:
    The jobs; what decides their probabilities, as `Ensemble.settings` with the fold of each case under "folds"; and the
    cases whose images are not in `data_dir`.

  Raises:
    InputError: there is no such fold, it was not trained, or may have seen its cases: it was trained on another data
      set, validated on another fold, or started from other parameters; or a case is not in such a fold, or no case's
      images are in `data_dir`.
  """
  dataset = open_dataset(workdir)
  wanted = sorted(set(only)) or range(dataset.folds)
  if wanted[-1] >= dataset.folds:
    raise InputError(f"fold must be below {dataset.folds}, the folds of {dataset.folder}, got {wanted[-1]}")
  folds = {case.name: case.fold for case in dataset.cases if case.fold in wanted}
  if cases is not None:
    unknown = sorted(set(cases) - set(folds))
    if unknown:
      of = f"fold {', '.join(map(str, wanted))}" if only else "the data set"
      raise InputError(f"{', '.join(unknown)} is in no such fold of {dataset.folder}; name labelled cases of {of}")
    folds = {name: fold for name, fold in folds.items() if name in set(cases)}
  runs = {fold: Path(trainings) / str(fold) for fold in wanted}
  for fold, run in runs.items():
    _check_unseen(run, fold, dataset)
  ensemble = restore_ensemble(list(runs.values()), patch_size, devices=devices, operations=operations)
  members = {fold: ensemble.alone(index) for index, fold in enumerate(runs)}
  say_schema(dataset.schema, f"that of {dataset.folder}")
  found, faults = find_cases(data_dir, for_model(dataset.schema, ensemble.schema), labels=False)
  files = {case.name: case for case in found}
  missing = set(folds) - set(files)
  remedy = "give the folder that was preprocessed"
  if missing == set(folds):
    said = "".join(f"\n  {fault}" for fault in faults if fault.case in missing)
    names = ", ".join(sorted(missing))
    raise InputError(f"the images of {names} are not in {data_dir}, or not complete; {remedy}{said}")
  faults = [fault for fault in faults if fault.case in missing]
  absent = sorted(missing - {fault.case for fault in faults})
  faults += [Fault(name, f"its images are not in {data_dir}", remedy) for name in absent]
  sums = {case.name: case.checksums for case in dataset.cases}
  jobs = [Job(files[name], members[fold], sums[name]) for name, fold in folds.items() if name in files]
  return jobs, {**ensemble.settings, "folds": folds}, faults


def _check_unseen(run: Path, fold: int, dataset: Dataset) -> None:
  """Raises InputError unless a training left out the cases of a fold, by its settings."""
  if not (run / CONFIG).exists():
    raise InputError(f"fold {fold} is missing: there is no training in {run}; train it with --fold={fold}")
  remedy = f"put back a copy of it, or move {run} away and train that fold anew"
  settings = read_json(run / CONFIG, remedy).get("settings")
  settings = settings if isinstance(settings, dict) else {}
  for name, wanted, why in (
    ("fold", fold, f"it was trained on cases of fold {fold}"),
    ("dataset", dataset.fingerprint, f"it was trained on another data set than {dataset.folder}"),
    ("init_from", None, f"it started from parameters that may have seen cases of fold {fold}"),
  ):
    if settings.get(name) != wanted:
      raise InputError(
        f"{run} cannot predict the cases of fold {fold}: {why} ({name}={settings.get(name)!r}); train that fold anew, "
        "or predict its cases with fold and cases"
      )
