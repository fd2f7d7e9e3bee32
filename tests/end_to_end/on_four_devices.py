"""Data parallel on four devices of a CPU; `test_data_parallel.py` runs this file in a process that has them."""

import re

import jax
import numpy as np
import optax
import pytest

import nas3d_jax.training.search
import nas3d_jax.training.train
from nas3d_jax.data.patches.patch_stream import PatchStream
from nas3d_jax.errors import InputError
from nas3d_jax.inference.config import InferenceChoices
from nas3d_jax.inference.volume import make_predict_step, predict_mean
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.models.single_path import sampled_paths
from nas3d_jax.runtime.data_parallel import Replicas
from nas3d_jax.training.epoch import mean_loss
from nas3d_jax.training.losses import dice_loss
from nas3d_jax.training.optimizers import adam
from nas3d_jax.training.steps import SearchState, TrainState, make_search_step, make_train_step, make_validation_step
from tests.support.runs import arrays, history, interrupt, said, steps_kept
from tests.support.toy import ToyDerivedNet, ToySupernet, toy_batch
from tests.support.toy_runs import GENOTYPE, run_search, run_train, use_toys

CONFIG = NetworkConfig(nodes=1, depth=2)
BATCHES = [toy_batch(np.random.default_rng(seed), size=4) for seed in range(2)]
COMMUNICATION = re.compile(r"= \S+ (all-\w+|reduce-scatter|collective-[\w-]+|send|recv)(?:-start)?\(")


@pytest.fixture(scope="module")
def four():
  return Replicas.of()


@pytest.fixture
def toy(monkeypatch):
  use_toys(monkeypatch)


def leaves(tree):
  return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def assert_close(got, expected):
  for one, other in zip(leaves(got), leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def assert_same_everywhere(tree):
  for leaf in jax.tree.leaves(tree):
    own = [np.asarray(shard.data) for shard in leaf.addressable_shards if leaf.is_fully_replicated]
    assert len(own) == 4
    assert all(np.array_equal(own[0], other) for other in own[1:])


def test_the_devices(four):
  assert (four.count, four.processes, four.process) == (4, 1, 0)
  assert Replicas.of(1) == Replicas()
  assert Replicas.of(3).count == 3
  for devices in (0, 5, 1.0, True):
    with pytest.raises(InputError, match=r"devices must be from 1 to 4, those that JAX sees, got"):
      Replicas.of(devices)


def sample(hybrid, key, step):
  return sampled_paths(hybrid, key, 2.0 + step)


@pytest.mark.parametrize(
  ("rolled", "weights"), [(True, None), (False, None), (True, sample)], ids=["rolled", "unrolled", "single path"]
)
def test_a_search_step_is_that_of_one_device_that_averages_the_samples(four, rolled, weights):
  """A single path is the same on all devices."""
  net, optimizers = ToySupernet(CONFIG, 0.5), (optax.sgd(3.0), optax.adam(0.1))
  variables = jax.tree.map(np.asarray, net.init(jax.random.key(1), BATCHES[0][0]))
  packed = PackedNet(net, variables)
  state = four.replicate(SearchState.create(packed.pack(variables), *optimizers, jax.random.key(0)))
  step = make_search_step(packed, *optimizers, weights=weights, replicas=four, rolled=rolled)

  hybrid, kernel = {"hybrid": variables["params"]["hybrid"]}, {"project": variables["params"]["project"]}
  states = [optimizer.init(part) for optimizer, part in zip(optimizers, (hybrid, kernel), strict=True)]

  def loss(hybrid, kernel, batch, key, number, turn):
    drawn = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), number), 2**31 - 1))[turn]
    own = {} if weights is None else {"weights": weights(hybrid["hybrid"], drawn, number)}
    out = net.apply({"params": {**hybrid, **kernel}}, batch[0], train=True, rngs={"dropout": key}, **own)
    return dice_loss(out, batch[1])

  def averaged(argnums, batch, number, turn):
    of_one = jax.value_and_grad(loss, argnums)
    results = []
    for device in range(4):
      keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), number), device))
      own = tuple(rows[device : device + 1] for rows in batch)
      results.append(of_one(hybrid, kernel, own, keys[turn], number, turn))
    return jax.tree.map(lambda *values: sum(values) / 4, *results)

  for number in range(3):
    state, metrics = step(state, *map(four.split, BATCHES))
    hybrid_loss, gradient = averaged(0, BATCHES[0], number, 0)
    updates, states[0] = optimizers[0].update(gradient, states[0], hybrid)
    hybrid = optax.apply_updates(hybrid, updates)
    kernel_loss, gradient = averaged(1, BATCHES[1], number, 1)
    updates, states[1] = optimizers[1].update(gradient, states[1], kernel)
    kernel = optax.apply_updates(kernel, updates)
    np.testing.assert_allclose([metrics["hybrid_loss"], metrics["kernel_loss"]], [hybrid_loss, kernel_loss], rtol=1e-5)
    assert_close(packed.unpack(state.variables), {"params": {**hybrid, **kernel}})
  assert_same_everywhere(state.variables)
  assert_same_everywhere((state.hybrid_optimizer, state.kernel_optimizer))


