"""What an experiment consists of: its configuration, and that of each of its searches, trainings and predictions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from nas3d_jax.data.patches.placement import Placement
from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import (
  GENOTYPE,
  MIN_COMPONENT,
  NESTED,
  PREDICTIONS,
  SCORES,
  SEARCH,
  SEEDS,
  TRAIN_FOLDERS,
)
from nas3d_jax.inference.config import Fold, InferenceChoices, PredictConfig
from nas3d_jax.models.config import SEARCH_DROPOUT, Architecture, NetworkConfig, Precision, UNetConfig, Variant
from nas3d_jax.training.config import SearchConfig, TrainConfig

Split = Literal["training", "cross_validation", "test", "ensemble"]
NETWORKS: tuple[Architecture, ...] = tuple(TRAIN_FOLDERS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
  """An experiment; the defaults are the paper's (sections 3.4, 3.5), for the 3D U-Net those of Isensee et al. (2017).

  Attributes:
    workdir: run directory; everything is written there.
    data_dir: folder of the cases, which is preprocessed where `workdir` has no data set yet; None means the one that
      the data set was made from.
    test_dir: folder of unseen cases, with or without segmentations; None leaves the test out.
    schema: of the cases of `data_dir`, see `find_schema`; None means that of the data set, or to find it out.
    test_schema: of those of `test_dir`; None means to find it out.
    portal_csv: tables of scores that a challenge's portal gave for the cases of `test_dir`, for the report:
      "NETWORK/SPLIT=FILE" each; a mere file is searched/test.
    folds: folds of the cross-validation; None means those of the data set, 5 for a new one.
    nested: search once a fold, on the other folds' cases alone, instead of once for all folds.
    seeds: number of searches, with the seeds 0, 1, ...; the networks are those of seed 0.
    search_patch_size: length of a patch in the search, in voxels.
    search_epochs: epochs of a search at most.
    min_count: stop a search when a genotype was counted so often.
    hybrid_learning_rate: of a search, see `SearchConfig`.
    kernel_learning_rate: likewise.
    search_dropout: likewise.
    patch_size: length of a patch in training and prediction, in voxels, of both networks.
    epochs: epochs of each training.
    batch_size: patches in a batch, of searches and trainings.
    kernels: see `SearchConfig`, as for the next three.
    nodes: likewise.
    depth: likewise.
    variant: likewise.
    filters: channels of the first level of the 3D U-Net.
    levels: resolutions of the 3D U-Net.
    learning_rate: of the searched network's trainings; None means 1e-3.
    dropout: likewise; None means 0.5.
    unet3d_learning_rate: of the 3D U-Net's trainings; None means 5e-4.
    unet3d_dropout: likewise; None means 0.3.
    skip_empty: leave out patches without tumour.
    augment: augment the patches.
    tta: see `InferenceChoices`, as for the next ones; for all predictions.
    overlap: likewise.
    gaussian: likewise.
    whole_volume: likewise.
    patch_batch: likewise.
    min_component_ml: likewise.
    choose_min_component: instead, choose that threshold for each network on its cross-validation, for the test and the
      ensemble; the cross-validation itself and the training cases are left as they are.
    data_placement: where the data of searches and trainings lies, see `SearchConfig`.
    precision: of convolutions in searches and trainings, see `SearchConfig`.
    devices: number of devices that share a batch, or the patches of a case; None means all that JAX sees.
    skip_nonfinite: steps of each search and training that may be left out, see `SearchConfig`.
    checkpoint_minutes: minutes between checkpoints within an epoch.
    overwrite: replace predictions and scores of other checkpoints or settings; searches and trainings stay.

  Raises:
    InputError: a field is of another type or out of range, or two of them do not go together.
  """

  workdir: str | Path
  data_dir: str | Path | None = None
  test_dir: str | Path | None = None
  schema: str | Path | None = None
  test_schema: str | Path | None = None
  portal_csv: tuple[str, ...] = ()
  folds: int | None = None
  nested: bool = False
  seeds: int = 1
  search_patch_size: int = 64
  search_epochs: int = 100
  min_count: int = 40
  hybrid_learning_rate: float = 1e-3
  kernel_learning_rate: float = 1e-3
  search_dropout: float = SEARCH_DROPOUT
  patch_size: int = 128
  epochs: int = 200
  batch_size: int = 1
  kernels: int | None = None
  nodes: int = 3
  depth: int = 4
  variant: Variant = "paper"
  filters: int = 16
  levels: int = 5
  learning_rate: float | None = None
  dropout: float | None = None
  unet3d_learning_rate: float | None = None
  unet3d_dropout: float | None = None
  skip_empty: bool = True
  augment: bool = True
  tta: bool = False
  overlap: float = 0.0
  gaussian: bool = False
  whole_volume: bool = False
  patch_batch: int = 1
  min_component_ml: float = 0.0
  choose_min_component: bool = False
  data_placement: Placement = "auto"
  precision: Precision = "float32"
  devices: int | None = None
  skip_nonfinite: int = 0
  checkpoint_minutes: float = 10.0
  overwrite: bool = False

  def __post_init__(self):
    for name, value, low in (("seeds", self.seeds, 1), ("folds", 2 if self.folds is None else self.folds, 2)):
      if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(f"{name} must be a whole number of at least {low}, got {value!r}")
    if self.nested and self.folds == 2:
      raise InputError("nested searches need at least 3 folds, two to search on, got folds=2; preprocess with more")
    if self.choose_min_component and self.min_component_ml:
      raise InputError(
        f"choose_min_component chooses what min_component_ml={self.min_component_ml} gives; leave out one of them"
      )
    if self.test_schema is not None and self.test_dir is None:
      raise InputError("test_schema is of the cases of test_dir; give test_dir with it")
    object.__setattr__(self, "portal_csv", tuple(self.portal_csv))
    if self.portal_csv and self.test_dir is None:
      raise InputError("portal_csv holds scores of the cases of test_dir; give test_dir with it")
    # What is wrong with a part is said before the first of them, not after days.
    searched = NetworkConfig(kernels=self.kernels, nodes=self.nodes, depth=self.depth, variant=self.variant)
    searched.check_patch_size(self.search_patch_size, "search_patch_size")
    for network in (searched, UNetConfig(filters=self.filters, levels=self.levels)):
      network.check_patch_size(self.patch_size)
    self.search()
    for network in NETWORKS:
      self.train(network, 0)
    self.choices()

  @property
  def root(self) -> Path:
    """The run directory."""
    return Path(self.workdir)

  def search_root(self, seed: int = 0, fold: int | None = None) -> Path:
    """The work directory of a search: of a seed, or the nested one that leaves out a fold."""
    if fold is not None:
      return self.root / NESTED / str(fold)
    return self.root / SEEDS / str(seed) if seed else self.root

  def genotype(self, fold: Fold) -> Path:
    """The file of the genotype that is trained on a fold."""
    nested = self.nested and fold != "all"
    return self.search_root(fold=fold if nested else None) / SEARCH / GENOTYPE

  def search(self, seed: int = 0, fold: int | None = None, folds: int | None = None) -> SearchConfig:
    """A search of a seed; or, with a fold out of `folds`, the nested one, whose hybrid part is the next fold."""
    names = (
      "min_count", "batch_size", "kernels", "nodes", "depth", "variant", "hybrid_learning_rate", "kernel_learning_rate",
      "skip_empty", "augment", "data_placement", "precision", "devices", "skip_nonfinite",
      "checkpoint_minutes",
    )  # fmt: skip
    return SearchConfig(
      self.search_root(seed, fold),
      fold=0 if fold is None else (fold + 1) % folds,
      seed=seed,
      patch_size=self.search_patch_size,
      epochs=self.search_epochs,
      dropout=self.search_dropout,
      **{name: getattr(self, name) for name in names},
    )

  def training(self, network: Architecture, fold: Fold) -> Path:
    """The run directory of a training."""
    return self.root / TRAIN_FOLDERS[network] / str(fold)

  def train(self, network: Architecture, fold: Fold) -> TrainConfig:
    """A training. That on all cases starts from fold 0's parameters, as the paper's; if searches are nested, anew."""
    names = (
      "patch_size", "epochs", "batch_size", "kernels", "nodes", "depth", "variant", "filters", "levels", "skip_empty",
      "augment", "data_placement", "precision", "devices", "skip_nonfinite",
      "checkpoint_minutes",
    )  # fmt: skip
    own = "" if network == "searched" else f"{network}_"
    return TrainConfig(
      self.workdir,
      fold=fold,
      network=network,
      genotype=self.genotype(fold) if network == "searched" else None,
      init_from=self.training(network, 0) if fold == "all" and not self.nested else None,
      learning_rate=getattr(self, f"{own}learning_rate"),
      dropout=getattr(self, f"{own}dropout"),
      **{name: getattr(self, name) for name in names},
    )

  def predictions(self, network: Architecture, split: Split) -> Path:
    """The folder of the predictions of a split."""
    return self.root / PREDICTIONS / network / split

  def scores(self, network: Architecture, split: Split) -> Path:
    """The folder of their scores."""
    return self.root / SCORES / network / split

  def threshold_file(self, network: Architecture) -> Path:
    """The file of the threshold that `choose_min_component` chose."""
    return self.root / PREDICTIONS / network / MIN_COMPONENT

  def choices(self, min_component_ml: float | None = None) -> InferenceChoices:
    """How networks are applied, with another threshold where one was chosen."""
    values = {field.name: getattr(self, field.name) for field in dataclasses.fields(InferenceChoices)}
    if min_component_ml is not None:
      values["min_component_ml"] = min_component_ml
    return InferenceChoices(**values)

  def predict(
    self,
    network: Architecture,
    split: Split,
    *,
    data_dir: str | Path,
    cases: tuple[str, ...],
    folds: int,
    choices: InferenceChoices,
  ) -> PredictConfig:
    """A prediction: of known cases from the folder that was preprocessed, of unseen ones from `test_dir`."""
    return PredictConfig(
      workdir=self.workdir,
      network=network,
      fold={"cross_validation": (), "ensemble": tuple(range(folds))}.get(split, ("all",)),
      cross_validation=split == "cross_validation",
      data_dir=data_dir,
      cases=cases,
      out=self.predictions(network, split),
      devices=self.devices,
      **choices.to_dict(),
    )
