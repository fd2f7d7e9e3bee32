"""A state as plain data: paths, kinds of leaves, and what does not fit."""

import collections

import jax
import numpy as np
import optax
import pytest

from nas3d_jax.checkpointing import serialization
from nas3d_jax.errors import InputError

Pair = collections.namedtuple("Pair", ["left", "right"])


def paths(tree):
  return ["/".join(str(key.key) for key in path) for path, _ in jax.tree.leaves_with_path(tree)]


@pytest.mark.parametrize(
  ("tree", "want"),
  [
    ({"a": {"b": 1, "c": ()}}, ["a/b"]),
    (Pair([10, 20], None), ["left/0", "left/1"]),
    ((Pair(1, 2), {3: 4}), ["0/left", "0/right", "1/3"]),
    (optax.ScaleByAdamState(0, {"w": 1}, {"w": 2}), ["count", "mu/w", "nu/w"]),
  ],
)
def test_path_of_an_array_is_the_path_of_its_leaf(tree, want):
  got = serialization.to_plain(tree)
  assert paths(got) == want
  assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(got))
  assert serialization.from_plain(got, tree) == tree


def test_kinds_of_leaves_come_back():
  tree = [True, 3, 0.1, np.float64(0.1), np.arange(3, dtype=np.int64), jax.numpy.ones(2)]
  got = serialization.from_plain(serialization.to_plain(tree), tree)
  assert [type(leaf) for leaf in got] == [type(leaf) for leaf in tree]
  assert got[:4] == tree[:4]
  assert got[4].dtype == np.int64


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_typed_keys_keep_their_kind(impl):
  key = jax.random.split(jax.random.key(3, impl=impl), 2)
  got = serialization.from_plain(serialization.to_plain({"key": key}), {"key": key})["key"]
  assert got.dtype == key.dtype
  np.testing.assert_array_equal(jax.random.key_data(got), jax.random.key_data(key))


@pytest.mark.parametrize(
  ("like", "message"),
  [
    ({"a": np.ones(3)}, "^b/c is not expected$"),
    ({"a": np.ones(3), "b": {"c": 1, "d": 2}}, "^b/d is missing$"),
    ({"a": np.ones(4), "b": {"c": 1}}, r"^a is float64\[3\], not float64\[4\]$"),
    ({"a": np.ones(3, "f4"), "b": {"c": 1}}, r"^a is float64\[3\], not float32\[3\]$"),
    ({"a": jax.ShapeDtypeStruct((2,), "f4"), "b": {}}, r"^b/c is not expected; a is float64\[3\]"),
    (dict.fromkeys("abcdefgh", 1.0), r"is missing; .* and 4 more$"),
  ],
)
def test_what_does_not_fit_is_listed(like, message):
  with pytest.raises(InputError, match=message):
    serialization.from_plain(serialization.to_plain({"a": np.ones(3), "b": {"c": 1}}), like)


@pytest.mark.parametrize("state", [b"", b"\x00\xff{", {"next": [1, None, "x"]}, "text", 3])
def test_positions_survive(state):
  assert serialization.decode_position(serialization.encode_position("kernel", state)) == state


@pytest.mark.parametrize("value", [{1: 2}, (1, 2), float("nan"), {"a": {1}}, np.int32(1)])
def test_what_json_would_change_is_refused(value):
  with pytest.raises(InputError, match=r"^iterators\['kernel'\] must hold plain JSON values"):
    serialization.encode_position("kernel", value)


@pytest.mark.parametrize(
  "entry",
  [None, [], {}, {"encoding": "json"}, {"encoding": "json", "state": 1, "more": 2}, {"encoding": "x", "state": ""},
   {"encoding": "base64", "state": "a"}, {"encoding": "base64", "state": None}, {"encoding": [], "state": "é"}],
)  # fmt: skip
def test_a_position_that_is_none_is_refused(entry):
  with pytest.raises(InputError, match="position of an iterator"):
    serialization.decode_position(entry)
