"""Restoring: the network that was saved comes back whole, and what is no such checkpoint says why."""

import json
import shutil

import jax
import numpy as np
import pytest

from nas3d_jax.checkpointing.checkpoints import Checkpoints
from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.checkpointing.restore import build_network, restore
from nas3d_jax.errors import DamagedCheckpoint, InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet, Supernet, variable_shapes
from nas3d_jax.schema.builtin import BRATS2019
from tests.support.runs import damage

CONFIG = NetworkConfig(kernels=2, nodes=1, depth=2)
# Rows against the order of the states: only if it is kept do the parameters fit their operations.
GENOTYPE = Genotype(down=(("max_pool", 1), ("down_conv", 0)), up=(("up_conv", 1), ("conv", 0)))
UP = [["up_conv", 1], ["conv", 0]]


def metadata(kind, **changes):
  fields = dict(
    kind=kind, network=CONFIG, genotype=GENOTYPE if kind == "train" else None, dropout_rate=0.25, schema=BRATS2019,
    patch_size=16, epoch=1, step=1, versions={}, device={}, dataset={"fingerprint": "ab"},
  )
  return RunMetadata(**fields | changes)


def save(folder, step, variables, said, metric):
  with Checkpoints(folder / "checkpoints") as store:
    training = {"step": np.int32(step)}
    store.save(step, variables=variables, training=training, metadata=said, iterators={}, best_metric=metric)


def fill(net):
  """Variables of the right shapes, all their values distinct."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), variable_shapes(net))


@pytest.fixture(scope="module", params=["search", "train"])
def run(request, tmp_path_factory):
  """A run of each kind with step 1, the best, and step 2, the last; its network's class and the variables of each."""
  folder = tmp_path_factory.mktemp(request.param)
  said = metadata(request.param)
  first = fill(build_network(said))
  trees = [first, jax.tree.map(lambda leaf: -leaf, first)]
  for step, (tree, metric) in enumerate(zip(trees, (0.25, 0.5), strict=True), 1):
    save(folder, step, tree, {**said.to_dict(), "step": step}, metric)
  return folder, request.param, trees


@pytest.mark.parametrize(
  ("path", "arguments", "step"), [("", (), 1), ("checkpoints", ("last",), 2)]
)
def test_network_variables_and_metadata_come_back(run, path, arguments, step):
  folder, kind, trees = run
  net, variables, said = restore(folder / path, *arguments)
  assert type(net) is {"search": Supernet, "train": DerivedNet}[kind]
  assert (net.config, net.dropout_rate) == (CONFIG, 0.25)
  assert said == metadata(kind, step=step)
  jax.tree.map(np.testing.assert_array_equal, variables, trees[step - 1])
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))
  if kind == "train":
    assert (net.genotype.down, net.genotype.up) == (GENOTYPE.down, GENOTYPE.up)
    x = jax.ShapeDtypeStruct((2, 8, 16, 8, 4), np.float32)
    assert jax.eval_shape(net.apply, variables, x).shape == (2, 8, 16, 8, 3)


def test_shapes_are_those_that_init_gives():
  net = DerivedNet(CONFIG, GENOTYPE)
  drawn = net.init(jax.random.key(0), np.zeros((1, 16, 8, 8, 4), np.float32))
  trees = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (drawn, variable_shapes(net)))
  assert next(trees) == next(trees)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda folder: None, "no checkpoint in .*no such folder"),
    (lambda folder: folder.mkdir(), "no checkpoint in .*it should be a run directory with checkpoints/<step>/"),
    (lambda folder: (folder / "checkpoints").mkdir(parents=True), "no checkpoint in .*it should be a run directory"),
  ],
)
def test_a_folder_that_is_no_checkpoint(tmp_path, make, message):
  make(tmp_path / "x")
  with pytest.raises(InputError, match=message) as error:
    restore(tmp_path / "x")
  assert str(tmp_path / "x") in str(error.value)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"network": CONFIG.to_dict() | {"in_channels": 3}}, "its metadata is wrong: schema 'brats2019' has 4 modalities"),
    ({"kind": "demo"}, "its metadata is wrong: kind must be"),
    ({"patch_size": 20}, "its metadata is wrong: patch_size must be a multiple of 8"),
    ({"network": CONFIG.to_dict() | {"kernels": 3}}, "does not fit, in its params: .* and [0-9]+ more"),
    ({"genotype": {"down": [["max_pool", 1], ["avg_pool", 0]], "up": UP}}, "is not expected"),
    ({"genotype": {"down": [["max_pool", 1], ["down_dep_conv", 0]], "up": UP}}, "is missing"),
  ],
)
def test_metadata_of_another_network(tmp_path, changes, message):
  said = metadata("train")
  save(tmp_path, 1, fill(build_network(said)), said.to_dict() | changes, 0.5)
  with pytest.raises(InputError, match=message) as error:
    restore(tmp_path)
  assert str(tmp_path / "checkpoints" / "1") in str(error.value)


def test_metadata_that_lacks_a_field(tmp_path):
  said = metadata("train").to_dict()
  del said["schema"]
  save(tmp_path, 1, fill(build_network(metadata("train"))), said, 0.5)
  with pytest.raises(InputError, match="its metadata is wrong: metadata lacks schema"):
    restore(tmp_path)


def test_a_checkpoint_without_its_metadata(run, tmp_path):
  copy = shutil.copytree(run[0] / "checkpoints" / "1", tmp_path / "copy")
  (file,) = [path for path in (copy / "metadata").iterdir() if path.suffix != ".zarr" and path.is_file()][:1]
  file.write_text(json.dumps({"format_version": 1}))
  shutil.rmtree(copy / "checksums")
  with pytest.raises(InputError, match="its metadata is wrong: metadata lacks dataset, device"):
    restore(copy)


@pytest.mark.parametrize("path", ["", "checkpoints/1"])
def test_a_damaged_best_names_others_and_takes_none_unasked(run, tmp_path, path):
  copy = shutil.copytree(run[0], tmp_path / "copy")
  damage(copy / "checkpoints" / "1")
  other = copy / "checkpoints" / "2"
  with pytest.raises(DamagedCheckpoint, match=rf"/1 .* its params.* Beside it 2 can be .* {other}$"):
    restore(copy / path)
  assert restore(copy, "last")[2].step == 2
  damage(other)
  with pytest.raises(DamagedCheckpoint, match=r"There is no other one beside it$"):
    restore(copy / path)


def test_a_best_that_cannot_be_told_names_the_others(run, tmp_path):
  copy = shutil.copytree(run[0], tmp_path / "copy")
  (copy / "checkpoints" / "2" / "metrics" / "metrics").write_text('{"best_metric": 0.0}')
  with pytest.raises(DamagedCheckpoint, match=r"2 is damaged, in its metrics: .* the other steps are: 1$"):
    restore(copy)
  assert restore(copy, 1)[2].step == 1
