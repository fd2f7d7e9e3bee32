"""A single candidate operation: its parameters and their initial values, and the module that applies it (Table 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nas3d_jax.errors import InputError
from nas3d_jax.models import convolutions, fused_operations
from nas3d_jax.models.config import Variant
from nas3d_jax.models.initialization import declare
from nas3d_jax.models.search_space import family, operation_direction

Path = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One array of an operation's parameters.

  Attributes:
    shape: of a single operation, without the axis of edges.
    edge_axis: where the axis of edges stands in a stacked array, counted from its end.
  """

  shape: tuple[int, ...]
  edge_axis: int = -2

  def with_edges(self, edges: int) -> tuple[int, ...]:
    """The shape of `edges` arrays stacked along `edge_axis`: (3, 3, 3, 4, 4) and 2 edges -> (3, 3, 3, 4, 2, 4)."""
    shape = list(self.shape)
    shape.insert(len(shape) + 1 + self.edge_axis, edges)
    return tuple(shape)


def parameter_shapes(operation: str, channels: int, variant: Variant) -> dict[Path, Leaf]:
  """The arrays of an operation by (layer, name), float32 (Table 1).

  For C channels and, where operations are stacked, E edges:

      layer        kernel                   bias
      conv         [3, 3, 3, C, (E,) C]     [(E,) C]
      depthwise    [3, 3, 3, C (, E)]       [(E,) C]
      pointwise    [C, (E,) C]              [(E,) C]
      squeeze      [C (, E)]                [(E)]
      excite       [(E,) C]                 [(E,) C]

  A norm has scale and bias, [(E,) C] each. Inputs stand before outputs. Kernels of operations that double the
  resolution hold what an input voxel adds: input voxel i adds kernel[k] to output voxel 2 i - 1 + k (2 i - 2 + 2 k
  where dilated).

  The name of a layer decides its initial values, see `initialization.FAN_IN`.

  Raises:
    InputError: no such operation.
  """
  computes, direction = family(operation), operation_direction(operation)
  norm = {("norm", "scale"): Leaf((channels,)), ("norm", "bias"): Leaf((channels,))}
  conv = {
    ("conv", "kernel"): Leaf((3, 3, 3, channels, channels)),
    ("conv", "bias"): Leaf((channels,)),
  }
  if computes == "pool":
    return {}
  if computes == "identity":
    return norm
  if computes == "dep_conv":
    return {
      ("depthwise", "kernel"): Leaf((3, 3, 3, channels), edge_axis=-1),
      ("depthwise", "bias"): Leaf((channels,)),
      ("pointwise", "kernel"): Leaf((channels, channels)),
      ("pointwise", "bias"): Leaf((channels,)),
    } | norm
  if computes == "se_conv":
    gate = {
      ("squeeze", "kernel"): Leaf((channels,), edge_axis=-1),
      ("squeeze", "bias"): Leaf((), edge_axis=-1),
      ("excite", "kernel"): Leaf((channels,)),
      ("excite", "bias"): Leaf((channels,)),
    }
    return gate if variant == "released" and direction == "normal" else gate | conv | norm
  return conv | norm


def layer_shapes(
  operation: str, channels: int, variant: Variant = "paper", edges: int | None = None
) -> dict[str, dict[str, tuple[int, ...]]]:
  """Shapes of an operation's parameters, or of `edges` of them stacked, by layer and name."""
  layers: dict[str, dict[str, tuple[int, ...]]] = {}
  for (layer, name), leaf in parameter_shapes(operation, channels, variant).items():
    layers.setdefault(layer, {})[name] = leaf.shape if edges is None else leaf.with_edges(edges)
  return layers


class Parameters(nn.Module):
  """The parameters of an operation, or of `edges` of them stacked; it computes nothing.

  Attributes:
    operation: name of the operation.
    channels: C.
    edges: E, or None for a single operation without that axis.
    variant: which squeeze-and-excitation operation is meant.
  """

  operation: str
  channels: int
  edges: int | None = None
  variant: Variant = "paper"

  @nn.compact
  def __call__(self) -> dict[str, dict[str, jax.Array]]:
    """The parameters by layer and name; empty for a pool."""
    return declare(self, layer_shapes(self.operation, self.channels, self.variant, self.edges))


def stack(
  trees: list[Mapping[str, Any]], operation: str, channels: int, variant: Variant
) -> dict[str, dict[str, jax.Array]]:
  """Stacks parameters of single operations of the same name, by layer and array, along the axis of edges."""
  stacked: dict[str, dict[str, jax.Array]] = {}
  for (layer, name), leaf in parameter_shapes(operation, channels, variant).items():
    stacked.setdefault(layer, {})[name] = jnp.stack([tree[layer][name] for tree in trees], axis=leaf.edge_axis)
  return stacked


class Operation(nn.Module):
  """One candidate operation; it keeps the number of channels.

  Attributes:
    operation: its name, one of `search_space.CANDIDATES`; it also determines what happens to the resolution.
    channels: C.
    variant: which squeeze-and-excitation operation is meant.
  """

  operation: str
  channels: int
  variant: Variant = "paper"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies the operation.

    Args:
      x: [N, D, H, W, C], floating point; even lengths where the operation halves them.

    Returns:
      [N, D', H', W', C] in the dtype of x: the same lengths, their halves or their doubles.

    Raises:
      InputError: another number of channels, or an odd length to be halved.
    """
    direction = operation_direction(self.operation)
    if x.ndim != 5 or x.shape[-1] != self.channels:
      raise InputError(f"x must be [N, D, H, W, {self.channels}] for {self.operation}, got shape {x.shape}")
    if direction == "down" and any(length % 2 for length in x.shape[1:4]):
      raise InputError(f"x must have even lengths to be halved by {self.operation}, got shape {x.shape}; pad it")
    params = declare(self, layer_shapes(self.operation, self.channels, self.variant))
    stacked = stack([params], self.operation, self.channels, self.variant)
    ones = {self.operation: jnp.ones(1, jnp.float32)}
    (y,) = fused_operations.evaluate(x, {self.operation: stacked}, direction, self.variant, ones, summed=False)
    return (convolutions.depth_to_space(y) if direction == "up" else y)[..., 0, :]
