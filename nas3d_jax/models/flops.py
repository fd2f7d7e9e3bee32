"""Floating-point operations of a forward pass, counted from the shapes of the parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax

from nas3d_jax.errors import InputError
from nas3d_jax.models.architectures import HAND_DESIGNED
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.custom_operations import PREFIX as CUSTOM_PREFIX
from nas3d_jax.models.networks import DerivedNet, Network, variable_shapes
from nas3d_jax.models.operations import layer_shapes
from nas3d_jax.models.search_space import CellKind, Direction
from nas3d_jax.validation import PatchSize, axis_lengths


def forward_flops(net: Network, patch_size: PatchSize) -> float:
  """Floating-point operations of the convolutions and linear layers in the forward pass of one patch.

  A multiplication and the addition after it count as two. Zeros of the padding count. Norms, activations, pools and
  sums are left out: they are a few percent. The count is that of the network which the paper defines, whatever the form
  in which it is computed. In operations of the user's own, each array of two axes or more counts as the kernel of a
  convolution.

  Args:
    net: a `DerivedNet` or a `UNet3D`.
    patch_size: length of the patch in voxels; one, or one an axis.

  Raises:
    InputError: another network, or a patch size that does not fit.
  """
  net.config.check_patch_size(patch_size)
  if not isinstance(net, (DerivedNet, *HAND_DESIGNED.values())):
    raise InputError(f"net must be a network that is trained, got {type(net).__name__}; give a training")
  level_of: Callable[[Sequence[str]], int] = _DerivedLevels(net) if isinstance(net, DerivedNet) else _unet_level
  total = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(variable_shapes(net)["params"]):
    names = [key.key for key in path]
    own = any(name.startswith(CUSTOM_PREFIX) for name in names)
    if names[-1] == "kernel" or (own and len(leaf.shape) > 1):
      gate = names[-2] in ("squeeze", "excite")  # on the mean over all voxels
      voxels = 1 if gate else math.prod(axis_lengths(patch_size)) / 8 ** level_of(names)
      total += 2 * voxels * math.prod(leaf.shape)
  return total


def _unet_level(names: Sequence[str]) -> int:
  """How often the resolution was halved where a kernel acts: the number in a module's name in `UNet3D` and `PlainUNet`.

  Args:
    names: of the kernel, from the module down: ("down_2", "conv", "kernel").
  """
  return int(names[0].split("_")[1])


def operation_flops(operation: str, cell: str, config: NetworkConfig, patch_size: PatchSize) -> float:
  """What one operation of Table 1 adds to `forward_flops` in a cell of a derived network, "down_0", "up_1" and so on.

  Raises:
    InputError: no such operation in the search space of the network.
  """
  total, direction = 0.0, config.space.direction(operation)
  for layer, arrays in layer_shapes(operation, config.cell_channels(cell), config.variant).items():
    if "kernel" in arrays:
      gate = layer in ("squeeze", "excite")
      voxels = math.prod(axis_lengths(patch_size)) / 8 ** _operation_level(cell, config, direction, layer)
      total += 2 * (1 if gate else voxels) * math.prod(arrays["kernel"])
  return total


def coarse_level(cell: str, config: NetworkConfig) -> tuple[CellKind, int]:
  """The kind of a cell, and how often the resolution was halved at its coarser end."""
  kind, number = cell.split("_")
  return kind, int(number) + 2 if kind == "down" else config.depth - int(number) + 1


def _operation_level(cell: str, config: NetworkConfig, direction: Direction, layer: str) -> int:
  """The same where a layer of an operation acts."""
  kind, coarse = coarse_level(cell, config)
  if kind == "down":
    return coarse
  # A transposed convolution acts on each voxel of its input; the pointwise one after it on the doubled output.
  scatters = direction == "up" and layer != "pointwise"
  return coarse if scatters else coarse - 1


@dataclasses.dataclass(frozen=True)
class _DerivedLevels:
  """How often the resolution was halved where a kernel of a derived network acts.

  The stems P0 and P1 end on level 0 and 1; downward cell i goes from level i + 1 to i + 2, see `networks`.
  """

  net: DerivedNet

  def __call__(self, names: Sequence[str]) -> int:
    cell, layer = names[0], names[1]
    if cell in ("stem0", "stem1"):
      return int(cell[-1])
    if cell == "head":
      return 0
    kind, coarse = coarse_level(cell, self.net.config)
    if layer.startswith("preprocess"):
      if kind == "down":
        return coarse - 1
      return coarse - 1 if layer == "preprocess0" else coarse
    operation, _ = getattr(self.net.genotype, kind)[int(layer.removeprefix("op_"))]
    return _operation_level(cell, self.net.config, self.net.config.space.direction(operation), names[-2])
