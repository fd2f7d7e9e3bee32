"""The cell of the supernet, made of hybrid modules, and the cell of a derived network (section 2.2, Fig. 4 to 6).

A cell is a graph. Its states are X0 and X1, the projected outputs of two earlier stages, and then its n nodes; state k
+ 2 is node k. An edge leads from a state to a later node. Here the cells go through the states in order: all edges that
read a state are computed together and added to their nodes, after which the next node is complete.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from nas3d_jax.models import convolutions, fused_operations, group_norm, operations, selected_operations
from nas3d_jax.models.config import Variant
from nas3d_jax.models.cpu_tuning import materialize
from nas3d_jax.models.custom_operations import Custom, DenseParameters
from nas3d_jax.models.initialization import declare
from nas3d_jax.models.ranks import spread
from nas3d_jax.models.search_space import (
  PAPER_SPACE,
  CellKind,
  Direction,
  Row,
  SearchSpace,
  direction_of,
  edge_row,
  reading_nodes,
)
from nas3d_jax.models.single_path import Path


class Projection(nn.Module):
  """Convolution and group norm: brings the output of a stage to a cell's channels and size; also P0 and P1 (Fig. 3).

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
    """[N, D, H, W, C] -> [N, D / stride, H / stride, W / stride, channels]; InputError if an odd length is halved."""
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
  """States 0 and 1 of a cell, [N, D, H, W, channels] each: ReLU, projection (stride 2 for X0 of a downward cell)."""
  stride = 2 if kind == "down" else 1
  return [
    Projection(channels, stride=stride, name="preprocess0")(nn.relu(x0)),
    Projection(channels, name="preprocess1")(nn.relu(x1)),
  ]


class HybridModules(nn.Module):
  """All hybrid modules that read one state (Fig. 4): each mixes all candidate operations of its direction.

  Parameters are stacked over the edges by operation: `<operation>/<layer>/<name>` with the shapes of
  `operations.parameter_shapes`.

  Attributes:
    direction: what the hybrid modules do to the resolution.
    channels: C, channels of the state and of every operation.
    edges: E, hybrid modules that read the state.
    variant: which squeeze-and-excitation operation is meant.
    space: the candidate operations.
  """

  direction: Direction
  channels: int
  edges: int
  variant: Variant = "paper"
  space: SearchSpace = PAPER_SPACE

  @nn.compact
  def __call__(self, x: jax.Array, weights: jax.Array | Path) -> jax.Array:
    """Mixes the candidate operations: on each edge, the sum over o of softmax(alpha)_o o(x) (equation in section 2.2).

    Args:
      x: the state, [N, D, H, W, C].
      weights: float32 [E, candidates]: the softmax of the hybrid parameters alpha, columns as in
        `space.candidates`; or the path of E edges, of which each then computes one operation.

    Returns:
      [N, D', H', W', E, C] in the dtype of x.
    """
    names = self.space.candidates[self.direction]
    one = isinstance(weights, Path)
    columns = {
      name: jnp.where(weights.choice == index, weights.weight, 0) if one else weights[:, index]
      for index, name in enumerate(names)
    }
    params, others = {}, []
    for name in names:
      custom = self.space.custom_operation(name)
      if custom is None:
        params[name] = operations.Parameters(name, self.channels, self.edges, self.variant, name=name)()
      elif custom.dense:
        params[name] = DenseParameters(custom, self.channels, self.edges, name=name)()
      else:
        y = Custom(custom, self.channels, self.edges, name=name)(x)
        others.append(y * spread(columns[name][:, None].astype(y.dtype), y))
    if not params:
      return sum(others)
    if one:
      numbers = {name: index for index, name in enumerate(names)}
      mixed = selected_operations.evaluate(x, params, self.direction, self.variant, numbers, weights)
    else:
      (mixed,) = fused_operations.evaluate(x, params, self.direction, self.variant, columns, summed=True)
    return sum(others, convolutions.depth_to_space(mixed) if self.direction == "up" else mixed)


