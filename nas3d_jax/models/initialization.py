"""Initial values of all parameters of a network from one draw.

Weights and biases of every convolution and linear layer start uniform within +-1 / sqrt(fan-in), as PyTorch draws them.
The fan-in is that of a single operation; how many are stacked does not count. There is one draw for a whole tree: a
thousand draws would take a third of a second each to compile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.errors import InputError

# By name of the layer, how many inputs one output sums, from the shape of the kernel: its input axes come first, edges
# and outputs behind them.
FAN_IN: Mapping[str, Callable[[tuple[int, ...]], int]] = {
  "conv": lambda shape: math.prod(shape[:4]),
  "depthwise": lambda shape: math.prod(shape[:3]),
  "pointwise": lambda shape: shape[0],
  "project": lambda shape: shape[0],
  "squeeze": lambda shape: shape[0],
  "excite": lambda shape: 1,
}


def initial_values(key: jax.Array, shapes: Mapping[str, Any], *, host: bool = False) -> dict[str, Any]:
  """Draws the parameters of a tree.

  Args:
    key: a random key.
    shapes: nested dicts whose leaves have `shape`. A layer, the dict that holds "kernel" and "bias", has one of the
      names in `FAN_IN`. A norm, which holds "scale" and "bias", starts at 1 and 0; what stands under "hybrid" at 0.
    host: whether to cut the draw into arrays on the host: the same numbers, and only the draw is compiled.

  Returns:
    The tree with float32 arrays in place of the leaves, NumPy's where `host`.

  Raises:
    InputError: a layer has another name.
  """
  layers = list(_layers(shapes, ()))
  sizes = [math.prod(leaf.shape) for _, leaf, bound in layers if bound]
  ends = np.float32(-1), np.float32(1)
  draw = jax.random.uniform(key, (sum(sizes),), jnp.float32, *ends) if sizes else jnp.zeros(0, jnp.float32)
  draw, array = (np.asarray(draw), np) if host else (draw, jnp)
  start, tree = 0, {}
  for (path, name), leaf, bound in layers:
    if bound:
      size = math.prod(leaf.shape)
      value = array.asarray(array.float32(bound) * draw[start : start + size].reshape(leaf.shape))
      start += size
    else:
      value = array.full(leaf.shape, float(name == "scale"), array.float32)
    group = tree
    for part in path:
      group = group.setdefault(part, {})
    group[name] = value
  return tree


def declare(module: nn.Module, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> dict[str, dict[str, jax.Array]]:
  """Declares layers as parameters of a Linen module and returns their values.

  Args:
    module: the module, inside its compact method.
    shapes: shape of each array by layer and name, as in `initial_values`.

  Returns:
    float32 arrays by layer and name.
  """
  declared = {}
  for layer, arrays in shapes.items():
    given = module.get_variable("params", layer, {})
    fits = {name: jnp.shape(array) for name, array in given.items()} == arrays
    # Flax would trace the draw of values that are there, which is a good part of tracing a network.
    declared[layer] = given if fits else module.param(layer, init_layer, layer, arrays)
  return declared


def init_layer(key: jax.Array, layer: str, arrays: Mapping[str, tuple[int, ...]]) -> dict[str, jax.Array]:
  """Initial values of one layer from the shapes of its arrays, float32, by name."""
  leaves = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in arrays.items()}
  return initial_values(key, {layer: leaves})[layer]


def _layers(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[tuple[str, ...], str], Any, float]]:
  """Path and name of each leaf, the leaf, and the bound of its values: 0 where they are constant."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _layers(value, (*path, name))
    elif "kernel" not in tree:
      yield (path, name), value, 0.0
    elif not path or path[-1] not in FAN_IN:
      raise InputError(f"a kernel stands under {'/'.join(path)!r}; the last name must be one of {', '.join(FAN_IN)}")
    else:
      yield (path, name), value, 1 / math.sqrt(FAN_IN[path[-1]](tree["kernel"].shape))
