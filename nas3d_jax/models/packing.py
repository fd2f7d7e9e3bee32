"""The parameters of a network as one vector, with which the steps of search and training compute.

A network has hundreds of small arrays. An update by an optimiser, a copy of the state, a reduction over devices
launches a kernel for each of them, and compiling these takes longer than running them. On one vector each is a single
kernel.
Arrays that the network reads together stand side by side in the vector, so that reading them makes no copy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.models import fused_operations
from nas3d_jax.models.networks import Network, NetworkKey, variable_shapes

PACKED = "packed"

Path = tuple[str, ...]
Tree = dict[str, Any]


class Packing:
  """Where each leaf of a tree of parameters stands in the vector.

  Args:
    tree: nested dicts whose leaves have `shape` and are all float32.

  Attributes:
    size: length of the vector.

  Raises:
    InputError: the tree has no leaf.
  """

  def __init__(self, tree: Mapping[str, Any]):
    shapes = {path: tuple(leaf.shape) for path, leaf in _leaves(tree)}
    if not shapes:
      raise InputError("tree must have at least one parameter, got none; give the params of a network's init")
    self._shapes = {path: shapes[path] for path in sorted(shapes, key=_sort_key)}
    sizes = {path: math.prod(shape) for path, shape in self._shapes.items()}
    ends = np.cumsum(list(sizes.values()))
    self._starts = {path: int(end) - sizes[path] for path, end in zip(sizes, ends, strict=True)}
    self.size = int(ends[-1])
    # Index in the vector of each number of the tree, its leaves in the order of `jax.tree`: keys sorted.
    self._order = np.concatenate(
      [np.arange(self._starts[path], self._starts[path] + sizes[path]) for path in sorted(sizes)]
    )

  def pack(self, tree: Mapping[str, Any]) -> np.ndarray:
    """The tree as a vector, NumPy float32 [size]."""
    leaves = dict(_leaves(tree))
    return np.concatenate([np.asarray(leaves[path], np.float32).ravel() for path in self._shapes])

  def unpack(self, vector: np.ndarray | jax.Array) -> Tree:
    """The tree of NumPy arrays, views of one array that are not to be written to."""
    return self._tree(np.asarray(vector))

  def in_tree_order(self, vector: np.ndarray | jax.Array) -> np.ndarray:
    """The vector's numbers in the order of the tree's leaves, keys sorted, which checkpoints store: NumPy [size]."""
    return np.asarray(vector)[self._order]

  def in_own_order(self, vector: np.ndarray | jax.Array) -> np.ndarray:
    """The inverse of `in_tree_order`, NumPy float32 [size]."""
    vector_of_packing = np.empty(self.size, np.float32)
    vector_of_packing[self._order] = np.asarray(vector)
    return vector_of_packing

  def read(self, vector: jax.Array) -> Tree:
    """The tree inside a computation: vector float32 [size] -> arrays.

    Its gradient is one concatenation of the gradients of all leaves.
    """

    @jax.custom_vjp
    def read(vector):
      return self._tree(vector)

    def backward(_, tree):
      leaves = dict(_leaves(tree))
      return (jnp.concatenate([leaves[path].ravel() for path in self._shapes]),)

    read.defvjp(lambda vector: (self._tree(vector), None), backward)
    return read(vector)

  def _tree(self, vector):
    tree: Tree = {}
    for path, shape in self._shapes.items():
      start = self._starts[path]
      group = functools.reduce(lambda group, part: group.setdefault(part, {}), path[:-1], tree)
      group[path[-1]] = vector[start : start + math.prod(shape)].reshape(shape)
    return tree


class PackedNet:
  """A network that takes its kernel parameters as one vector; hybrid parameters stay as they are.

  Attributes:
    net: the network.
    packing: of its kernel parameters.
  """

  def __init__(self, net: nn.Module, variables: Mapping[str, Any]):
    """Takes the network, and its variables or their shapes."""
    self.net = net
    self.packing = Packing({name: leaf for name, leaf in variables["params"].items() if name != "hybrid"})

  def pack(self, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the network -> {"params": {"packed": float32 [size], "hybrid": unchanged, where given}}."""
    params = dict(variables["params"])
    hybrid = {name: params.pop(name) for name in ("hybrid",) if name in params}
    return {"params": {PACKED: jnp.asarray(self.packing.pack(params)), **hybrid}}

  def unpack(self, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `pack`: kernel parameters as NumPy arrays."""
    params = dict(variables["params"])
    return {"params": {**self.packing.unpack(params.pop(PACKED)), **params}}

  def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """The network's `apply`, with packed variables."""
    params = dict(variables["params"])
    return self.net.apply({"params": {**self.packing.read(params.pop(PACKED)), **params}}, *args, **kwargs)


def packed_net(net: Network) -> PackedNet:
  """The network with its parameters packed: for the same network the same object, so that its steps can be shared."""
  key = NetworkKey.of(net)
  return PackedNet(net, variable_shapes(net)) if key is None else _kept(key)


@functools.lru_cache(maxsize=16)
def _kept(key: NetworkKey) -> PackedNet:
  return PackedNet(key.net, variable_shapes(key.net))


def _leaves(tree: Mapping[str, Any], path: Path = ()):
  """Path and value of each leaf."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, (*path, name))
    else:
      yield (*path, name), value


def _sort_key(path: Path) -> tuple:
  """The sort key of a leaf: within hybrid modules by layer, array, operation, the order in which rows are read.

  `fused_operations` joins the same array of all operations, such as norm/scale: [rows of one, rows of the next, ...].
  """
  if len(path) > 3:
    *module, operation, layer, name = path
    # As a text: modules of the user's own are of any depth, and texts and numbers cannot be compared.
    return (*module, layer, name, str(fused_operations.rank(operation)), operation)
  return path
