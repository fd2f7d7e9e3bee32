"""Files of torch.save, sound and hostile: values as written, or one error, and nothing is run."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from nas3d_jax.convert import plain_pickle
from nas3d_jax.convert.released_file import network_of, state_dict_of
from nas3d_jax.convert.torch_file import read_torch_file
from nas3d_jax.errors import InputError
from tests.convert.torch_archive import pickled, save, short, tensor, write_archive

NUMBERS = np.arange(6, dtype="<f4")
RANDOM = {name: np.random.default_rng(0).normal(size=(2, 3)).astype(name) for name in ("f4", "f2", "f8")}


@pytest.mark.parametrize("protocol", [2, 4])
def test_values_as_they_were_written(tmp_path, protocol):
  value = {**RANDOM, "scalar": np.array(7, "i8"), "plain": [1, -2.5, True, None, "a", (1 << 40, 300, 70000)]}
  got = read_torch_file(save(tmp_path / "a.pt", value, protocol=protocol))
  for name, array in RANDOM.items():
    np.testing.assert_array_equal(got[name], array)
  assert got["scalar"].shape == ()
  assert got["plain"] == value["plain"]


def read(folder, content, storages=None, **how):
  return read_torch_file(write_archive(folder / "x.pt", content, storages or {"0": NUMBERS.tobytes()}, **how))


def test_views_and_bfloat16(tmp_path):
  turned = tensor("FloatStorage", "0", 6, 0, (3, 2), (1, 3))
  np.testing.assert_array_equal(read(tmp_path, pickled(turned, {})), NUMBERS.reshape(2, 3).T)
  upper = (NUMBERS.view("<u4") >> 16).astype("<u2").tobytes()
  got = read(tmp_path, pickled(tensor("BFloat16Storage", "0", 6, 1, (2,), (2,)), {}), {"0": upper})
  np.testing.assert_array_equal(got, NUMBERS[[1, 3]])


class Run:
  def __reduce__(self):
    return os.system, ("touch ran",)


CALLS = {
  "system": pickle.dumps(Run(), 2),
  "system, protocol 4": pickle.dumps(Run(), 4),
  "eval": b"\x80\x02c__builtin__\neval\n" + short("1") + b"\x85R.",
  "getattr": b"\x80\x02cbuiltins\ngetattr\n" + short("a") + short("b") + b"\x86R.",
  "made of a name": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.",
  "instance": b"(ios\nsystem\n.",
  "object": b"(cos\nsystem\no.",
  "extension": b"\x80\x02\x82\x01.",
  "attribute of a name": b"\x80\x02cos\nsystem\n}b.",
  "called value": b"\x80\x02" + short("os.system") + b")R.",
}


@pytest.mark.parametrize("content", CALLS.values(), ids=CALLS)
def test_nothing_is_run(tmp_path, monkeypatch, content):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match=r"x\.pt cannot be converted: it"):
    read(tmp_path, content)
  assert not (tmp_path / "ran").exists()


def test_a_memo_of_any_number_takes_no_room(tmp_path):
  """Python's own unpickler makes a table of that length."""
  assert read(tmp_path, b"\x80\x02}r\xff\xff\xff\xff.") == {}


