"""The hand-designed networks by name: configuration and module."""

from __future__ import annotations

import types
from collections.abc import Mapping

from nas3d_jax.models.config import NetworkConfig, PlainUNetConfig, UNetConfig
from nas3d_jax.models.networks import Network
from nas3d_jax.models.plain_unet import PlainUNet
from nas3d_jax.models.unet3d import UNet3D

HAND_DESIGNED: Mapping[str, type[Network]] = types.MappingProxyType({"unet3d": UNet3D, "plain_unet": PlainUNet})
CONFIGS: Mapping[str, type[NetworkConfig] | type[UNetConfig]] = types.MappingProxyType(
  {config.architecture: config for config in (NetworkConfig, UNetConfig, PlainUNetConfig)}
)
