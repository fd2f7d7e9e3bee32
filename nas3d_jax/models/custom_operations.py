"""Candidate operations of the user's own inside the networks, see `search_space.CustomOperation`.

The parameters of the user's module stand under `custom_<name>`, in the supernet stacked over the edges along axis 0.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.initialization import declare, initial_values
from nas3d_jax.models.operations import layer_shapes
from nas3d_jax.models.search_space import CustomOperation, Direction

PREFIX = "custom_"
"""In front of the name of what holds the parameters of a module of the user's."""

TAPS = "taps"
"""The layer that holds the kernel of a dense one."""

_FACTOR: Mapping[Direction, tuple[int, int]] = {"normal": (1, 1), "down": (1, 2), "up": (2, 1)}


class _Module(nn.Module):
  """The user's module, under its name.

  Attributes:
    operation: the operation.
    channels: C.
  """

  operation: CustomOperation
  channels: int

  def setup(self):
    setattr(self, PREFIX + self.operation.name, self.operation.module(self.channels))

  def __call__(self, *x: jax.Array) -> jax.Array:
    """Its output, or its kernel where it is dense; checked."""
    y = getattr(self, PREFIX + self.operation.name)(*x)
    if self.operation.dense:
      wanted, dtype = (3, 3, 3, self.channels, self.channels), jnp.float32
    else:
      times, over = _FACTOR[self.operation.direction]
      # Whole numbers, or symbols where it is exported for any lengths.
      wanted = (x[0].shape[0], *(length * times // over for length in x[0].shape[1:4]), self.channels)
      dtype = x[0].dtype
    got = (jnp.shape(y), getattr(y, "dtype", None))
    if got != (wanted, dtype):
      what = "kernel" if self.operation.dense else "result"
      raise InputError(
        f"operation {self.operation.name!r} must give a {what} of shape {wanted} and {jnp.dtype(dtype).name}, got "
        f"shape {got[0]} and {got[1]}; mend its module"
      )
    return y


def _edges_of(edges: int | None) -> Any:
  """The class of the user's module on one edge, or on several with parameters of their own: [..., E, C]."""
  if edges is None:
    return _Module
  stacked = dict(variable_axes={"params": 0}, split_rngs={"params": True})
  return nn.vmap(_Module, in_axes=None, out_axes=-2, axis_size=edges, **stacked)


class Custom(nn.Module):
  """An operation of the user's own that is not dense, on one edge or on `edges`.

  Attributes:
    operation: the operation.
    channels: C.
    edges: E, or None for a single operation without that axis.
  """

  operation: CustomOperation
  channels: int
  edges: int | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, D, H, W, C] -> [N, D', H', W', (E,) C]; InputError where the module gives something else."""
    module = _edges_of(self.edges)(self.operation, self.channels)
    nn.share_scope(self, module)
    return module(x)


class DenseParameters(nn.Module):
  """The parameters of a dense operation of the user's own, in the form of those of "conv".

  Attributes:
    operation: the operation.
    channels: C.
    edges: E, or None for a single operation without that axis.
  """

  operation: CustomOperation
  channels: int
  edges: int | None = None

  @nn.compact
  def __call__(self) -> dict[str, dict[str, jax.Array]]:
    """Kernel float32 [3, 3, 3, C, (E,) C], bias and norm [(E,) C] by layer and name."""
    layers = layer_shapes("conv", self.channels, edges=self.edges)
    others = declare(self, {"conv": {"bias": layers["conv"]["bias"]}, "norm": layers["norm"]})
    kernel = _edges_of(self.edges)(self.operation, self.channels, name=TAPS)()
    return {"conv": {"kernel": kernel, **others["conv"]}, "norm": others["norm"]}


def initial_parameters(
  key: jax.Array, shapes: Mapping[str, Any], config: NetworkConfig, *, host: bool = False
) -> dict[str, Any]:
  """`initialization.initial_values` of a network; those of the user's modules are their own.

  Args:
    key: a random key.
    shapes: of the network's parameters, nested dicts.
    config: of the network.
    host: whether arrays are NumPy's.

  Raises:
    InputError: a parameter of the user's is not float32.
  """
  places = dict(_places(shapes, ()))
  if not places:
    return initial_values(key, shapes, host=host)
  tree = initial_values(key, _without(shapes), host=host)
  array = np.asarray if host else jnp.asarray
  for path, leaves in places.items():
    operation = config.space.custom_operation(path[-1].removeprefix(PREFIX))
    if others := {str(leaf.dtype) for leaf in jax.tree.leaves(leaves)} - {"float32"}:
      raise InputError(f"operation {operation.name!r} must have float32 parameters, got {', '.join(others)}; mend it")
    # Of its own for each place, whatever else there is.
    own = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
    edges = jax.tree.leaves(leaves)[0].shape[0] if path[1].startswith("state_") else None
    drawn = _draw(operation, config.cell_channels(path[0]), edges, operation.module)(own)
    group = functools.reduce(lambda group, part: group.setdefault(part, {}), path[:-1], tree)
    group[path[-1]] = jax.tree.map(array, drawn)
  return tree


@functools.lru_cache(maxsize=64)
def _draw(operation: CustomOperation, channels: int, edges: int | None, module: Any):
  """The compiled draw of an operation's parameters from a key; `module` tells apart operations of one name."""
  x = () if operation.dense else (jax.ShapeDtypeStruct((1, 8, 8, 8, channels), jnp.float32),)

  def one(key):
    return module(channels).init(key, *(jnp.zeros(a.shape, a.dtype) for a in x))["params"]

  if edges is None:
    return jax.jit(one)
  return jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, edges)))


def _places(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
  """Path and parameters of each module of the user's."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      if name.startswith(PREFIX):
        yield (*path, name), value
      else:
        yield from _places(value, (*path, name))


def _without(tree: Mapping[str, Any]) -> dict[str, Any]:
  """The tree without the parameters of the user's modules."""
  return {
    name: _without(value) if isinstance(value, Mapping) else value
    for name, value in tree.items()
    if not name.startswith(PREFIX)
  }
