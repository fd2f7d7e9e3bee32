"""Numbers and checkpoints do not depend on the modes of JAX that a process has turned on."""

import collections
import contextlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.data.patches.device_cases import Resident, cut
from nas3d_jax.data.patches.host_batches import prepare_batch
from nas3d_jax.inference.volume import make_predict_step, mirrored, predict_volume
from nas3d_jax.models.config import NetworkConfig, UNetConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet, Supernet, variable_shapes
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.models.unet3d import UNet3D
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.training.chunks import make_chunk
from nas3d_jax.training.config import TrainConfig
from nas3d_jax.training.optimizers import adam
from nas3d_jax.training.setup import key_of
from nas3d_jax.training.steps import (
  SearchState,
  TrainState,
  make_search_step,
  make_train_step,
  make_validation_step,
)
from nas3d_jax.training.train import train
from tests.support.runs import assert_same_end

X64 = {"jax_enable_x64": True}
ALL = {
  **X64,
  "jax_numpy_dtype_promotion": "strict",
  "jax_numpy_rank_promotion": "raise",
  "jax_debug_nans": True,
  "jax_default_prng_impl": "rbg",
}
SIZE = NetworkConfig(kernels=2, nodes=1, depth=2)
ROWS = (("down_conv", 0), ("max_pool", 1)), (("identity", 0), ("up_se_conv", 1))
IMAGE, TARGET = np.ones((1, 8, 8, 8, 4), np.float32), np.ones((1, 8, 8, 8, 3), np.float32)
KEY = key_of(0)


@contextlib.contextmanager
def modes(changes):
  """Turns modes on for the whole process, as its environment would, and off again."""
  before = {name: getattr(jax.config, name) for name in changes}
  for name, value in changes.items():
    jax.config.update(name, value)
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


def zeros(net):
  return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variable_shapes(net))


def initialization():
  net = Supernet(SIZE)
  return (lambda key: net.init(key, IMAGE)), KEY


def two_samples_in_bfloat16():
  net = Supernet(NetworkConfig(kernels=2, nodes=1, depth=2, variant="released"), dtype=jnp.bfloat16)
  return net.apply, zeros(net), np.concatenate([IMAGE, IMAGE])


def search_step():
  net, optimizers = Supernet(SIZE), (adam(1e-3), adam(1e-3))
  packed = PackedNet(net, zeros(net))
  state = SearchState.create(packed.pack(zeros(net)), *optimizers, KEY)
  return make_search_step(packed, *optimizers, rolled=True), state, (IMAGE, TARGET), (IMAGE, TARGET)


def trained(net):
  packed, optimizer = PackedNet(net, zeros(net)), adam(1e-3)
  return packed, make_train_step(packed, optimizer), TrainState.create(packed.pack(zeros(net)), optimizer, KEY)


def chunk_of_a_derived_network():
  _, step, state = trained(DerivedNet(SIZE, Genotype(*ROWS)))
  voxels = np.zeros((8**3, 4), np.int16)
  first, shape = np.zeros(1, np.int32), np.full((1, 3), 8, np.int32)
  data = Resident(voxels, voxels[:, 0].astype(np.uint8), first, shape, *np.ones((2, 1, 4), np.float32))

  def draw(data, rows, step):
    return (prepare_batch(cut(data, rows, 8), BRATS2019, jax.random.fold_in(KEY, step)),)

  return make_chunk(step, draw, ("loss", "finite")), state, data, np.zeros((2, 1, 4), np.int32), 2


def step_of_a_unet():
  _, step, state = trained(UNet3D(UNetConfig(filters=2, levels=2)))
  return step, state, (IMAGE, TARGET)


def validation():
  packed, _, state = trained(UNet3D(UNetConfig(filters=2, levels=2)))
  return make_validation_step(packed), state.variables, (IMAGE, TARGET), np.ones(1, np.float32)


def mean_over_flips():
  net = UNet3D(UNetConfig(filters=2, levels=2))
  bounds = np.ones((2, 4), np.float32)
  return mirrored(make_predict_step(net)), zeros(net), np.concatenate([IMAGE, IMAGE]), *bounds


def operations(make):
  """How often each operation on real numbers is in a program, without names; the whole text has no double."""
  function, *arguments = make()
  text = jax.jit(function).lower(*arguments).as_text()
  assert "f64" not in text
  text = re.sub(r"[%@][\w#:]*|\w*Arg_\d+", "", text.replace("i64", "i32"))
  return collections.Counter(line.strip() for line in text.splitlines() if "f32" in line or "bf16" in line)


@pytest.mark.parametrize(
  "make",
  [
    initialization, two_samples_in_bfloat16, search_step, chunk_of_a_derived_network, step_of_a_unet, validation,
    mean_over_flips,
  ],
)  # fmt: skip
def test_a_program_is_the_same_in_all_modes_at_once(make):
  expected = operations(make)
  with modes(ALL):
    assert operations(make) == expected


def config(folder, epochs=2):
  sizes = dict(network="unet3d", filters=1, levels=2, patch_size=8)
  return TrainConfig(folder, epochs=epochs, data_placement="device", **sizes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, phantom_dataset):
  """A run of two epochs without any mode."""
  folder = tmp_path_factory.mktemp("modes") / "run"
  shutil.copytree(phantom_dataset.folder, folder / "dataset")
  return train(config(folder))


@pytest.mark.parametrize(("first", "then"), [({}, X64), (ALL, {})], ids=["into x64", "out of all modes"])
def test_a_run_goes_on_in_other_modes_to_the_same_bits(copies, whole, first, then):
  workdir = copies("other")
  with modes(first):
    train(config(workdir, epochs=1))
  with modes(then):
    assert_same_end(train(config(workdir)), whole)


def test_a_network_is_restored_and_predicts_the_same_bits_in_all_modes(whole):
  volume = np.random.default_rng(0).integers(1, 900, (9, 8, 10, 4)).astype(np.float64)

  def predicted():
    net, variables, _ = restore(whole)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    return predict_volume(net, variables, volume, patch_size=8)

  expected = predicted()
  with modes(ALL):
    np.testing.assert_array_equal(predicted(), expected)
