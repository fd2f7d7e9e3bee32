"""The cell of the supernet, of hybrid modules, and the cell of a derived network (section 2.2, Fig. 4 to 6)."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from nas3d_jax.models import convolutions, fused_operations, group_norm, operations
from nas3d_jax.models.config import Variant
from nas3d_jax.models.cpu_tuning import materialize
from nas3d_jax.models.initialization import declare
from nas3d_jax.models.search_space import CANDIDATES, CellKind, Direction, Row, direction, edge_row, reading_nodes


class Projection(nn.Module):
  """Convolution and group norm, which bring a stage's output to a cell's channels and size; also the stem (P0, P1).

  Attributes:
    channels: channels of the output.
    size: 1 or 3, the kernel's length.
    stride: 1 or 2. A 3x3x3 projection has stride 2.
  """

  channels: int
  size: int = 1
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, D, H, W, C] -> [N, D / stride, H / stride, W / stride, channels]."""
    layer, taps = ("conv", (3, 3, 3)) if self.size == 3 else ("project", ())
    width = (self.channels,)
    params = declare(
      self,
      {
        layer: {"kernel": (*taps, x.shape[-1], *width), "bias": width},
        "norm": {"scale": width, "bias": width},
      },
    )
    if self.size == 3:
      y = convolutions.conv_down(x, params[layer]["kernel"])
    else:
      y = convolutions.project(convolutions.even_voxels(x) if self.stride == 2 else x, params[layer]["kernel"])
    return group_norm.group_norm(y, params[layer]["bias"], **params["norm"])


def _inputs(kind: CellKind, channels: int, x0: jax.Array, x1: jax.Array) -> list[jax.Array]:
  """The two states that a cell starts from: ReLU, projection (stride 2 for X0 of a downward cell)."""
  stride = 2 if kind == "down" else 1
  return [
    Projection(channels, stride=stride, name="preprocess0")(nn.relu(x0)),
    Projection(channels, name="preprocess1")(nn.relu(x1)),
  ]


class Fan(nn.Module):
  """The hybrid modules of one state: each edge mixes all candidate operations by its weights.

  Parameters are held by operation, stacked over the edges: `<operation>/<module>/<name>` with the shapes of
  `operations.parameter_shapes`.

  Attributes:
    direction: what the hybrid modules do to the resolution.
    channels: C, channels of the state and of every operation.
    edges: E, hybrid modules that read the state.
    variant: which squeeze-and-excitation operation is meant.
  """

  direction: Direction
  channels: int
  edges: int
  variant: Variant = "paper"

  @nn.compact
  def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
    """Mixes the candidate operations (equation in section 2.2: sum over o of softmax(alpha)_o o(x)).

    Args:
      x: the state, [N, D, H, W, C].
      weights: [E, candidates], positive: the softmax of the hybrid parameters, columns as in `CANDIDATES`.

    Returns:
      [N, D', H', W', E, C].
    """
    names = CANDIDATES[self.direction]
    params = {
      name: operations.Parameters(name, self.channels, self.edges, self.variant, name=name)() for name in names
    }
    columns = {name: weights[:, index] for index, name in enumerate(names)}
    total = fused_operations.mix(x, params, self.direction, self.variant, columns)
    return convolutions.depth_to_space(total) if self.direction == "up" else total


class SearchCell(nn.Module):
  """A cell of the supernet: every node sums one hybrid module over each state before it.

  Attributes:
    kind: "down" or "up".
    channels: channels of a node.
    nodes: n.
    variant: which squeeze-and-excitation operation is meant.
  """

  kind: CellKind
  channels: int
  nodes: int
  variant: Variant = "paper"

  @nn.compact
  def __call__(self, x0: jax.Array, x1: jax.Array, weights: Mapping[str, jax.Array]) -> jax.Array:
    """Applies the cell.

    Args:
      x0: [N, D, H, W, C0]; downward: output of the stage before the last, at twice x1's lengths; upward: the skip,
        likewise.
      x1: [N, D / 2, H / 2, W / 2, C1]: output of the last stage.
      weights: softmax of the hybrid parameters by direction, [edges, candidates], rows in the order of
        `search_space.edge_list`.

    Returns:
      [N, D', H', W', nodes * channels]: downward at half of x1's lengths, upward at twice.
    """
    states = _inputs(self.kind, self.channels, x0, x1)
    nodes: list[jax.Array | int] = [0] * self.nodes
    for state in range(self.nodes + 1):
      readers = reading_nodes(state, self.nodes)
      towards = direction(self.kind, state)
      rows = jnp.asarray([edge_row(self.kind, node, state) for node in readers])
      fan = Fan(towards, self.channels, len(readers), self.variant, name=f"state_{state}")
      mixed = fan(states[state], weights[towards][rows])
      for index, node in enumerate(readers):
        nodes[node] = nodes[node] + mixed[..., index, :]
      if state:
        nodes[state - 1] = materialize(nodes[state - 1])
        states.append(nodes[state - 1])
    return jnp.concatenate(nodes, axis=-1)


class DerivedCell(nn.Module):
  """A cell of a derived network: every node sums two operations; those that read one state are evaluated together.

  Attributes:
    kind: "down" or "up".
    channels: channels of a node.
    rows: two (operation, state) a node.
    variant: which squeeze-and-excitation operation is meant.
  """

  kind: CellKind
  channels: int
  rows: tuple[Row, ...]
  variant: Variant = "paper"

  @nn.compact
  def __call__(self, x0: jax.Array, x1: jax.Array) -> jax.Array:
    """Applies the cell; arguments and result as of `SearchCell`, without weights."""
    count = len(self.rows) // 2
    states = _inputs(self.kind, self.channels, x0, x1)
    nodes: list[jax.Array | int] = [0] * count
    for state in range(count + 1):
      for row, y in self._read(state, states[state]):
        nodes[row // 2] = nodes[row // 2] + y
      if state:
        nodes[state - 1] = materialize(nodes[state - 1])
        states.append(nodes[state - 1])
    return jnp.concatenate(nodes, axis=-1)

  def _read(self, state: int, x: jax.Array) -> list[tuple[int, jax.Array]]:
    """The rows that read a state, each with its result; row k has the parameters `op_k`."""
    rows = [index for index, (_, source) in enumerate(self.rows) if source == state]
    towards = direction(self.kind, state)
    trees: dict[str, list] = {}
    places = []
    for row in rows:
      name = self.rows[row][0]
      same = trees.setdefault(name, [])
      places.append((row, name, len(same)))
      same.append(operations.Parameters(name, self.channels, variant=self.variant, name=f"op_{row}")())
    stacked = {name: operations.stack(same, name, self.channels, self.variant) for name, same in trees.items()}
    ones = {name: jnp.ones(len(same)) for name, same in trees.items()}
    outputs = fused_operations.evaluate(x, stacked, towards, self.variant, ones)
    finish = convolutions.depth_to_space if towards == "up" else (lambda y: y)
    return [(row, finish(outputs[name][..., place, :])) for row, name, place in places]