class SearchCell(nn.Module):
  """A cell of the supernet (Fig. 5): node k sums one hybrid module over each of the k + 2 states before it.

  Attributes:
    kind: "down" or "up".
    channels: C, channels of a node.
    nodes: n, nodes of the cell.
    variant: which squeeze-and-excitation operation is meant.
    space: the candidate operations.
  """

  kind: CellKind
  channels: int
  nodes: int
  variant: Variant = "paper"
  space: SearchSpace = PAPER_SPACE

  @nn.compact
  def __call__(self, x0: jax.Array, x1: jax.Array, weights: Mapping[str, jax.Array | Path]) -> jax.Array:
    """Applies the cell.

    Args:
      x0: [N, D, H, W, C0], at twice the lengths of x1. Downward: output of the stage before the last; upward: the skip.
      x1: [N, D / 2, H / 2, W / 2, C1], output of the last stage.
      weights: softmax of the hybrid parameters by direction, float32 [edges, candidates], or a path; edges in the order
        of `search_space.edge_list`.

    Returns:
      [N, D', H', W', nodes * channels] in the dtype of x0: the nodes side by side; downward at half of the lengths of
      x1, upward at twice.
    """
    states = _inputs(self.kind, self.channels, x0, x1)
    nodes: list[jax.Array | int] = [0] * self.nodes
    for state in range(self.nodes + 1):
      readers = reading_nodes(state, self.nodes)
      direction = direction_of(self.kind, state)
      rows = jnp.asarray([edge_row(self.kind, node, state) for node in readers], jnp.int32)
      sizes = (self.channels, len(readers), self.variant, self.space)
      modules = HybridModules(direction, *sizes, name=f"state_{state}")
      mixed = modules(states[state], jax.tree.map(lambda array, rows=rows: array[rows], weights[direction]))
      for index, node in enumerate(readers):
        nodes[node] = nodes[node] + mixed[..., index, :]
      if state:
        nodes[state - 1] = materialize(nodes[state - 1])
        states.append(nodes[state - 1])
    return jnp.concatenate(nodes, axis=-1)


class DerivedCell(nn.Module):
  """A cell of a derived network (Fig. 6): every node sums two operations; those on one state are computed together.

  Attributes:
    kind: "down" or "up".
    channels: C, channels of a node.
    rows: of the genotype, two (operation, state) a node.
    variant: which squeeze-and-excitation operation is meant.
    space: the candidate operations, of which the rows have some.
  """

  kind: CellKind
  channels: int
  rows: tuple[Row, ...]
  variant: Variant = "paper"
  space: SearchSpace = PAPER_SPACE

  @nn.compact
  def __call__(self, x0: jax.Array, x1: jax.Array) -> jax.Array:
    """Applies the cell: arguments and result of `SearchCell`, without weights."""
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
    """Row and result [N, D', H', W', C] of each row that reads a state; row k has the parameters `op_k`.

    Rows with the same operation are stacked: they are the edges of that operation.
    """
    rows = [index for index, (_, source) in enumerate(self.rows) if source == state]
    direction = direction_of(self.kind, state)
    by_operation: dict[str, list] = {}
    found = []  # row, its operation, which edge of that operation it is
    others = []  # row and result
    for row in rows:
      name, own = self.rows[row][0], f"op_{row}"
      custom = self.space.custom_operation(name)
      if custom is not None and not custom.dense:
        others.append((row, Custom(custom, self.channels, name=own)(x)))
        continue
      edges = by_operation.setdefault(name, [])
      found.append((row, name, len(edges)))
      if custom is None:
        edges.append(operations.Parameters(name, self.channels, variant=self.variant, name=own)())
      else:
        edges.append(DenseParameters(custom, self.channels, name=own)())
    stacked = {}
    for name, edges in by_operation.items():
      like = name if self.space.custom_operation(name) is None else "conv"
      stacked[name] = operations.stack(edges, like, self.channels, self.variant)
    ones = {name: jnp.ones(len(edges), jnp.float32) for name, edges in by_operation.items()}
    results = fused_operations.evaluate(x, stacked, direction, self.variant, ones, summed=False)
    outputs = dict(zip(stacked, results, strict=True))
    finish = convolutions.depth_to_space if direction == "up" else (lambda y: y)
    return others + [(row, finish(outputs[name][..., edge, :])) for row, name, edge in found]