def test_what_is_not_finite_on_one_device_is_left_out_on_all(four):
  net, optimizer = ToyDerivedNet(CONFIG, GENOTYPE, 0.0), adam(0.1)
  state = four.replicate(TrainState.create(net.init(jax.random.key(1), BATCHES[0][0]), optimizer, jax.random.key(0)))
  before = leaves((state.variables, state.optimizer))
  image, target = np.array(BATCHES[0][0]), BATCHES[0][1]
  image[2, 0, 0, 0, 0] = np.inf
  state, metrics = make_train_step(net, optimizer, replicas=four)(state, four.split((image, target)))
  assert not metrics["finite"]
  for got, expected in zip(leaves((state.variables, state.optimizer)), before, strict=True):
    np.testing.assert_array_equal(got, expected)


@pytest.fixture(scope="module")
def program(four, tiny):
  """The compiled search step of the real supernet, the updates unrolled as on an accelerator."""
  packed, optimizer = PackedNet(tiny.net, tiny.variables), adam(1e-3)
  state = four.replicate(SearchState.create(packed.pack(tiny.variables), optimizer, optimizer, jax.random.key(0)))
  batch = four.split(jax.tree.map(lambda rows: np.repeat(rows, 4, axis=0), (tiny.image, tiny.target)))
  step = make_search_step(packed, optimizer, optimizer, replicas=four, rolled=False)
  return packed, step.lower(state, batch, batch).compile().as_text()


def test_two_reductions_and_no_other_communication_in_the_compiled_search_step(program):
  packed, text = program
  assert COMMUNICATION.findall(text) == ["all-reduce"] * 2
  # The larger one holds the gradient of all kernel parameters and the loss, once.
  reduced = [int(size) for size in re.findall(r"= f32\[(\d+)\]\S* all-reduce(?:-start)?\(", text)]
  assert max(reduced) == packed.packing.size + 1
  assert len(reduced) == 2


def test_each_device_runs_the_program_of_batch_1(program):
  _, text = program
  convolutions = re.findall(r"convolution\(.*", text)
  assert convolutions
  assert not [line for line in convolutions if "feature_group_count" in line or "batch_group_count" in line]
  assert not re.search(r"f32\[4,16,16,16,", text), "no array holds the samples of all devices"


def make_part(dataset, replicas, **changes):
  sizes = dict(patch_size=8, batch_size=1, seed=3, skip_empty=False)
  return PatchStream(dataset, dataset.fold_cases(0), replicas=replicas, **(sizes | changes))


