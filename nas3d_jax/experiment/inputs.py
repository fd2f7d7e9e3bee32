"""What an experiment is made from: the data set, the folder that it was made from, and the unseen cases."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas3d_jax.data.cases.case_files import CaseFiles, is_truth, refuse
from nas3d_jax.data.cases.detect_schema import find_schema, for_model, say_schema
from nas3d_jax.data.cases.find_and_read import find_cases
from nas3d_jax.data.cases.segmentations import find_segmentations
from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.choose_intensities import named_kinds
from nas3d_jax.data.dataset.dataset import REMEDY, Dataset
from nas3d_jax.data.dataset.made_with import check_made_with
from nas3d_jax.data.dataset.reference import without_fold
from nas3d_jax.data.dataset.suggest import suggested_patch
from nas3d_jax.errors import InputError
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.files.hashing import file_sum
from nas3d_jax.files.run_layout import CONFIG, DATASET, MANIFEST
from nas3d_jax.files.strict_json import read_json
from nas3d_jax.models.search_space import CustomOperation
from nas3d_jax.runtime.distributed import say
from nas3d_jax.runtime.parallel import each
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import spelled_size

_NEW_FOLDS = 5


class ExperimentInputs:
  """Data set and folders of an experiment; each is read when it is first asked for, and once.

  Attributes:
    config: of the experiment; `choose_patches` replaces it.
    operations: candidates of the user's own.
  """

  def __init__(self, config: ExperimentConfig, operations: Sequence[CustomOperation] = ()):
    self.config = config
    self.operations = tuple(operations)
    self._fingerprints: dict[int | None, str] = {}

  @property
  def has_dataset(self) -> bool:
    """Whether the cases were preprocessed."""
    return (self.config.root / DATASET / MANIFEST).exists()

  @functools.cached_property
  def dataset(self) -> Dataset:
    """The data set, checked against the configuration.

    Raises:
      InputError: it is not there, was made otherwise or with another number of folds than asked for, or has too few
        folds to nest searches.
    """
    dataset = Dataset.open(self.config.root / DATASET)
    wanted = self.config.folds
    if wanted not in (None, dataset.folds):
      raise InputError(f"folds must be {dataset.folds}, those of {dataset.folder}, got {wanted}; leave it out")
    asked = self.config.made_with
    normalization = asked.pop("normalization")
    named = normalization and named_kinds(normalization, dataset.schema)
    check_made_with(dataset, **asked, named=named, remedy="leave it out, or give another --workdir")
    if self.config.nested and dataset.folds < 3:
      raise InputError(
        f"nested searches need at least 3 folds, two to search on, but {dataset.folder} has {dataset.folds}; "
        "preprocess with more"
      )
    return dataset

  @property
  def folds(self) -> int:
    """Folds of the cross-validation, of a data set that is not there yet those that it will have."""
    return self.dataset.folds if self.has_dataset else self.config.folds or _NEW_FOLDS

  @functools.cached_property
  def schema(self) -> Schema:
    """What modalities, labels and regions of the data set are, or are going to be.

    Raises:
      InputError: no schema fits the cases, or the data set has another than is asked for.
    """
    if not self.has_dataset:
      return find_schema(self.data_dir, self.config.schema)
    schema = self.dataset.schema
    if self.config.schema is not None and (given := find_schema(self.data_dir, self.config.schema)) != schema:
      raise InputError(
        f"schema must be that of {self.dataset.folder}, {schema.name!r}, got {given.name!r}, which differs; leave "
        "it out, or give another --workdir"
      )
    if self.config.schema is None:
      say_schema(schema, f"that of {self.dataset.folder}")
    return schema

  @functools.cached_property
  def test_schema(self) -> Schema:
    """The same of the cases of `test_dir`; that of the data set where it fits."""
    like = self.schema
    try:
      return find_schema(self.config.test_dir, self.config.test_schema, labels=None, like=like)
    except InputError as error:
      # Here the flag of this name is of the other folder.
      raise InputError(f"test_dir: {str(error).replace('--schema', '--test_schema')}") from error

  def fingerprint(self, without: int | None = None) -> str:
    """Of the data set, or of what is left without a fold."""
    if without not in self._fingerprints:
      dataset = self.dataset if without is None else without_fold(self.dataset, without)
      self._fingerprints[without] = dataset.fingerprint
    return self._fingerprints[without]

  @functools.cached_property
  def data_dir(self) -> Path:
    """The folder of the cases, that given or that the data set was made from; absolute.

    Raises:
      InputError: neither is known.
    """
    given = self.config.data_dir
    if given is None and self.has_dataset:
      given = read_json(self.config.root / DATASET / CONFIG, REMEDY).get("data_dir")
    if given is None:
      raise InputError(f"{self.config.root} has no data set yet; give data_dir, the folder of the cases")
    return Path(os.path.abspath(given))

  def choose_patches(self) -> None:
    """Puts the patch that the data set suggests for all networks where it is to be chosen automatically."""
    size = suggested_patch(self.dataset, self.config.multiple)
    if (sized := self.config.sized(size)) != self.config:
      say(f"patches of {spelled_size(size)} voxels, from the median brain cube")
      self.config = sized

  @property
  def labelled(self) -> tuple[Case, ...]:
    """The cases of the data set that are in a fold."""
    return tuple(case for case in self.dataset.cases if case.fold is not None)

  @property
  def known_images(self) -> dict[str, dict[str, str]]:
    """SHA-256 of the images of each labelled case by file name, as they were preprocessed."""
    return {case.name: self._images(case) for case in self.labelled}

  @property
  def known_truths(self) -> dict[str, str]:
    """SHA-256 of the segmentation of each labelled case, likewise."""
    return {
      case.name: next(sha for name, sha in case.checksums.items() if name not in self._images(case))
      for case in self.labelled
    }

  def _images(self, case: Case) -> dict[str, str]:
    return {name: sha for name, sha in case.checksums.items() if not is_truth(name, case.name, self.schema)}

  @functools.cached_property
  def unseen(self) -> tuple[CaseFiles, ...]:
    """The cases of `test_dir`, none without it.

    Raises:
      InputError: files of a case are missing.
    """
    if self.config.test_dir is None:
      return ()
    found, faults = find_cases(self.config.test_dir, for_model(self.test_schema, self.schema), labels=False)
    refuse(faults, "in test_dir cannot be used")
    return tuple(found)

  @functools.cached_property
  def unseen_images(self) -> dict[str, dict[str, str]]:
    """SHA-256 of the images of each unseen case by file name."""
    sums = each("read the unseen cases", _sums, [files.named_images for files in self.unseen], os.cpu_count() or 1)
    return {files.name: found for files, found in zip(self.unseen, sums, strict=True)}

  @functools.cached_property
  def unseen_truths(self) -> dict[str, str]:
    """SHA-256 of the segmentation of each unseen case; empty where they have none.

    Raises:
      InputError: some have one and others not, or one has another name than expected.
    """
    if not self.unseen:
      return {}
    truths, faults = find_segmentations(self.config.test_dir, self.test_schema)
    refuse(faults, "in test_dir cannot be used")
    without = sorted(files.name for files in self.unseen if files.name not in truths)
    if truths and without:
      raise InputError(
        f"{', '.join(without)} in {self.config.test_dir} has no segmentation, though others do; add it, or move such "
        "cases to a folder of their own"
      )
    return {name: file_sum(path) for name, path in truths.items()}

  def check_unseen(self) -> None:
    """Raises InputError where a case of `test_dir` is one of the data set's, under whatever name."""
    owners = {frozenset(self._images(case).values()): case.name for case in self.dataset.cases}
    for name, sums in self.unseen_images.items():
      if (owner := owners.get(frozenset(sums.values()))) is not None:
        raise InputError(
          f"{name} in {self.config.test_dir} is not unseen: it has the images of {owner} in {self.dataset.folder}; "
          "take it out of one of them"
        )


def _sums(paths: Mapping[str, Path]) -> dict[str, str]:
  return {name: file_sum(path) for name, path in paths.items()}
