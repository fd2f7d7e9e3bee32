"""A damaged checkpoint gives what was saved or one error, and never something else, whatever byte of it is damaged."""

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import tensorstore

from nas3d_jax.checkpointing import checkpoints, orbax_items, quiet
from nas3d_jax.checkpointing.checkpoints import Checkpoints, open_run
from nas3d_jax.checkpointing.integrity import array_sums, check_arrays, check_value, value_sum
from nas3d_jax.checkpointing.serialization import to_plain
from nas3d_jax.errors import DamagedCheckpoint, InputError

ROOT = Path(checkpoints.__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Checkpoints 1 and 2 of a small state."""
  draw = np.random.default_rng(0)
  params = {"params": {"conv": {"kernel": draw.normal(size=(3, 3, 4, 5)).astype("f4"), "bias": np.zeros(5, "f4")}}}
  training = {"mu": draw.normal(size=300).astype("f4"), "epoch": 3, "key": jax.random.key(1)}
  with Checkpoints(tmp_path_factory.mktemp("run") / "checkpoints") as store:
    for step in (1, 2):
      store.save(
        step, variables=params, training=training, metadata={"kind": "toy", "sizes": [1, 2.5]},
        iterators={"train": {"next_index": 4}}, best_metric=0.5 / step,
      )
  return store.folder.parent


@pytest.fixture
def step(run, tmp_path):
  """The folder of a copy of the last one."""
  return shutil.copytree(run / "checkpoints", tmp_path / "checkpoints") / "2"


def content(step):
  """All that a checkpoint says, through every way in which it is read."""
  with Checkpoints(step.parent, create=False) as store:
    found = [store.metadata(int(step.name)), store.iterators(int(step.name)), store.best_step()]
  arrays = checkpoints.read_variables(step), checkpoints.read_training(step, TRAINING)
  leaves = jax.tree_util.tree_leaves_with_path(to_plain(arrays))
  return found, [(path, leaf.dtype, leaf.shape, leaf.tobytes()) for path, leaf in leaves]


TRAINING = {"mu": np.zeros(300, "f4"), "epoch": 0, "key": jax.random.key(0)}


def files_of(step):
  return sorted(path for path in step.rglob("*") if path.is_file())


def flips(step, paths, count):
  """Flips a bit in each file at so many places, drawn from a fixed seed; gives path and place while it is flipped."""
  draw = random.Random(7)
  for path in paths:
    data = path.read_bytes()
    for place in draw.sample(range(len(data)), min(count, len(data))):
      path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
      yield path.relative_to(step), place
    path.write_bytes(data)


@pytest.fixture
def hasty(monkeypatch):
  """So many damaged ones need not be waited for; what their threads say late is not looked at."""
  monkeypatch.setattr(quiet, "_GRACE", 0.0)


@pytest.mark.usefixtures("hasty")
def test_a_flipped_byte_is_never_restored(step):
  expected, caught = content(step), set()
  for path, place in flips(step, files_of(step), 4):
    try:
      assert content(step) == expected, (path, place)
    except InputError as error:
      assert str(step) in str(error)
      caught.add(path.parts[0])
  assert {"params", "training", "metadata", "input", "metrics", "checksums"} <= caught
  assert content(step) == expected


def test_a_damaged_one_says_nothing_else(step, capfd):
  path = step / "params" / "manifest.ocdbt"
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(DamagedCheckpoint, match="cannot be read, its params is damaged or incomplete"):
    checkpoints.read_variables(step)
  assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("hasty")
def test_without_checksums_of_its_own_orbax_restores_some(step):
  """What they are for; and checkpoints from before there were any open."""
  shutil.rmtree(step / "checksums")
  expected, silent = content(step), 0
  largest = max(files_of(step), key=lambda path: path.stat().st_size)
  for _ in flips(step, [largest], 12):
    with contextlib.suppress(InputError):
      silent += content(step) != expected
  assert silent >= 6


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("keep", [None, 0, 0.5])
def test_a_file_that_is_missing_or_cut_short_is_found(step, keep):
  expected = content(step)
  for path in files_of(step):
    data = path.read_bytes()
    if keep is None:
      path.unlink()
    else:
      path.write_bytes(data[: int(keep * len(data))])
    try:
      assert content(step) == expected, path
    except DamagedCheckpoint as error:
      assert str(step) in str(error)
    else:
      assert path.name in ("commit_success.txt", "_CHECKPOINT_METADATA") or "ocdbt.process_0" in path.parts
    path.write_bytes(data)


@pytest.mark.parametrize("item", ["params", "training", "metadata", "input", "metrics"])
def test_an_item_that_is_missing_is_damage(step, item):
  shutil.rmtree(step / item)
  with pytest.raises(DamagedCheckpoint, match=rf"no {item}/"):
    content(step)


def test_another_checkpoints_item_is_damage(run, step):
  """Out of step with the rest, and whole in itself."""
  shutil.rmtree(step / "metrics")
  shutil.copytree(run / "checkpoints" / "1" / "metrics", step / "metrics")
  with pytest.raises(DamagedCheckpoint, match="in its metrics: its checksum does not fit"):
    open_run(step.parent)
  assert open_run(step.parent, "last") == step


def test_those_that_are_sound_are_known(step):
  assert checkpoints.sound_steps(step.parent) == [1, 2]
  assert checkpoints.sound_steps(step.parent, without=1) == [2]
  (step / "input" / "metadata").write_text("{}")
  assert checkpoints.sound_steps(step.parent) == [1]


@pytest.mark.parametrize("checksums", [True, False])
def test_a_newer_format_is_no_damage(step, checksums):
  path = step / "metadata" / "metadata"
  path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
  if not checksums:
    shutil.rmtree(step / "checksums")
  with pytest.raises(InputError, match="has format version 2, this nas3d_jax reads up to 1; update") as error:
    checkpoints.read_metadata(step)
  assert not isinstance(error.value, DamagedCheckpoint)


def test_what_may_not_be_read_is_no_damage(run):
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    step = shutil.copytree(run / "checkpoints" / "2", Path(folder) / "2")
    for path in (step / "params").rglob("*"):
      if path.is_file():
        path.chmod(0)
    if os.geteuid() == 0:
      os.seteuid(65534)  # nobody: permissions mean nothing to root
    try:
      with pytest.raises(InputError, match=r"cannot be read \(.*: Permission denied\); correct") as error:
        checkpoints.read_variables(step)
    finally:
      os.seteuid(os.getuid())
  assert not isinstance(error.value, DamagedCheckpoint)


def test_too_little_memory_is_no_damage(step, monkeypatch):
  def fail(*_, **__):
    raise MemoryError

  monkeypatch.setattr(orbax_items.ocp.PyTreeCheckpointHandler, "restore", fail)
  with pytest.raises(InputError, match="there is not enough memory") as error:
    checkpoints.read_variables(step)
  assert not isinstance(error.value, DamagedCheckpoint)


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


UNREADABLE = """
import os, sys
from pathlib import Path
from nas3d_jax.checkpointing.checkpoints import read_variables
from nas3d_jax.errors import InputError
if os.geteuid() == 0:
  os.seteuid(65534)
try:
  read_variables(Path(sys.argv[1]))
except InputError as error:
  print(error)
"""


@pytest.mark.parametrize("name", ["params/_METADATA", "params/manifest.ocdbt", "params/d/*"])
def test_a_file_that_may_not_be_read_is_one_message(name):
  """And not damage: nothing is to be copied again. No thread says anything behind it."""
  with tempfile.TemporaryDirectory() as folder:  # which other users reach
    os.chmod(folder, 0o755)
    with Checkpoints(Path(folder) / "checkpoints") as store:
      many = {f"w{index}": np.ones((40, 40)) for index in range(60)}
      store.save(1, variables=many, training={"epoch": 1}, metadata={}, iterators={}, best_metric=None)
    step = store.folder / "1"
    path = max(step.glob(name), key=lambda path: path.stat().st_size)
    path.chmod(0)
    done = subprocess.run(
      [sys.executable, "-c", UNREADABLE, str(step)], cwd=ROOT, capture_output=True, text=True, check=True
    )
  expected = f"checkpoint {step} cannot be read ({path.name}: Permission denied); correct the permissions, or what else"
  assert done.stdout == f"{expected} the system complains about\n"
  assert done.stderr == ""


def resize(step, name, shape):
  """Sets the shape that is said of an array of `params`; nothing is written to it."""
  params = step.absolute() / "params"
  store = {"driver": "ocdbt", "base": f"file://{params}/"}
  array = tensorstore.open({"driver": "zarr", "kvstore": {**store, "path": f"{name}/"}}).result()
  array.resize(exclusive_max=shape, resize_metadata_only=True).result()


@pytest.mark.parametrize("length", [2**26, 2**33, 2**45])
def test_memory_is_not_taken_because_a_shape_says_so(step, length):
  """TensorStore ends the process where memory that it asks for cannot be had."""
  like = {"params": {"conv": {"kernel": np.zeros((3, 3, 4, 5), "f4"), "bias": np.zeros(5, "f4")}}}
  assert checkpoints.read_variables(step, like)["params"]["conv"]["bias"].shape == (5,)
  resize(step, "params.conv.bias", [length])
  with pytest.raises(DamagedCheckpoint) as caught:
    checkpoints.read_variables(step, like)
  size = f"its arrays take {length * 4 / 1e9:.1f} GB, its files 0.000 GB; params/conv/bias is float32[{length}], not"
  assert size in str(caught.value)


def test_others_are_told_without_taking_memory(step):
  resize(step, "params.conv.bias", [2**45])
  assert checkpoints.sound_steps(step.parent) == [1]
