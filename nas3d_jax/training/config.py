"""What a search and a training are made with; the defaults are the paper's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

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
  Precision,
  Variant,
)
from nas3d_jax.options import check_options, option, options_of
from nas3d_jax.validation import is_whole

# Limits where data and memory set none; a rate beyond single precision would be infinite.
MOST_SEED, MOST_EPOCHS, MOST_RATE = 2**63 - 1, 10**6, 3.4e38
# Learning rate and dropout of each network, where none are given; Isensee et al. (2017) for the 3D U-Net.
_DEFAULTS = {"searched": (1e-3, TRAIN_DROPOUT), "unet3d": (5e-4, UNET_DROPOUT)}

START_SUM = "init_from_sha256"
"""The setting of a run that tells which parameters `init_from` held when it began."""


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
    "kernels a node; not given: the modalities", None, least=1, most=MOST["kernels"], network="searched"
  )
  nodes: int = option("nodes of a cell", 3, least=1, most=MOST["nodes"], network="searched")
  depth: int = option("downward cells", 4, least=1, most=MOST["depth"], network="searched")
  variant: Variant = option(
    "squeeze-and-excitation convolution as in the paper or as in its released program", "paper", network="searched"
  )
  # Augmentation follows from it as well.
  seed: int = option("seed of parameters, order, dropout", 0, least=0, most=MOST_SEED)
  skip_empty: bool = option("leave out patches without tumour", True)
  augment: bool = option("scale, flip and rotate patches", True)
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

  def __post_init__(self):
    check_options(self)

  @property
  def changeable(self) -> frozenset[str]:
    """The options that may differ when the run goes on; those that do not concern its network are among them."""
    network = getattr(self, "network", "searched")
    options = options_of(type(self)).items()
    return frozenset(name for name, o in options if o.changeable or o.network not in (None, network))

  @property
  def defaults(self) -> dict[str, Any]:
    """The options with which a run was made that does not know of them, because it is older."""
    options = options_of(type(self)).items()
    return {name: o.default for name, o in options if o.default is not dataclasses.MISSING}


@dataclasses.dataclass(frozen=True)
class SearchConfig(RunConfig):
  """A search; the defaults are the paper's (section 3.4). Each field tells what it is.

  Raises:
    InputError: a field is of another type or out of range.
  """

  workdir: str | Path = option("run directory with dataset/; search/ is written", kw_only=False, changeable=True)
  # The cases of all other folds are the kernel part.
  fold: int = option("the fold that is the hybrid part", 0, least=0)
  patch_size: int = option("edge of a patch, in voxels", 64, least=1, most=MOST_PATCH)
  # N_E and N_C of Table 2. Both may change when the search goes on, to make it longer.
  epochs: int = option("epochs at most", 100, least=1, most=MOST_EPOCHS, changeable=True)
  min_count: int = option(
    "stop when a genotype appeared this many times", 40, least=1, most=MOST_EPOCHS, changeable=True
  )
  hybrid_learning_rate: float = option("Adam, weights of the operations", 1e-3, above=0, most=MOST_RATE)
  kernel_learning_rate: float = option("Adam, all other parameters", 1e-3, above=0, most=MOST_RATE)
  dropout: float = option("part of the channels dropped", SEARCH_DROPOUT, least=0, below=1)
  overwrite: bool = option("start anew: search/ is deleted", False, changeable=True)


@dataclasses.dataclass(frozen=True)
class TrainConfig(RunConfig):
  """A training; the defaults are the paper's (section 3.5). Each field tells what it is.

  Raises:
    InputError: a field is of another type or out of range, or a genotype is given to a 3D U-Net.
  """

  # The 3D U-Net is written to `unet3d/<fold>/` instead.
  workdir: str | Path = option("run directory with dataset/; train/<fold>/ is written", kw_only=False, changeable=True)
  fold: int | Literal["all"] = option("the fold to validate on, or all", 0)
  network: Architecture = option(
    "the network of a genotype, or the hand-designed 3D U-Net", "searched", changeable=True
  )
  genotype: str | Path | None = option(
    "JSON file; not given: search/genotype.json of the run", None, network="searched"
  )
  # A run means its best checkpoint; None draws new parameters.
  # Where the run goes on, what was read is compared: `training.start`.
  init_from: str | Path | None = option("run or checkpoint whose parameters to start from", None)
  patch_size: int = option("edge of a patch, in voxels", 128, least=1, most=MOST_PATCH)
  # May change when the training goes on, to make it longer.
  epochs: int = option("epochs", 200, least=1, most=MOST_EPOCHS, changeable=True)
  filters: int = option(
    "channels of the first level of the 3D U-Net", 16, least=1, most=MOST["filters"], network="unet3d"
  )
  levels: int = option("resolutions of the 3D U-Net", 5, least=1, most=MOST["levels"], network="unet3d")
  learning_rate: float = option("Adam; not given: 1e-3, for the 3D U-Net 5e-4", None, above=0, most=MOST_RATE)
  dropout: float = option("part of the channels dropped; not given: 0.5, for the 3D U-Net 0.3", None, least=0, below=1)
  overwrite: bool = option("start anew: train/<fold>/ is deleted", False, changeable=True)

  def __post_init__(self):
    for name, default in zip(("learning_rate", "dropout"), _DEFAULTS.get(self.network, ()), strict=False):
      if getattr(self, name) is None:
        object.__setattr__(self, name, default)
    super().__post_init__()
    if self.network != "searched" and self.genotype is not None:
      raise InputError(f"genotype is the searched network's, got it with network={self.network!r}; leave out one")
    if self.fold != "all" and not is_whole(self.fold):
      raise InputError(f'fold must be the number of a fold or "all", got {self.fold!r}')