BOMBS = {
  "deep": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
  "a text of 4 GiB": b"\x80\x02X\xff\xff\xff\xffabc.",
  "cut short": b"\x80\x02}q\x00(",
  "nothing": b"",
  "no value": b"\x80\x02.",
  "unknown memo": b"\x80\x02h\x05.",
  "odd": b"\x80\x02}(" + short("a") + b"u.",
  "list as a key": b"\x80\x02}]K\x01s.",
  "another persistent id": b"\x80\x02" + short("a") + b"Q.",
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_pickles_that_are_none(tmp_path, content):
  with pytest.raises(InputError, match=r"x.pt cannot be converted: .*(damaged|kind|no parameters)"):
    state_dict_of_file(tmp_path, content)


def state_dict_of_file(folder, content):
  value = read(folder, content)
  try:
    return state_dict_of(value)
  except InputError as error:
    raise InputError(f"x.pt cannot be converted: {error}") from error


def test_too_many_operations(tmp_path, monkeypatch):
  monkeypatch.setattr(plain_pickle, "MOST_OPERATIONS", 10)
  with pytest.raises(InputError, match="more than 10 operations"):
    read(tmp_path, b"\x80\x02" + b"]" * 20 + b".")


@pytest.mark.parametrize(
  ("kind", "key", "count", "offset", "size", "stride"),
  [
    ("FloatStorage", "0", 6, 0, (7,), (1,)),
    ("FloatStorage", "0", 6, 1, (2, 3), (3, 1)),
    ("FloatStorage", "0", 6, -1, (2,), (1,)),
    ("FloatStorage", "0", 6, 0, (2,), (-1,)),
    ("FloatStorage", "0", 6, 0, (1 << 40,), (0,)),
    ("FloatStorage", "0", 6, 0, (1 << 62, 4), (1, 1)),
    ("FloatStorage", "0", 6, 1 << 70, (1,), (1,)),
    ("FloatStorage", "0", 6, 0, (2, 3), (3,)),
    ("FloatStorage", "0", 6, 0, (1.5,), (1,)),
    ("FloatStorage", "0", 7, 0, (2,), (1,)),
    ("DoubleStorage", "0", 6, 0, (2,), (1,)),
    ("FloatStorage", "1", 6, 0, (2,), (1,)),
    ("FloatStorage", "../data/0", 6, 0, (2,), (1,)),
    ("FloatStorage", "0", 1 << 62, 0, (2,), (1,)),
    ("QInt8Storage", "0", 24, 0, (2,), (1,)),
  ],
)
def test_tensors_that_are_not_in_their_storage(tmp_path, kind, key, count, offset, size, stride):
  with pytest.raises(InputError, match=r"x.pt cannot be converted: (a tensor|its entry|it has numbers of the kind)"):
    read(tmp_path, pickled(tensor(kind, key, count, offset, size, stride), {}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
  ("how", "message"),
  [
    (dict(compression=zipfile.ZIP_DEFLATED), "is compressed or encrypted"),
    (dict(others=["../x"]), "an entry of the name '../x'"),
    (dict(others=["/x"]), "an entry of the name '/x'"),
    (dict(others=["model/data/0"]), "2 of them with different names"),
    (dict(others=["other/data.pkl"]), "2 entries <name>/data.pkl"),
    (dict(others=["model/code/net.py"]), "TorchScript"),
    (dict(root="a/b"), "0 entries <name>/data.pkl"),
  ],
)
def test_archives_that_torch_does_not_write(tmp_path, how, message):
  with pytest.raises(InputError, match=message):
    read(tmp_path, b"\x80\x02}.", **how)


def test_files_of_other_kinds(tmp_path):
  path = write_archive(tmp_path / "x.pt", b"\x80\x02}.", {"0": NUMBERS.tobytes()})
  whole = path.read_bytes()
  central = whole.index(b"PK\x01\x02")
  claimed = bytearray(whole)
  claimed[central + 20 : central + 28] = struct.pack("<II", 1 << 31, 1 << 31)
  flipped = whole.replace(NUMBERS.tobytes(), bytes(24))
  needs = write_archive(tmp_path / "y.pt", pickled(NUMBERS, {}), {"0": NUMBERS.tobytes()}).read_bytes()
  for content, message in (
    (whole[:-30], "damaged or cut short"),
    (bytes(claimed), "its entries claim"),
    (needs.replace(NUMBERS.tobytes(), bytes(24)), "damaged or cut short"),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02", r"PyTorch before 1\.6; write it anew .*torch\.load"),
    (b"", "is not of torch.save"),
    (b"\x93NUMPY", "is not of torch.save"),
  ):
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
      read_torch_file(path)
  path.write_bytes(flipped)
  assert read_torch_file(path) == {}  # what nothing asks for is not read
  for path, message in ((tmp_path / "none.pt", "cannot be read"), (tmp_path, "is no file")):
    with pytest.raises(InputError, match=message):
      read_torch_file(path)


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ({"state": {"a": NUMBERS}}, "no parameters in it, which holds 'state'"),
    ([NUMBERS], "no parameters in it, which holds a list"),
    ({"model": {"a": NUMBERS}, "net": {"a": NUMBERS}}, r"several sets of parameters \(model, net\)"),
    ({"a": np.full(2, np.nan)}, "a is not finite"),
  ],
)
def test_what_holds_no_parameters(value, message):
  with pytest.raises(InputError, match=message):
    state_dict_of(value)


def test_sizes_from_shapes():
  """2 nodes of 3 kernels, 4 modalities, 1 region, depth 2; of a network that was trained on several GPUs."""
  shapes = {
    "stem0.conv.weight": (6, 4, 1, 1, 1), "down_cells.0.preprocess0.conv.weight": (6, 6, 1, 1, 1),
    "down_cells.1.x": (1,), "last_conv.0.conv.weight": (1, 6, 1, 1, 1),
  }  # fmt: skip
  state = state_dict_of({f"module.{name}": np.zeros(shape) for name, shape in shapes.items()})
  got = network_of(state)
  assert (got.nodes, got.kernels, got.depth, got.in_channels, got.out_channels) == (2, 3, 2, 4, 1)
  for name, shape, message in (
    ("stem0.conv.weight", (6, 4), "must be there with 5 axes"),
    ("stem0.conv.weight", (5, 4, 1, 1, 1), "stem0 has 5 channels"),
    ("last_conv.0.conv.weight", (0, 6, 1, 1, 1), "must be there with 5 axes"),
  ):
    with pytest.raises(InputError, match=message):
      network_of({**state, name: np.zeros(shape)})
  with pytest.raises(InputError, match="must be there with 5 axes, got nothing"):
    network_of({"a": np.zeros(1)})
