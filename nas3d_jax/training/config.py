"""What a search and a training are made with; the defaults are the paper's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from nas3d_jax.data.patches.placement import Placement
from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import TRAIN_FOLDERS
from nas3d_jax.models.config import SEARCH_DROPOUT, TRAIN_DROPOUT, UNET_DROPOUT, Architecture, Precision, Variant
from nas3d_jax.validation import check_numbers

# Learning rate and dropout of each network, where none are given; Isensee et al. (2017) for the 3D U-Net.
_DEFAULTS = {"searched": (1e-3, TRAIN_DROPOUT), "unet3d": (5e-4, UNET_DROPOUT)}
# Fields that do not concern a network, which may therefore differ when its training is gone on with.
OTHERS = {"searched": ("filters", "levels"), "unet3d": ("genotype", "kernels", "nodes", "depth", "variant")}


@dataclasses.dataclass(frozen=True)
class SearchConfig:
  """A search; the defaults are the paper's (section 3.4).

  Attributes:
    workdir: run directory with `dataset/`; `search/` is written.
    fold: the fold that is the hybrid part; the others are the kernel part.
    patch_size: length of a patch along each axis in voxels.
    epochs: N_E, epochs at most.
    min_count: N_C, stop when a genotype was counted so often.
    batch_size: patches in the batch of one device.
    kernels: kernels a node; None means the number of modalities.
    nodes: nodes of a cell.
    depth: downward cells.
    variant: of the squeeze-and-excitation operations, see `NetworkConfig`.
    hybrid_learning_rate: Adam's, of the hybrid parameters.
    kernel_learning_rate: Adam's, of the kernel parameters.
    dropout: part of the channels dropped.
    seed: of parameters, order, augmentation and dropout.
    skip_empty: leave out patches without tumour.
    augment: augment the patches of the kernel part.
    data_placement: where the data lies: "device", "host", or "auto", on an accelerator where it fits.
    precision: of convolutions: "float32", "tf32" or "bfloat16".
    devices: number of devices that share a batch; None means all that JAX sees.
    skip_nonfinite: steps that may be left out because a loss or gradient was not finite.
    checkpoint_minutes: minutes between checkpoints within an epoch.
    overwrite: start anew.

  Raises:
    InputError: a field is out of range.
  """

  workdir: str | Path
  fold: int = 0
  patch_size: int = 64
  epochs: int = 100
  min_count: int = 40
  batch_size: int = 1
  kernels: int | None = None
  nodes: int = 3
  depth: int = 4
  variant: Variant = "paper"
  hybrid_learning_rate: float = 1e-3
  kernel_learning_rate: float = 1e-3
  dropout: float = SEARCH_DROPOUT
  seed: int = 0
  skip_empty: bool = True
  augment: bool = True
  data_placement: Placement = "auto"
  precision: Precision = "float32"
  devices: int | None = None
  skip_nonfinite: int = 0
  checkpoint_minutes: float = 10.0
  overwrite: bool = False

  def __post_init__(self):
    check_numbers(
      self,
      counts=("epochs", "min_count", "batch_size"),
      positive=("hybrid_learning_rate", "kernel_learning_rate", "checkpoint_minutes"),
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training; the defaults are the paper's (section 3.5).

  Attributes:
    workdir: run directory with `dataset/`; `train/<fold>/` is written, `unet3d/<fold>/` for the 3D U-Net.
    fold: the fold to validate on; "all" trains on all cases, without validation.
    network: "searched", the network of a genotype, or "unet3d", the hand-designed one.
    genotype: JSON file of the genotype; None means that of the search in `workdir`.
    init_from: run or checkpoint of the same network whose parameters to start from, of a run the best; None draws them.
    patch_size: length of a patch along each axis in voxels.
    epochs: number of epochs.
    batch_size: patches in the batch of one device.
    kernels: kernels a node; None means the number of modalities.
    nodes: nodes of a cell.
    depth: downward cells.
    variant: of the squeeze-and-excitation operations, see `NetworkConfig`.
    filters: channels of the first level of the 3D U-Net.
    levels: resolutions of the 3D U-Net.
    learning_rate: Adam's; None means 1e-3, for the 3D U-Net 5e-4.
    dropout: part of the channels dropped; None means 0.5, for the 3D U-Net 0.3.
    seed: of parameters, order, augmentation and dropout.
    skip_empty: leave out patches without tumour.
    augment: augment the patches.
    data_placement: where the data lies: "device", "host", or "auto", on an accelerator where it fits.
    precision: of convolutions: "float32", "tf32" or "bfloat16".
    devices: number of devices that share a batch; None means all that JAX sees.
    skip_nonfinite: steps that may be left out because a loss or gradient was not finite.
    checkpoint_minutes: minutes between checkpoints within an epoch.
    overwrite: start anew.

  Raises:
    InputError: a field is out of range.
  """

  workdir: str | Path
  fold: int | Literal["all"] = 0
  network: Architecture = "searched"
  genotype: str | Path | None = None
  init_from: str | Path | None = None
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
  seed: int = 0
  skip_empty: bool = True
  augment: bool = True
  data_placement: Placement = "auto"
  precision: Precision = "float32"
  devices: int | None = None
  skip_nonfinite: int = 0
  checkpoint_minutes: float = 10.0
  overwrite: bool = False

  def __post_init__(self):
    if self.network not in TRAIN_FOLDERS:
      raise InputError(f"network must be one of {', '.join(TRAIN_FOLDERS)}, got {self.network!r}")
    if self.network != "searched" and self.genotype is not None:
      raise InputError(f"genotype is the searched network's, got it with network={self.network!r}; leave out one")
    for name, default in zip(("learning_rate", "dropout"), _DEFAULTS[self.network], strict=True):
      if getattr(self, name) is None:
        object.__setattr__(self, name, default)
    check_numbers(self, counts=("epochs", "batch_size"), positive=("learning_rate", "checkpoint_minutes"))
    if self.fold != "all" and (isinstance(self.fold, bool) or not isinstance(self.fold, int)):
      raise InputError(f'fold must be the number of a fold or "all", got {self.fold!r}')
