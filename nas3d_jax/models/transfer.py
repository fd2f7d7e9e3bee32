"""What a network takes over from one that has other modalities or regions, and is else the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nas3d_jax.models.networks import Network, variable_shapes

Pairs = Sequence[tuple[int, int]]
"""Places of channels, each (in this network, in the other)."""


class TakenOver(NamedTuple):
  """Parameters of two networks as those of one.

  Attributes:
    variables: of the network, on the host.
    taken: how many parameters are the other network's.
    drawn: how many are not, by the name of the layer; only layers that have some.
  """

  variables: dict[str, Any]
  taken: int
  drawn: dict[str, int]


def take_over(
  net: Network, drawn: Mapping[str, Any], other: Mapping[str, Any], *, modalities: Pairs, regions: Pairs
) -> TakenOver:
  """Puts another network's parameters in the place of those drawn, where both have the channel.

  They are taken as they are: a norm follows the first convolutions and takes out how many channels they sum.

  Args:
    net: the network.
    drawn: its variables, for what the other lacks.
    other: variables of a network whose configuration differs in `in_channels` and `out_channels` alone.
    modalities: those that both have, by their places.
    regions: the same of the regions.
  """
  counts = {"taken": 0}
  of_layers: dict[str, int] = {}

  def merged(path, value, source, inputs, outputs):
    value, source = np.array(value), np.asarray(source)
    pairs = [modalities if axis == inputs else regions if axis == outputs else None for axis in range(value.ndim)]
    here, there = (
      np.ix_(*[_indices(n, own, side) for n, own in zip(value.shape, pairs, strict=True)])
      for side in (0, 1)
    )
    value[here] = source[there]
    taken = source[there].size
    counts["taken"] += taken
    if taken < value.size:
      layer = path[1].key
      of_layers[layer] = of_layers.get(layer, 0) + value.size - taken
    return value

  axes = (_channel_axes(net, name) for name in ("in_channels", "out_channels"))
  variables = jax.tree_util.tree_map_with_path(merged, dict(drawn), dict(other), *axes)
  return TakenOver(variables, counts["taken"], of_layers)


def _indices(length: int, pairs: Pairs | None, side: int) -> np.ndarray:
  """Places along an axis: all, or those of pairs."""
  return np.arange(length) if pairs is None else np.array([pair[side] for pair in pairs], int)


def _channel_axes(net: Network, name: str) -> dict[str, Any]:
  """For each parameter the axis whose length is `config.<name>`, found by what one channel more changes; -1: none."""
  more = net.clone(config=dataclasses.replace(net.config, **{name: getattr(net.config, name) + 1}))

  def axis(one, other):
    return next((i for i, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if a != b), -1)

  return jax.tree.map(axis, variable_shapes(net), variable_shapes(more))
