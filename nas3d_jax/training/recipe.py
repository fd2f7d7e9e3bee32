"""Recipes: what a run is trained with where no flag says otherwise; each part is an option of its own.

"paper" is that of sections 3.3 to 3.5. "modern" holds what won on real data, see benchmarks/task04.md.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal

Recipe = Literal["paper", "modern"]
LossName = Literal["dice", "dice_ce", "dice_focal"]
DiceOver = Literal["sample", "batch"]
OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["plateau", "cosine", "poly"]

RECIPES: Mapping[Recipe, Mapping[str, Any]] = types.MappingProxyType(
  {
    "paper": types.MappingProxyType(
      {
        "loss": "dice",
        "dice_over": "sample",
        "optimizer": "adam",
        "weight_decay": 0.0,
        "schedule": "plateau",
        "warmup": 0.0,
        "clip_norm": 0.0,
        "ema": 0.0,
        "augmentation": "paper",
      }
    ),
    "modern": types.MappingProxyType(
      {
        "loss": "dice_ce",
        "dice_over": "batch",
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup": 0.05,
        "clip_norm": 1.0,
        "ema": 0.999,
        "augmentation": "strong",
      }
    ),
  }
)

# Learning rate and dropout of each network by recipe, where none are given; Isensee et al. (2017) for the 3D U-Net.
_RATES: Mapping[Recipe, Mapping[str, float]] = types.MappingProxyType(
  {
    "paper": types.MappingProxyType({"searched": 1e-3, "unet3d": 5e-4, "plain_unet": 5e-4}),
    "modern": types.MappingProxyType({"searched": 3e-3, "unet3d": 1e-3, "plain_unet": 1e-3}),
  }
)
# Of AdamW and Adam; momentum wants a larger one, as nnU-Net has it.
_SGD_RATE = 1e-2


def learning_rate(recipe: Recipe, network: str, optimizer: OptimizerName) -> float:
  """The learning rate of a training, where none is given."""
  return _SGD_RATE if optimizer == "sgd" else _RATES[recipe].get(network, 1e-3)


def resolved(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
  """The parts of a recipe, those that are given, which are not None, in place of its own."""
  parts = {name: own if given.get(name) is None else given[name] for name, own in RECIPES[recipe].items()}
  if parts["schedule"] == "plateau" and given.get("warmup") is None:
    parts["warmup"] = 0.0
  return parts
