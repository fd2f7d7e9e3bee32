"""Turns a state into plain data, arrays in dictionaries and JSON values, which open without its classes.

The path of an array is the path of its leaf: field names of named tuples and dataclasses, keys of
dictionaries, indices of sequences as decimal text; empty nodes leave no trace. A typed random key
becomes its uint32 data, a Python number an array of rank 0. Nothing is cast.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nas3d_jax.errors import InputError

PyTree = Any


def to_plain(tree: PyTree) -> dict[str, Any]:
  """Nested dictionaries of NumPy arrays, one a leaf, none of which shares memory with the tree."""
  plain: dict[str, Any] = {}
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  arrays = jax.device_get([_data(leaf) for _, leaf in leaves])
  for (path, _), array in zip(leaves, arrays, strict=True):
    *parents, name = _names(path)
    node = plain
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = np.array(array)
  return plain


def from_plain(plain: Mapping[str, Any], like: PyTree) -> PyTree:
  """The inverse of `to_plain`.

  Args:
    plain: nested dictionaries of NumPy arrays.
    like: a tree of the form, shapes and dtypes that are expected; its leaves are arrays,
      `jax.ShapeDtypeStruct`, typed random keys or numbers.

  Returns:
    The arrays in the form of `like`, each the kind of leaf that stands there: random key, NumPy
    array, number, else `jax.Array`.

  Raises:
    InputError: arrays are missing, surplus, or of another shape or dtype; names the first five and
      counts the others.
  """
  if faults := differences(plain, like):
    raise InputError(faults)
  stored = _by_name(plain)
  restored = [_as(stored[name], leaf) for name, leaf in _by_name(like).items()]
  return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), restored)


def differences(plain: Mapping[str, Any], like: PyTree) -> str:
  """In what names, shapes and dtypes differ from those that are expected: five of them and a count; empty where none.

  Args:
    plain: nested dictionaries of arrays, or of what has the shape and dtype of one.
    like: see `from_plain`.
  """
  stored, wanted = _by_name(plain), _by_name(like)
  faults = [f"{'/'.join(name)} is missing" for name in wanted if name not in stored]
  faults += [f"{'/'.join(name)} is not expected" for name in stored if name not in wanted]
  for name, leaf in wanted.items():
    if name in stored and (have := _describe(stored[name])) != (want := _describe(leaf)):
      faults.append(f"{'/'.join(name)} is {have}, not {want}")
  more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
  return "; ".join(faults[:5]) + more


def checked_json(name: str, value: Any) -> Any:
  """The value itself, if JSON gives it back unchanged.

  Raises:
    InputError: it does not; `name` stands in the message.
  """
  try:
    same = json.loads(json.dumps(value)) == value
  except (TypeError, ValueError) as error:
    raise InputError(f"{name} must hold plain JSON values: {error}") from None
  if not same:
    raise InputError(f"{name} must hold plain JSON values: no tuples, no NaN, text as keys")
  return value


def encode_position(name: str, state: Any) -> dict[str, Any]:
  """The state of an input iterator, JSON values or bytes, as {"encoding": ..., "state": ...}."""
  if isinstance(state, bytes):
    return {"encoding": "base64", "state": base64.b64encode(state).decode("ascii")}
  return {"encoding": "json", "state": checked_json(f"iterators[{name!r}]", state)}


def decode_position(entry: Mapping[str, Any]) -> Any:
  """The inverse of `encode_position`.

  Raises:
    InputError: the entry is no result of `encode_position`.
  """
  known = isinstance(entry, Mapping) and set(entry) == {"encoding", "state"}
  if not known or entry["encoding"] not in ("json", "base64"):
    raise InputError(f"the position of an iterator must have encoding and state, got {entry!r:.200}")
  if entry["encoding"] == "json":
    return entry["state"]
  try:
    return base64.b64decode(entry["state"], validate=True)
  except (TypeError, ValueError) as error:
    raise InputError(f"the position of an iterator is no base64: {error}") from None


def _by_name(tree: PyTree) -> dict[tuple[str, ...], Any]:
  return {_names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _is_key(leaf: Any) -> bool:
  return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _describe(leaf: Any) -> str:
  """Shape and dtype under which a leaf is stored, as `float32[3, 4]`."""
  if _is_key(leaf):
    leaf = jax.eval_shape(jax.random.key_data, leaf)
  elif not hasattr(leaf, "dtype"):
    leaf = np.asarray(leaf)
  return f"{leaf.dtype}{list(leaf.shape)}"


def _as(array: np.ndarray, leaf: Any) -> Any:
  if _is_key(leaf):
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
  if isinstance(leaf, np.ndarray):
    return array
  if isinstance(leaf, (bool, int, float, np.generic)):
    return type(leaf)(array[()])
  # A copy: an array that shares NumPy's memory could not be donated.
  return jax.numpy.array(array)
