"""The data set of a work directory: its own, or that of another run, less one fold.

A work directory holds `dataset/`, or `dataset.json`, which names the data set of another run:

    {"dataset": "../../dataset", "without_fold": 2}

The path is relative to the folder of `dataset.json`, so that a run and what lies in it can be moved as a whole;
`without_fold` is the number of a fold whose cases are left out, or null.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import DATASET, DATASET_REFERENCE
from nas3d_jax.files.strict_json import read_json, write_json

_REMEDY = "put back a copy of it, or remove it and run what made it again"


def open_dataset(workdir: str | Path) -> Dataset:
  """Opens the data set of a work directory.

  Returns:
    `dataset/`, or else the one that `dataset.json` names. Without a fold's cases it keeps the number of folds and the
    folds of its other cases, and has another fingerprint.

  Raises:
    InputError: there is neither, or what there is, is damaged.
  """
  workdir = Path(workdir)
  reference = workdir / DATASET_REFERENCE
  if not reference.exists() or (workdir / DATASET).exists():
    return Dataset.open(workdir / DATASET)
  content = read_json(reference, _REMEDY)
  if set(content) != {"dataset", "without_fold"} or not isinstance(content["dataset"], str):
    raise InputError(f"{reference} must have exactly the fields dataset, a path, and without_fold; make it anew")
  dataset = Dataset.open(Path(os.path.normpath(workdir / content["dataset"])))
  return dataset if content["without_fold"] is None else without_fold(dataset, content["without_fold"])


def without_fold(dataset: Dataset, fold: int) -> Dataset:
  """The data set without the cases of a fold.

  Raises:
    InputError: the fold is out of range, or there are no other cases.
  """
  left_out = set(dataset.fold_cases(fold))
  cases = tuple(case for case in dataset.cases if case not in left_out)
  if not cases:
    raise InputError(f"fold {fold} holds all cases of {dataset.folder}; preprocess more cases")
  return dataclasses.replace(dataset, cases=cases)


def write_reference(workdir: str | Path, dataset: str | Path, *, without_fold: int | None = None) -> None:
  """Makes a work directory whose data set is another run's.

  Args:
    workdir: the work directory; made where it is missing.
    dataset: the folder of the data set.
    without_fold: the fold whose cases are left out; None keeps all.

  Raises:
    InputError: the work directory has a data set of its own, or refers to another one.
  """
  workdir = Path(workdir)
  content = {"dataset": os.path.relpath(dataset, workdir), "without_fold": without_fold}
  reference = workdir / DATASET_REFERENCE
  if (workdir / DATASET).exists():
    raise InputError(f"{workdir} has a data set of its own; give another folder")
  if reference.exists():
    if (there := read_json(reference, _REMEDY)) != content:
      raise InputError(f"{reference} refers to other cases, {there}; give another folder")
    return
  workdir.mkdir(parents=True, exist_ok=True)
  write_json(reference, content)
