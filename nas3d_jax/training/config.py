"""What a search and a training are made with; the defaults are the paper's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from nas3d_jax.data.patches.augmentation import Augmentation, Mirror
from nas3d_jax.data.patches.placement import Placement
from nas3d_jax.errors import InputError
from nas3d_jax.models.config import (
  MOST,
  MOST_BATCH,
  MOST_DEVICES,
  MOST_PATCH,
  SEARCH_DROPOUT,
  TRAIN_DROPOUT,
  UNET_DROPOUT,
  Architecture,
  Output,
  Precision,
  Variant,
)
from nas3d_jax.models.search_space import SearchSpace
from nas3d_jax.options import check_options, option, options_of, plain
from nas3d_jax.training.recipe import (
  RECIPES,
  DiceOver,
  LossName,
  OptimizerName,
  Recipe,
  ScheduleName,
  learning_rate,
  resolved,
)
from nas3d_jax.training.tracking import TrackerName, check_tracker
from nas3d_jax.validation import PatchSize, is_whole, patch_size_of

# The networks with filters and levels.
HAND_DESIGNED = ("unet3d", "plain_unet")
Method = Literal["darts", "single_path", "random"]
CostKind = Literal["flops", "parameters", "time"]
AskedPatch = PatchSize | Literal["auto"]
_PATCH = "voxels of a patch, one length or D,H,W; auto: what the data set suggests"
# Limits where data and memory set none; a rate beyond single precision would be infinite.
MOST_SEED, MOST_EPOCHS, MOST_FOLD, MOST_RATE = 2**63 - 1, 10**6, 10**6, 3.4e38
LAST_TEMPERATURE = 0.1
# Dropout of each network in the paper's recipe; the modern one has none.
_DROPOUT = {"searched": TRAIN_DROPOUT, "unet3d": UNET_DROPOUT}

START_SUM = "init_from_sha256"
"""The setting of a run that tells which parameters `init_from` held when it began."""
TAKEN = "init_from_taken"
"""The setting that tells which of them it took, where `init_partial` did not ask for all."""
OPERATION_TIMES = "operation_times"
"""The setting that holds what each candidate took, where that is the cost."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """What searches and trainings share; each field tells what it is.

  Raises:
    InputError: a field is of another type or out of range.
  """

  workdir: str | Path = option("run directory with dataset/", kw_only=False, changeable=True)
  fold: int | Literal["all"] = option("a fold of the data set", 0)
  batch_size: int = option("patches a step, on each device", 1, least=1, most=MOST_BATCH)
  kernels: int | None = option(
    "kernels a node; not given: the modalities", None, least=1, most=MOST["kernels"], networks=("searched",)
  )
  nodes: int = option("nodes of a cell", 3, least=1, most=MOST["nodes"], networks=("searched",))
  depth: int = option("downward cells", 4, least=1, most=MOST["depth"], networks=("searched",))
  variant: Variant = option(
    "squeeze-and-excitation convolution as in the paper or as in its released program", "paper", networks=("searched",)
  )
  # Augmentation follows from it as well.
  seed: int = option("seed of parameters, order, dropout", 0, least=0, most=MOST_SEED)
  skip_empty: bool = option("leave out patches without tumour", True)
  # Of the kernel part and of trainings; the hybrid part and validations have the grid, all of it.
  sampling: Literal["grid", "random"] = option("patches of the auto-fitted grid, or at random places", "grid")
  foreground_share: float = option(
    "part of the random patches that is centred on labels, each alike often", 0.33, least=0, most=1
  )
  steps_per_epoch: int = option("steps of an epoch of random patches", 250, least=1, most=MOST_EPOCHS)
  # What stands after it is the recipe's where it is not given.
  recipe: Recipe = option("losses, optimiser and so on of the paper, or of what came after", "paper")
  loss: LossName | None = option("Dice; and cross-entropy, or focal cross-entropy, added to it; recipe", None)
  dice_over: DiceOver | None = option("voxels of a coefficient of Dice: of each sample, or of the batch; recipe", None)
  optimizer: OptimizerName | None = option("of all but the operations' weights, which have Adam; recipe", None)
  weight_decay: float | None = option(
    "of the parameters, times the learning rate; recipe", None, least=0, most=MOST_RATE
  )
  schedule: ScheduleName | None = option(
    "of the learning rate: halved on a plateau, or to 0 by a cosine or polynomial; recipe", None
  )
  warmup: float | None = option("part of the updates in which the rate rises; recipe", None, least=0, below=1)
  clip_norm: float | None = option("longest gradient; 0: any; recipe", None, least=0, most=MOST_RATE)
  augment: bool = option("augment patches", True)
  augmentation: Augmentation | None = option(
    "scale, flip, turn as in the paper; strong: rotations, intensities, noise, blur as well; recipe", None
  )
  mirror: Mirror = option("axes that the strong augmentation mirrors", "DHW")
  modality_dropout: float = option(
    "probability that a patch lacks a modality, each by itself but never all; predictions may then lack some",
    0.0,
    least=0,
    below=1,
  )
  output: Output = option("sigmoid: of each region; softmax: over regions that exclude each other", "sigmoid")
  data_placement: Placement = option(
    "where the data lies; auto: on an accelerator where it fits", "auto", changeable=True
  )
  precision: Precision = option(
    "of convolutions; bfloat16 also stores activations so; parameters and losses are float32", "float32"
  )
  devices: int | None = option(
    "devices that share the work; not given: all there are", None, least=1, most=MOST_DEVICES, changeable=True
  )
  skip_nonfinite: int = option(
    "steps that may be left out because a loss or gradient was not finite",
    0,
    least=0,
    most=MOST_EPOCHS,
    changeable=True,
  )
  checkpoint_minutes: float = option("minutes between checkpoints", 10.0, above=0, changeable=True)

  tracker: TrackerName = option(
    "where the numbers of metrics.jsonl go as well; tensorboard: event files beside it", "none", changeable=True
  )

  def __post_init__(self):
    if hasattr(self, "patch_size"):
      object.__setattr__(self, "patch_size", patch_size_of(self.patch_size))
    for name, value in resolved(self.recipe, vars(self)).items() if self.recipe in RECIPES else ():
      if name in options_of(type(self)):
        object.__setattr__(self, name, value)
    check_options(self)
    check_tracker(self.tracker)
    if self.schedule == "plateau" and self.warmup:
      raise InputError(f"warmup is for the schedules cosine and poly, got {self.warmup} with plateau; leave it out")

  @property
  def changeable(self) -> frozenset[str]:
    """The options that may differ when the run goes on; those that do not concern its network are among them."""
    network = getattr(self, "network", "searched")
    options = options_of(type(self)).items()
    return frozenset(name for name, o in options if o.changeable or (o.networks and network not in o.networks))

  @property
  def defaults(self) -> dict[str, Any]:
    """The options with which a run was made that does not know of them, because it is older; plain JSON values."""
    options = options_of(type(self)).items()
    own = {name: plain(o.default) for name, o in options if o.default is not dataclasses.MISSING}
    return own | {name: value for name, value in RECIPES["paper"].items() if name in own}


@dataclasses.dataclass(frozen=True)
class SearchConfig(RunConfig):
  """A search; the defaults are the paper's (section 3.4). Each field tells what it is.

  Raises:
    InputError: a field is of another type or out of range.
  """

  workdir: str | Path = option("run directory with dataset/; search/ is written", kw_only=False, changeable=True)
  # Before that, edges of few parameters are ahead because they learn faster (Zela et al. 2020).
  warmup_epochs: int = option(
    "epochs at the start in which the weights of the operations stay as they are", 0, least=0, most=MOST_EPOCHS
  )
  # Random: uniformly out of the search space, without training; what is about training then has no meaning.
  method: Method = option(
    "darts: by gradient, as in the paper; single_path: each edge computes one sampled operation a step (GDAS); random: "
    "draw a genotype with this seed",
    "darts",
  )
  # Of the single path. It falls linearly to 0.1 over the steps of all epochs.
  temperature: float = option("of the samples at the start", 10.0, least=LAST_TEMPERATURE, most=1000)
  # The cases of all other folds are the kernel part.
  fold: int = option("the fold that is the hybrid part", 0, least=0, most=MOST_FOLD)
  patch_size: AskedPatch = option(_PATCH, 64, least=1, most=MOST_PATCH, auto=True)
  # N_E and N_C of Table 2. Both may change when the search goes on, to make it longer.
  epochs: int = option("epochs at most", 100, least=1, most=MOST_EPOCHS, changeable=True)
  min_count: int = option(
    "stop when a genotype appeared this many times", 40, least=1, most=MOST_EPOCHS, changeable=True
  )
  # The loss that the weights of the operations lower is then the usual one + cost_weight times the cost.
  cost_weight: float = option(
    "of the cost of what is found, in units of a random genotype's, in the objective", 0.0, least=0, most=MOST_RATE
  )
  cost: CostKind = option(
    "floating-point operations or time (measured here) of a forward pass of patch_size, or parameters", "flops"
  )
  operations: tuple[str, ...] = option(
    "candidates: conv, se_conv, dil_conv, dep_conv, identity, pool, or single ones as down_conv; not given: all", ()
  )
  hybrid_learning_rate: float = option("Adam, weights of the operations", 1e-3, above=0, most=MOST_RATE)
  kernel_learning_rate: float = option("all other parameters", 1e-3, above=0, most=MOST_RATE)
  dropout: float = option("part of the channels dropped", SEARCH_DROPOUT, least=0, below=1)
  overwrite: bool = option("start anew: search/ is deleted", False, changeable=True)

  def __post_init__(self):
    object.__setattr__(self, "operations", tuple(self.operations))
    super().__post_init__()
    SearchSpace.of(self.operations)
    if self.warmup_epochs >= self.epochs:
      raise InputError(
        f"warmup_epochs must be below epochs ({self.epochs}), got {self.warmup_epochs}; no genotype is counted before "
        "the weights of the operations learn"
      )


@dataclasses.dataclass(frozen=True)
class TrainConfig(RunConfig):
  """A training; the defaults are the paper's (section 3.5). Each field tells what it is.

  Raises:
    InputError: a field is of another type or out of range, or a genotype is given to a 3D U-Net.
  """

  # Hand-designed networks are written to `unet3d/<fold>/` and `plain_unet/<fold>/` instead.
  workdir: str | Path = option("run directory with dataset/; train/<fold>/ is written", kw_only=False, changeable=True)
  fold: int | Literal["all"] = option("the fold to validate on, or all", 0)
  network: Architecture = option(
    "the network of a genotype, or a hand-designed one: the 3D U-Net of 2017, or the U-Net that nnU-Net plans",
    "searched",
    changeable=True,
  )
  genotype: str | Path | None = option(
    "JSON file; not given: search/genotype.json of the run", None, networks=("searched",)
  )
  # A run means its best checkpoint; None draws new parameters.
  # Where the run goes on, what was read is compared: `training.start`.
  init_from: str | Path | None = option(
    "run or checkpoint whose parameters to start from; of a search: the supernet's of the chosen operations", None
  )
  init_partial: bool = option(
    "init_from may have other modalities and regions: those that both have are taken by name, the rest is drawn", False
  )
  patch_size: AskedPatch = option(_PATCH, 128, least=1, most=MOST_PATCH, auto=True)
  # May change when the training goes on, to make it longer.
  epochs: int = option("epochs", 200, least=1, most=MOST_EPOCHS, changeable=True)
  filters: int = option(
    "channels of the first level of a hand-designed network", 16, least=1, most=MOST["filters"], networks=HAND_DESIGNED
  )
  levels: int = option(
    "resolutions of a hand-designed network", 5, least=1, most=MOST["levels"], networks=HAND_DESIGNED
  )
  learning_rate: float = option(
    "the greatest; not given: 1e-3, of hand-designed ones 5e-4; modern 3e-3 and 1e-3; SGD 1e-2",
    None,
    above=0,
    most=MOST_RATE,
  )
  dropout: float = option(
    "part of the channels dropped; not given: 0.5, of unet3d 0.3, of plain_unet 0; modern 0", None, least=0, below=1
  )
  ema: float | None = option(
    "decay of the average of the parameters that is validated and kept; 0: none; recipe", None, least=0, below=1
  )
  overwrite: bool = option("start anew: train/<fold>/ is deleted", False, changeable=True)

  def __post_init__(self):
    optimizer = self.optimizer or RECIPES[self.recipe]["optimizer"] if self.recipe in RECIPES else None
    defaults = {
      "learning_rate": learning_rate(self.recipe, self.network, optimizer) if optimizer else 1e-3,
      "dropout": _DROPOUT.get(self.network, 0.0) if self.recipe == "paper" else 0.0,
    }
    for name, default in defaults.items():
      if getattr(self, name) is None:
        object.__setattr__(self, name, default)
    super().__post_init__()
    if self.network != "searched" and self.genotype is not None:
      raise InputError(f"genotype is the searched network's, got it with network={self.network!r}; leave out one")
    if self.init_partial and self.init_from is None:
      raise InputError("init_partial is of init_from, got it without; give both, or leave it out")
    if self.fold != "all" and not is_whole(self.fold):
      raise InputError(f'fold must be the number of a fold or "all", got {self.fold!r}')
