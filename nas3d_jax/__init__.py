"""Gradient-based search of 3D segmentation networks (NAS-3D-U-Net; Wang and Biswal, arXiv 2005.06338) in JAX and Flax.

    import jax, jax.numpy as jnp, nas3d_jax

    config = nas3d_jax.NetworkConfig(in_channels=4, out_channels=3)
    net = nas3d_jax.Supernet(config)
    x = jnp.zeros((1, 64, 64, 64, 4))                       # [N, D, H, W, modality]
    variables = jax.jit(net.init)(jax.random.key(0), x)
    hybrid, kernel = nas3d_jax.partition(variables)         # what is searched, and what is trained
    genotype = nas3d_jax.Genotype.from_hybrid(hybrid, config)
    net = nas3d_jax.DerivedNet(config, genotype)
    variables = jax.jit(net.init)(jax.random.key(1), x)
    probabilities = jax.jit(net.apply)(variables, x)        # [N, D, H, W, region], between 0 and 1

A name is imported when it is first used, so that the command line answers without waiting for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from nas3d_jax.checkpointing.restore import restore
  from nas3d_jax.data.patches.grid import patch_starts
  from nas3d_jax.data.patches.normalize import normalize
  from nas3d_jax.errors import InputError
  from nas3d_jax.evaluation.metrics import score
  from nas3d_jax.export.exported import load_exported
  from nas3d_jax.inference.config import InferenceChoices
  from nas3d_jax.inference.volume import predict_volume
  from nas3d_jax.models.config import NetworkConfig, PlainUNetConfig, UNetConfig
  from nas3d_jax.models.genotype import Genotype
  from nas3d_jax.models.networks import DerivedNet, Supernet, merge, partition
  from nas3d_jax.models.plain_unet import PlainUNet
  from nas3d_jax.models.released_weights import convert_derived, convert_supernet
  from nas3d_jax.models.search_space import CustomOperation, SearchSpace
  from nas3d_jax.models.unet3d import UNet3D
  from nas3d_jax.training.losses import dice_loss
  from nas3d_jax.training.steps import SearchState, TrainState, make_search_step, make_train_step
  from nas3d_jax.training.tracking import Tracker

__all__ = [
  "CustomOperation",
  "DerivedNet",
  "Genotype",
  "InferenceChoices",
  "InputError",
  "NetworkConfig",
  "PlainUNet",
  "PlainUNetConfig",
  "SearchSpace",
  "SearchState",
  "Supernet",
  "Tracker",
  "TrainState",
  "UNet3D",
  "UNetConfig",
  "convert_derived",
  "convert_supernet",
  "dice_loss",
  "load_exported",
  "make_search_step",
  "make_train_step",
  "merge",
  "normalize",
  "partition",
  "patch_starts",
  "predict_volume",
  "restore",
  "score",
]

_HOMES = {
  "checkpointing.restore": ("restore",),
  "data.patches.grid": ("patch_starts",),
  "data.patches.normalize": ("normalize",),
  "errors": ("InputError",),
  "evaluation.metrics": ("score",),
  "export.exported": ("load_exported",),
  "inference.config": ("InferenceChoices",),
  "inference.volume": ("predict_volume",),
  "models.config": ("NetworkConfig", "PlainUNetConfig", "UNetConfig"),
  "models.genotype": ("Genotype",),
  "models.networks": ("DerivedNet", "Supernet", "merge", "partition"),
  "models.plain_unet": ("PlainUNet",),
  "models.released_weights": ("convert_derived", "convert_supernet"),
  "models.search_space": ("CustomOperation", "SearchSpace"),
  "models.unet3d": ("UNet3D",),
  "training.losses": ("dice_loss",),
  "training.steps": ("SearchState", "TrainState", "make_search_step", "make_train_step"),
  "training.tracking": ("Tracker",),
}

# Modules by the names that they had before there were packages.
_MODULES = {
  "cells": "models.cells",
  "comparison": "evaluation.comparison",
  "config": "models.config",
  "genotype": "models.genotype",
  "hybrid": "models.cells",
  "lesions": "evaluation.lesions",
  "losses": "training.losses",
  "metrics": "evaluation.metrics",
  "networks": "models.networks",
  "ops": "models.operations",
  "packing": "models.packing",
  "replicas": "runtime.data_parallel",
  "scores": "evaluation.scores",
  "steps": "training.steps",
  "surfaces": "evaluation.surfaces",
  "unet3d": "models.unet3d",
}

_module = importlib.import_module("nas3d_jax.lazy").modules_of(__name__)


def __getattr__(name: str) -> Any:
  for module, names in _HOMES.items():
    if name in names:
      return getattr(importlib.import_module(f"nas3d_jax.{module}"), name)
  if name in _MODULES:
    return importlib.import_module(f"nas3d_jax.{_MODULES[name]}")
  return _module(name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
