"""What an experiment consists of: its configuration, and that of each of its searches, trainings and predictions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, Self

from nas3d_jax.data.intensity_names import AskedForeground
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
from nas3d_jax.inference.config import PAPER, Fold, InferenceChoices, PredictConfig, schema_help
from nas3d_jax.models.config import Architecture, NetworkConfig, UNetConfig
from nas3d_jax.options import check_options, from_options, option, part
from nas3d_jax.training.config import MOST_RATE, SearchConfig, TrainConfig
from nas3d_jax.validation import PatchSize, check_whole

Split = Literal["training", "cross_validation", "test", "ensemble"]
Baseline = Literal["unet3d", "plain_unet"]

# Each is a stage, or several.
MOST_FOLDS, MOST_SEARCHES = 1000, 1000

# Each search and training has its own.
_ITS_OWN = ("fold", "seed", "genotype", "init_from", "init_partial", "network", "overwrite")
_SIZE = ("kernels", "nodes", "depth", "variant")
_TEMPLATES = ("search_template", "searched_template", "unet3d_template", "plain_unet_template")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
  """An experiment; the defaults are the paper's (sections 3.4, 3.5), for the 3D U-Net those of Isensee et al. (2017).

  Each field tells what it is. `ExperimentConfig.of` takes the options of the parts as well, each once.

  Attributes:
    search_template: what all searches share; each has a folder, a fold and a seed of its own.
    searched_template: what all trainings of the searched network share; each has a fold of its own.
    unet3d_template: what all trainings of the 3D U-Net share, where that is the baseline.
    plain_unet_template: the same of the U-Net that nnU-Net plans.
    inference: of all predictions.

  Raises:
    InputError: a field is of another type or out of range, or two of them do not go together.
  """

  workdir: str | Path = option("run directory, to write everything to")
  # It is preprocessed where `workdir` has no data set yet. Not given, it is the one that the data set was made from.
  data_dir: str | Path | None = option("folder of the cases, for a new run directory", None)
  test_dir: str | Path | None = option("folder of unseen cases, with or without truth", None)
  schema: str | Path | None = option(schema_help(" in data_dir", "that of the data set, or found out"), None)
  test_schema: str | Path | None = option(schema_help(" in test_dir"), None)
  # For the report. A mere file is searched/test.
  portal_csv: tuple[str, ...] = option(
    "scores that a challenge's portal gave for them, NETWORK/SPLIT=FILE; may be given again", (), named=True
  )
  folds: int | None = option("folds; not given: the data set's, 5 for a new one", None, least=1, most=MOST_FOLDS)
  orientation: str | None = option("of a new data set, as of preprocess; not given: that of most cases", None)
  spacing: tuple[float, ...] = option("of a new data set, in mm, as of preprocess; not given: that of most cases", ())
  foreground: AskedForeground = option("of a new data set, as of preprocess", "auto")
  normalization: tuple[str, ...] = option("of a new data set, as of preprocess; not given: the schema's", ())
  nested: bool = option("search once a fold, on the other folds alone", False)
  seeds: int = option("searches with seeds 0, 1, ...; seed 0 is trained", 1, least=1, most=MOST_SEARCHES)
  random: int = option(
    "random genotypes to compare the searched ones with: all are trained alike and scored on fold 0",
    0,
    least=0,
    most=MOST_SEARCHES,
  )
  retrain_seeds: int = option("trainings of each network of that comparison", 1, least=1, most=MOST_SEARCHES)
  # Each is a group of that comparison, drawn as score against cost.
  cost_weights: tuple[str, ...] = option("further searches with these values of cost_weight, trained alike", ())
  search_template: SearchConfig = part(
    without=_ITS_OWN,
    patch_size=("search_patch_size", "voxels of a patch in the search, as patch_size"),
    epochs=("search_epochs", "epochs of a search at most"),
    kernel_learning_rate=("kernel_learning_rate", "Adam, all else in the search"),
    dropout=("search_dropout", "part of the channels dropped"),
  )
  searched_template: TrainConfig = part(
    without=_ITS_OWN,
    patch_size=("patch_size", "in training and prediction, one length or D,H,W; auto: what the data set suggests"),
    epochs=("epochs", "epochs of each training"),
    learning_rate=("learning_rate", "Adam, searched network; not given: 1e-3"),
    dropout=("dropout", "part of the channels dropped, searched network; not given: 0.5"),
  )
  unet3d_template: TrainConfig = part(
    without=_ITS_OWN,
    fixed={"network": "unet3d"},
    learning_rate=("unet3d_learning_rate", "Adam, 3D U-Net; not given: 5e-4"),
    dropout=("unet3d_dropout", "part of the channels dropped, 3D U-Net; not given: 0.3"),
  )
  plain_unet_template: TrainConfig = part(
    without=_ITS_OWN,
    fixed={"network": "plain_unet"},
    learning_rate=("plain_unet_learning_rate", "plain U-Net; not given: 5e-4, modern 1e-3"),
    dropout=("plain_unet_dropout", "part of the channels dropped, plain U-Net; not given: 0"),
  )
  baseline: Baseline = option("the hand-designed network beside the searched one", "unet3d")
  inference: InferenceChoices = part(PAPER)
  # For each network, for the test and the ensemble; the cross-validation and the training cases are left as they are.
  choose_min_component: bool = option("choose min_component_ml on the cross-validation", False)
  # Searches and trainings stay.
  overwrite: bool = option("replace predictions and scores of other checkpoints or settings", False)

  @classmethod
  def of(cls, **options: Any) -> Self:
    """An experiment of options by the names of their flags, such as `search_epochs`; those of several parts are one.

    Raises:
      InputError: a value is wrong, or two of them do not go together.
    """
    return from_options(cls, options)

  def __post_init__(self):
    check_whole("folds", 2 if self.folds is None else self.folds, 2)
    check_options(self)
    if self.nested and self.folds == 2:
      raise InputError("nested searches need at least 3 folds, two to search on, got folds=2; preprocess with more")
    if self.choose_min_component and (least := self.inference.min_component_ml):
      raise InputError(f"choose_min_component chooses what min_component_ml={least} gives; leave out one of them")
    if self.test_schema is not None and self.test_dir is None:
      raise InputError("test_schema is of the cases of test_dir; give test_dir with it")
    if self.orientation is not None or self.spacing:
      # Slow to import, and `--help` needs none of it.
      from nas3d_jax.data.dataset.common_geometry import check_wanted
      from nas3d_jax.schema.geometry import spacing_of

      object.__setattr__(self, "spacing", spacing_of(self.spacing))
      check_wanted(self.orientation, self.spacing or None)
    object.__setattr__(self, "cost_weights", tuple(_cost_weight(value) for value in self.cost_weights))
    if self.retrain_seeds > 1 and not self.has_control:
      raise InputError(
        f"retrain_seeds is of the comparison with random genotypes, got {self.retrain_seeds} without them; give random"
      )
    if self.search_template.method == "random":
      raise InputError("method must be that of a search, got 'random'; give random=5 to compare with so many genotypes")
    object.__setattr__(self, "portal_csv", tuple(self.portal_csv))
    if self.portal_csv and self.test_dir is None:
      raise InputError("portal_csv holds scores of the cases of test_dir; give test_dir with it")
    for network in TRAIN_FOLDERS:
      if (other := self.template(network).network) != network:
        raise InputError(f"{network}_template must be of network={network!r}, got {other!r}")
    # What is wrong with a part is said before the first of them, not after days.
    search, searched, unet = self.search_template, self.searched_template, self.template(self.baseline)
    for name in _SIZE:
      value, other = getattr(search, name), getattr(searched, name)
      if other != value:
        raise InputError(f"{name} must be the same in search and training, got {value!r} and {other!r}")
    cells, hand_designed = self._sizes
    for network, asked, name in (
      (cells, search.patch_size, "search_patch_size"),
      (cells, searched.patch_size, "patch_size"),
      (hand_designed, unet.patch_size, "patch_size"),
    ):
      if asked != "auto":
        network.check_patch_size(asked, name)

  @property
  def made_with(self) -> dict[str, Any]:
    """What is asked for of the data set, as arguments of `preprocess`; None where nothing is."""
    given = {name: getattr(self, name) or None for name in ("orientation", "spacing", "normalization")}
    return {**given, "foreground": self.foreground}

  @property
  def has_control(self) -> bool:
    """Whether searched networks are compared with random ones, or with those of other weights of the cost."""
    return bool(self.random or self.cost_weights)

  @property
  def _sizes(self) -> tuple[NetworkConfig, UNetConfig]:
    """Of the searched network and of the hand-designed one."""
    unet = self.template(self.baseline)
    cells = NetworkConfig(**{name: getattr(self.search_template, name) for name in _SIZE})
    return cells, UNetConfig(filters=unet.filters, levels=unet.levels)

  @property
  def multiple(self) -> int:
    """The lengths of a patch that goes through every network are multiples of this."""
    # Powers of 2, so the greater is a multiple of the other.
    return max(network.multiple for network in self._sizes)

  def sized(self, size: PatchSize) -> Self:
    """The same experiment with patches of this size where they are to be chosen automatically."""
    parts = {name: getattr(self, name) for name in _TEMPLATES if getattr(self, name).patch_size == "auto"}
    return dataclasses.replace(self, **{n: dataclasses.replace(c, patch_size=size) for n, c in parts.items()})

  @property
  def networks(self) -> tuple[Architecture, ...]:
    """The networks that are trained."""
    return "searched", self.baseline

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
    hybrid = 0 if fold is None else (fold + 1) % folds
    return dataclasses.replace(self.search_template, workdir=self.search_root(seed, fold), fold=hybrid, seed=seed)

  def training(self, network: Architecture, fold: Fold) -> Path:
    """The run directory of a training."""
    return self.root / TRAIN_FOLDERS[network] / str(fold)

  def template(self, network: Architecture) -> TrainConfig:
    """What all trainings of a network share."""
    templates = {"unet3d": self.unet3d_template, "plain_unet": self.plain_unet_template}
    return templates.get(network, self.searched_template)

  def train(self, network: Architecture, fold: Fold) -> TrainConfig:
    """A training. That on all cases starts from fold 0's parameters, as the paper's; if searches are nested, anew."""
    return dataclasses.replace(
      self.template(network),
      workdir=self.workdir,
      fold=fold,
      network=network,
      genotype=self.genotype(fold) if network == "searched" else None,
      init_from=self.training(network, 0) if fold == "all" and not self.nested else None,
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
    if min_component_ml is None:
      return self.inference
    return dataclasses.replace(self.inference, min_component_ml=min_component_ml)

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
      devices=self.template(network).devices,
      choices=choices,
    )


def _cost_weight(value: str | float) -> str:
  """A weight of the cost, in the one spelling that names its folder."""
  try:
    weight = float(value)
  except (TypeError, ValueError):
    weight = -1.0
  if not 0 <= weight <= MOST_RATE:
    raise InputError(f"cost_weights must be numbers from 0 to {MOST_RATE:g}, got {value!r:.100}; give some as in 0.1,1")
  return f"{weight:g}"
