"""Floating-point operations of a forward pass, counted from the shapes of the parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax

from nas3d_jax.errors import InputError
from nas3d_jax.models.networks import DerivedNet, Network, variable_shapes
from nas3d_jax.models.search_space import operation_direction
from nas3d_jax.models.unet3d import UNet3D


def forward_flops(net: Network, patch_size: int) -> float:
  """Floating-point operations of the convolutions and linear layers in the forward pass of one patch.

  A multiplication and the addition after it count as two; zeros of the padding count. Norms, activations, pools and
  sums are left out: they are a few percent. What is counted is the network as the paper defines it, not the form in
  which it is computed.

  Args:
    net: a `DerivedNet` or a `UNet3D`.
    patch_size: length of the patch along each axis in voxels.

  Raises:
    InputError: another network, or a patch size that does not fit.
  """
  net.config.check_patch_size(patch_size)
  if not isinstance(net, (DerivedNet, UNet3D)):
    raise InputError(f"net must be a DerivedNet or a UNet3D, got {type(net).__name__}; give a training")
  level_of: Callable[[Sequence[str]], int] = _unet_level if isinstance(net, UNet3D) else _DerivedLevels(net)
  total = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(variable_shapes(net)["params"]):
    names = [key.key for key in path]
    if names[-1] == "kernel":
      gate = names[-2] in ("squeeze", "excite")  # on the mean over all voxels
      voxels = 1 if gate else patch_size**3 / 8 ** level_of(names)
      total += 2 * voxels * math.prod(leaf.shape)
  return total


def _unet_level(names: Sequence[str]) -> int:
  """Times that the resolution was halved where a kernel acts; the modules of `UNet3D` end in it."""
  return int(names[0].split("_")[1])


@dataclasses.dataclass(frozen=True)
class _DerivedLevels:
  """Likewise for a derived network, whose downward cell i goes from level i + 1 to i + 2, see `networks.py`."""

  net: DerivedNet

  def __call__(self, names: Sequence[str]) -> int:
    cell, layer = names[0], names[1]
    if cell in ("stem0", "stem1"):
      return int(cell[-1])
    if cell == "head":
      return 0
    kind, number = cell.split("_")
    coarse = int(number) + 2 if kind == "down" else self.net.config.depth - int(number) + 1
    if layer.startswith("preprocess"):
      if kind == "down":
        return coarse - 1
      return coarse - 1 if layer == "preprocess0" else coarse
    operation, _ = getattr(self.net.genotype, kind)[int(layer.removeprefix("op_"))]
    if kind == "down":
      return coarse
    # What doubles the resolution scatters from its input; a pointwise convolution comes after that.
    scatters = operation_direction(operation) == "up" and names[-2] != "pointwise"
    return coarse if scatters else coarse - 1
