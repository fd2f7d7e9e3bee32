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
    confidence = jax.jit(net.apply)(variables, x)           # [N, D, H, W, region], between 0 and 1

A name is imported when it is first used, so that the command line answers without waiting for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from nas3d_jax.choices import InferenceChoices
  from nas3d_jax.config import NetworkConfig, UNetConfig
  from nas3d_jax.convert import convert_derived, convert_supernet
  from nas3d_jax.data.normalize import normalize
  from nas3d_jax.data.patches import patch_starts
  from nas3d_jax.errors import InputError
  from nas3d_jax.genotype import Genotype
  from nas3d_jax.inference import predict_volume
  from nas3d_jax.losses import dice_loss
  from nas3d_jax.metrics import score
  from nas3d_jax.networks import DerivedNet, Supernet, merge, partition
  from nas3d_jax.restoring import restore
  from nas3d_jax.steps import SearchState, TrainState, make_search_step, make_train_step
  from nas3d_jax.unet3d import UNet3D

__all__ = [
  "DerivedNet",
  "Genotype",
  "InferenceChoices",
  "InputError",
  "NetworkConfig",
  "SearchState",
  "Supernet",
  "TrainState",
  "UNet3D",
  "UNetConfig",
  "convert_derived",
  "convert_supernet",
  "dice_loss",
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
  "choices": ("InferenceChoices",),
  "config": ("NetworkConfig", "UNetConfig"),
  "convert": ("convert_derived", "convert_supernet"),
  "data.normalize": ("normalize",),
  "data.patches": ("patch_starts",),
  "errors": ("InputError",),
  "genotype": ("Genotype",),
  "inference": ("predict_volume",),
  "losses": ("dice_loss",),
  "metrics": ("score",),
  "networks": ("DerivedNet", "Supernet", "merge", "partition"),
  "restoring": ("restore",),
  "steps": ("SearchState", "TrainState", "make_search_step", "make_train_step"),
  "unet3d": ("UNet3D",),
}


def __getattr__(name: str) -> Any:
  for module, names in _HOMES.items():
    if name in names:
      return getattr(importlib.import_module(f"nas3d_jax.{module}"), name)
  raise AttributeError(f"module 'nas3d_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
