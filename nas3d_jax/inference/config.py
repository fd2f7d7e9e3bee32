"""Configurations of inference: how a network is applied to whole cases, and what to predict with which networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import TRAIN_FOLDERS
from nas3d_jax.models.config import Architecture
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import check_whole, is_number, is_whole

Fold = int | Literal["all"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceChoices:
  """Choices of inference; the defaults are the paper's: auto-fitted patches one by one, overlaps averaged, no more.

  Attributes:
    tta: average over the 8 mirrored inputs (test-time augmentation).
    overlap: least part of a patch's length that neighbours share, from 0 to below 1; 0 keeps the auto-fitted patches.
    gaussian: where patches overlap, weigh each by a Gaussian about its centre.
    whole_volume: the whole brain cube in one pass, padded to the network's multiple, instead of patches.
    patch_batch: patches in one pass.
    min_component_ml: connected components of the innermost region below this volume, in ml, are taken out of it.

  Raises:
    InputError: a field is of another type or out of range, or one excludes another.
  """

  tta: bool = False
  overlap: float = 0.0
  gaussian: bool = False
  whole_volume: bool = False
  patch_batch: int = 1
  min_component_ml: float = 0.0

  def __post_init__(self):
    for name in ("tta", "gaussian", "whole_volume"):
      self._require(name, isinstance(getattr(self, name), bool), "True or False")
    self._require("overlap", is_number(self.overlap) and 0 <= self.overlap < 1, "a number from 0 to below 1")
    good = is_number(self.min_component_ml) and self.min_component_ml >= 0
    self._require("min_component_ml", good, "a number of at least 0")
    check_whole("patch_batch", self.patch_batch, 1)
    if self.whole_volume and (self.overlap or self.gaussian or self.patch_batch > 1):
      raise InputError("whole_volume takes no patches: leave out overlap, gaussian and patch_batch, or whole_volume")

  def _require(self, name: str, good: bool, wanted: str) -> None:
    if not good:
      raise InputError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON."""
    return dataclasses.asdict(self)


PAPER = InferenceChoices()
"""As the paper predicts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
  """What to predict, and with what: `fold` of `workdir`, its `cross_validation`, or `checkpoint`.

  Attributes:
    workdir: run directory whose trainings `fold` names.
    fold: trained folds, `train/<fold>` in `workdir`; the best checkpoint of each is used.
    cross_validation: instead, each case of the data set of `workdir` by the fold that was not trained on it.
    checkpoint: run directories or folders of one step instead.
    network: the network of those folds, "searched" or "unet3d"; those of the latter lie in `unet3d/<fold>`.
    data_dir: the folder of the cases; segmentations are not read.
    schema: of the cases, see `find_schema`; None means to find it out. The networks take the modalities that they were
      trained on by name. A cross-validation reads the cases as the data set did.
    cases: names of the cases to predict; None means all, of a cross-validation all that are in a fold.
    out: the folder to write to, see `PredictionFolder`.
    patch_size: length of a patch in voxels; None means that of the training.
    tta: see `InferenceChoices`.
    overlap: see `InferenceChoices`.
    gaussian: see `InferenceChoices`.
    whole_volume: see `InferenceChoices`.
    patch_batch: see `InferenceChoices`.
    min_component_ml: see `InferenceChoices`.
    probabilities: whether to write the probabilities of the regions as well.
    devices: how many share the patches of a case; None means all that JAX sees.
    overwrite: whether to predict anew what is there.

  Raises:
    InputError: the fields name no networks or too many, or a field is of another type or out of range.
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
    if size is not None and not is_whole(size, 1):
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
      if fold != "all" and not is_whole(fold, 0):
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