def test_four_devices_take_the_patches_of_one_in_the_same_order(four, phantom_dataset):
  one, many = make_part(phantom_dataset, Replicas(), batch_size=4), make_part(phantom_dataset, four)
  assert (one.order.size, one.order.steps) == (many.order.size, many.order.steps)
  for _ in range(3):
    for got, expected in zip(many.host.next_batch(), one.host.next_batch(), strict=True):
      assert [shard.data.shape[0] for shard in got.addressable_shards] == [1] * 4
      np.testing.assert_allclose(got, expected, rtol=1e-6)
  assert one.order.position == many.order.position
  assert one.host.describe(0) == many.host.describe(0)
  key = jax.random.key(1)
  again = many.host.next_batch(key)
  for name, array in zip(("image", "target"), again, strict=True):
    np.testing.assert_allclose(many.host.read(0, key)[name], array, rtol=1e-6)


def test_a_pass_of_four_devices_counts_each_patch_once(four, phantom_dataset):
  net = ToyDerivedNet(CONFIG, GENOTYPE, 0.0)
  variables = net.init(jax.random.key(1), BATCHES[0][0])
  losses = []
  for replicas in (Replicas(), four, Replicas.of(3)):
    part, step = make_part(phantom_dataset, replicas), make_validation_step(net, replicas=replicas)
    own = replicas.replicate(variables)
    batches, steps = part.host.one_pass(), part.order.steps
    losses.append(mean_loss("pass", batches, steps, lambda *of, own=own, step=step: step(own, *of)))
    assert sum(item.count for item in part.host.one_pass()) == len(part.order.refs)
  np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


def assert_same_losses(one, other):
  for got, expected in zip(history(one), history(other), strict=True):
    for name in (name for name in expected if name.endswith("loss")):
      np.testing.assert_allclose(got[name], expected[name], rtol=1e-4)
  last = [run / "checkpoints" / str(max(steps_kept(run))) for run in (one, other)]
  assert said(last[0], "input") == said(last[1], "input")
  for name, array in arrays(last[0]).items():
    if name.startswith("params"):
      np.testing.assert_allclose(array, arrays(last[1])[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("run", [run_search, run_train])
@pytest.mark.parametrize("placement", ["host", "device"])
def test_a_run_on_four_devices_is_that_of_one_with_a_batch_of_four(copies, run, placement):
  plain = dict(dropout=0.0, augment=False)
  one = run(copies("one"), devices=1, batch_size=4, **plain)
  many = run(copies("many"), devices=4, data_placement=placement, **plain)
  assert_same_losses(many, one)


@pytest.mark.usefixtures("toy")
def test_a_search_goes_on_with_another_number_of_devices_and_takes_each_patch_once(copies, monkeypatch):
  folder = copies("run")
  with monkeypatch.context() as patch:
    interrupt(patch, nas3d_jax.training.search, "make_search_step", after=3)
    with pytest.raises(KeyboardInterrupt):
      run_search(folder, devices=1, epochs=1, checkpoint_minutes=1e-9)
  step = max(steps_kept(folder / "search"))
  told = said(folder / "search" / "checkpoints" / str(step))["progress"]
  assert told["epoch_patches"] == step == 3
  run_search(folder, devices=4, epochs=1)
  # 8 patches in an epoch, of which 3 were taken: 2 steps of 4 are left.
  assert history(folder / "search")[0]["step"] == 3 + 2
  assert said(folder / "search" / "checkpoints" / "5", "input")["kernel"]["state"] == {"next_patch": 3 + 2 * 4}


@pytest.mark.parametrize("choices", [{}, {"patch_batch": 2}, {"tta": True}, {"whole_volume": True}])
def test_prediction_on_four_devices_is_that_of_one(four, choices):
  net = ToyDerivedNet(CONFIG, GENOTYPE, 0.0)
  variables = net.init(jax.random.key(1), BATCHES[0][0])
  volume = np.random.default_rng(0).integers(1, 900, (9, 17, 10, 4)).astype(np.int16)
  results = []
  for replicas in (Replicas(), four):
    member = make_predict_step(net, replicas=replicas), replicas.replicate(variables)
    sizes = dict(patch_size=8, regions=3, multiple=8, devices=replicas.count)
    results.append(predict_mean([member], volume, **sizes, choices=InferenceChoices(**choices)))
  np.testing.assert_allclose(results[1], results[0], atol=1e-6)
