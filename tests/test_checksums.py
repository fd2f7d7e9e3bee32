"""Checksums: of what exactly they are taken, and what is said of what does not fit."""

import hashlib

import ml_dtypes
import numpy as np
import pytest

from nas3d_jax.checksums import DamagedCheckpoint, array_sums, check_arrays, check_value, value_sum


def sha(*parts):
  return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize(
  ("array", "name", "data"),
  [
    (np.float32([1.0, -0.0]), b"float32[2]", b"\x00\x00\x80\x3f\x00\x00\x00\x80"),
    (np.int32(7), b"int32[]", b"\x07\x00\x00\x00"),
    (np.zeros((2, 0), np.uint8), b"uint8[2, 0]", b""),
    (np.array([True, False]), b"bool[2]", b"\x01\x00"),
    (np.array([1.0], ml_dtypes.bfloat16), b"bfloat16[1]", b"\x80\x3f"),
    (np.int16([[1, 2], [3, 4]]).T, b"int16[2, 2]", b"\x01\x00\x03\x00\x02\x00\x04\x00"),
  ],
)
def test_the_sum_of_an_array_is_that_of_type_shape_and_bytes(array, name, data):
  assert array_sums({"a": {"b": array}}) == {"a/b": sha(name, data)}


def test_the_sum_of_a_value_is_that_of_its_text_with_sorted_keys():
  assert value_sum({"b": [1, 2.5, None], "a": "é"}) == sha(b'{"a":"\\u00e9","b":[1,2.5,null]}')


def tree(**changes):
  return {"m": {name: np.float32([value]) for name, value in {"a": 1, "b": 2, "c": 3, "d": 4, **changes}.items()}}


@pytest.mark.parametrize(
  ("found", "message"),
  [
    (tree(b=9), "^the checksum of m/b does not fit$"),
    (tree(e=5), "^the checksum of m/e does not fit$"),
    ({"m": {"a": np.float32([1])}}, "^the checksum of m/b, m/c, m/d does not fit$"),
    (tree(a=0, b=0, c=0, d=0), "^the checksum of m/a, m/b, m/c and 1 more does not fit$"),
    (None, "m/a, m/b, m/c and 1 more does not fit"),
  ],
)
def test_arrays_that_are_others_are_named(found, message):
  check_arrays(tree(), array_sums(tree()))
  with pytest.raises(DamagedCheckpoint, match=message):
    check_arrays(found, array_sums(tree()))


@pytest.mark.parametrize("expected", [None, {}, "0" * 64, ["m/a"]])
def test_sums_that_are_none_fit_nothing(expected):
  with pytest.raises(DamagedCheckpoint, match="does not fit"):
    check_arrays(tree(), expected)
  with pytest.raises(DamagedCheckpoint, match="its checksum does not fit"):
    check_value({"a": 1}, expected)
