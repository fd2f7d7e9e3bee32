"""Label volumes of whole cases, from a folder of NIfTI files to a folder of NIfTI files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from nas3d_jax.choices import InferenceChoices
from nas3d_jax.config import TRAIN_FOLDERS, Architecture
from nas3d_jax.cross_validation import cross_validation_jobs
from nas3d_jax.data.brats import CaseFiles, Fault, find_cases
from nas3d_jax.data.detect import find_schema, for_model
from nas3d_jax.ensemble import restore_ensemble
from nas3d_jax.errors import InputError
from nas3d_jax.locks import locked
from nas3d_jax.predicting import Job, PredictSummary, predict_jobs
from nas3d_jax.predictions import PredictionFolder
from nas3d_jax.schema import Schema
from nas3d_jax.writing import writing

Fold = int | Literal["all"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
  """What to predict, and with what: `fold` of `workdir`, its `cross_validation`, or `checkpoint`.

  Attributes:
    workdir: run directory whose trainings `fold` names.
    fold: trained folds, `train/<fold>` in `workdir`; the best checkpoint of each is used.
    cross_validation: instead, each case of the data set of `workdir` by the fold that was not trained on it.
    checkpoint: run directories or folders of one step instead.
    network: whose folds are meant: "searched" or "unet3d", which lie in `unet3d/<fold>`.
    data_dir: the folder of the cases; segmentations are not read.
    schema: of the cases, see `find_schema`; None means to find it out. The networks take the modalities that they were
      trained on by name. A cross-validation reads the cases as the data set did.
    cases: names of the cases to predict; None means all, of a cross-validation all that are in a fold.
    out: the folder to write to, see `predictions.py`.
    patch_size: length of a patch in voxels; None means that of the training.
    tta: see `InferenceChoices`, as for the next ones.
    overlap: likewise.
    gaussian: likewise.
    whole_volume: likewise.
    patch_batch: likewise.
    min_component_ml: likewise.
    probabilities: whether to write the probabilities of the regions as well.
    devices: how many share the patches of a case; None means all that JAX sees.
    overwrite: whether to predict anew what is there.

  Raises:
    InputError: it is not settled which networks are meant, or a field is of another type or out of range.
  """

  workdir: str | Path | None = None
  fold: tuple[Fold, ...] = ()
  cross_validation: bool = False
  checkpoint: tuple[str | Path, ...] = ()
  network: Architecture = "searched"
  data_dir: str | Path
  schema: str | Path | Schema | None = None
  cases: tuple[str, ...] | None = None
  out: str | Path
  patch_size: int | None = None
  tta: bool = False
  overlap: float = 0.0
  gaussian: bool = False
  whole_volume: bool = False
  patch_batch: int = 1
  min_component_ml: float = 0.0
  probabilities: bool = False
  devices: int | None = None
  overwrite: bool = False

  def __post_init__(self):
    for name in ("fold", "checkpoint", "cases"):
      value = getattr(self, name)
      if name == "cases" and value is None:
        continue
      if not isinstance(value, (list, tuple)):
        raise InputError(f"{name} must be a tuple, got {value!r}")
      object.__setattr__(self, name, tuple(value))
    if self.network not in TRAIN_FOLDERS:
      raise InputError(f"network must be one of {', '.join(TRAIN_FOLDERS)}, got {self.network!r}")
    self._check_sources()
    for path in (*self.checkpoint, self.data_dir, self.out):
      if not isinstance(path, (str, Path)) or not str(path):
        raise InputError(f"checkpoint, data_dir and out must be paths, got {path!r}")
    size = self.patch_size
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
      raise InputError(f"patch_size must be a whole number of at least 1, or None, got {size!r}")
    if self.cases is not None and not self.cases:
      raise InputError("cases must name at least one case, or be None for all, got none")
    self.choices  # noqa: B018  checks them

  def _check_sources(self) -> None:
    folds = bool(self.fold) or self.cross_validation
    if folds == bool(self.checkpoint):
      got = "both" if folds else "neither"
      raise InputError(f"give either fold (with workdir) or checkpoint, at least one of them; got {got}")
    if self.fold and self.cross_validation:
      raise InputError(f"cross_validation takes all folds, got fold={self.fold} beside it; give one of them")
    if self.cross_validation and self.schema is not None:
      raise InputError("cross_validation reads the cases by the schema of the data set; leave out schema")
    if folds != (self.workdir is not None):
      raise InputError(
        f"workdir and fold go together, got workdir={self.workdir!r} and fold={self.fold}; give both, or checkpoint "
        "alone"
      )
    for fold in self.fold:
      if fold != "all" and (isinstance(fold, bool) or not isinstance(fold, int) or fold < 0):
        raise InputError(f'fold must be the number of a fold, from 0, or "all", got {fold!r}')

  @property
  def choices(self) -> InferenceChoices:
    """How a network is applied."""
    fields = dataclasses.fields(InferenceChoices)
    return InferenceChoices(**{field.name: getattr(self, field.name) for field in fields})

  @property
  def runs(self) -> tuple[Path, ...]:
    """The run directories or checkpoints whose probabilities are averaged; none for a cross-validation."""
    if self.checkpoint:
      return tuple(Path(path) for path in self.checkpoint)
    return tuple(Path(self.workdir) / TRAIN_FOLDERS[self.network] / str(fold) for fold in self.fold)


def predict_cases(config: PredictConfig) -> PredictSummary:
  """Predicts cases of a folder, as `<case>.nii.gz` in each case's own geometry (section 2.3 of the paper).

  A region holds where its probability, the mean over the checkpoints, is at least one half; labels are painted in the
  schema's order; what is zero in every modality is background. A case of another orientation or voxel size than the
  training data is brought to theirs, and its probabilities back to its own grid. A second run goes on where the first
  stopped. The next case is read and the last one written while one is computed. Progress goes to stderr.

  Raises:
    InputError: a checkpoint is not to be had or does not go with the others, a fold of a cross-validation saw its
      cases, a case is not there, `out` holds other predictions, or another process writes to it; or, after all other
      cases are done, some cannot be used: all are listed, by name, reason and remedy.
  """
  if config.cross_validation:
    root = Path(config.workdir)
    jobs, settings, faults = cross_validation_jobs(
      root, root / TRAIN_FOLDERS[config.network], config.data_dir, cases=config.cases, patch_size=config.patch_size,
      devices=config.devices,
    )
  else:
    ensemble = restore_ensemble(config.runs, config.patch_size, devices=config.devices)
    found, faults = _find(config, ensemble.schema)
    jobs, settings = [Job(files, ensemble) for files in found], ensemble.settings
  settings = {**settings, "inference": config.choices.to_dict(), "probabilities": config.probabilities}
  names = [job.files.name for job in jobs]
  with locked(config.out), writing(config.out):
    folder = PredictionFolder(config.out, settings=settings, cases=names, overwrite=config.overwrite)
    return predict_jobs(
      jobs, folder, choices=config.choices, probabilities=config.probabilities, faults=faults
    )


def _find(config: PredictConfig, model: Schema) -> tuple[list[CaseFiles], list[Fault]]:
  """The cases that are asked for, with the model's modalities, and what is wrong with others of them."""
  schema = for_model(find_schema(config.data_dir, config.schema, labels=False, like=model), model)
  # The truth is none of a prediction's business: a damaged one must not keep a case from it.
  found, faults = find_cases(config.data_dir, schema, labels=False)
  if config.cases is not None:
    wanted = set(config.cases)
    missing = sorted(wanted - {files.name for files in found} - {fault.case for fault in faults})
    if missing:
      raise InputError(f"there is no case {', '.join(missing)} in {config.data_dir}; name cases that are there")
    found = [files for files in found if files.name in wanted]
    faults = [fault for fault in faults if fault.case in wanted]
  return found, faults
