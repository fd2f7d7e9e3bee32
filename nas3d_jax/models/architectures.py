"""The hand-designed networks by name."""

from __future__ import annotations

import types
from collections.abc import Mapping

from nas3d_jax.models.networks import Network
from nas3d_jax.models.plain_unet import PlainUNet
from nas3d_jax.models.unet3d import UNet3D

HAND_DESIGNED: Mapping[str, type[Network]] = types.MappingProxyType({"unet3d": UNet3D, "plain_unet": PlainUNet})
