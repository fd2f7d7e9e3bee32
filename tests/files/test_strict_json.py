"""JSON that anybody may have written: what is read, and what is refused that Python's own reader would let pass."""

import json

import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.files.strict_json import check_plain, parse_json, write_json


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b'{"a": NaN}', "not finite"),
    (b"[1, -Infinity]", "not finite"),
    (b"1e400", "not finite, or too large"),
    (b"-" + b"9" * 400, "too large"),
    (b"9" * 5000, "digits"),
    (b"[" * 100_000, "nested more than 64 deep"),
    (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
    (b'{"a":' * 800 + b"1" + b"}" * 800, "nested more than 64 deep"),
    (b'{"a": 1, "b": {"c": 1, "c": 2}}', "has 'c' twice"),
    (b'["\\ud800"]', "surrogate"),
    (b'{"\\udc80": 1}', "surrogate"),
    (b'{"name": "a\\u0000b"}', "has the character NUL"),
    ("é".encode("latin-1"), "utf-8"),
    (b"", "Expecting value"),
    (b"{} {}", "Extra data"),
    (b"'a'", "Expecting value"),
    (b"[1,]", "Illegal trailing comma|Expecting value"),
  ],
)
def test_json_that_is_refused(content, message):
  with pytest.raises(InputError, match=message):
    parse_json(content)


@pytest.mark.parametrize(
  "content", [b"[" * 64 + b"]" * 64, b'"\\ud83d\\ude00"', b"1e308", b"[true, null, -0.0]", b"\xef\xbb\xbf{}"]
)
def test_json_that_is_read(content):
  assert parse_json(content) == json.loads(content)


def test_what_holds_itself_or_unfolds_without_end_is_not_plain():
  """As the anchors of YAML can make it."""
  loop = []
  loop.append(loop)
  with pytest.raises(InputError, match="nested more than 64 deep"):
    check_plain(loop)
  laugh = ["ha"]
  for _ in range(40):
    laugh = [laugh] * 9
  with pytest.raises(InputError, match="more than 1000 values"):
    check_plain(laugh, most=1000)


@pytest.mark.parametrize("value", [{1, 2}, b"x", 1j, {"a": [object()]}, {"a": {(1, 2): frozenset()}}])
def test_other_types_are_not_plain(value):
  with pytest.raises(InputError, match="is of type"):
    check_plain(value)


@pytest.mark.parametrize("value", [{"caf\udce9": 1}, {"a": ["b\0c"]}, {"a": float("nan")}, {"a": {1, 2}}])
def test_what_could_not_be_read_again_is_not_written(tmp_path, value):
  with pytest.raises(InputError, match=r"record.json cannot be written: .*; rename what is called so, or correct it"):
    write_json(tmp_path / "record.json", value)
  assert list(tmp_path.iterdir()) == []
