"""One step: which update comes first, what each sees, and that it is a pure function of its state."""

import jax
import numpy as np
import optax
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.training.losses import dice_loss
from nas3d_jax.training.optimizers import adam, with_rate
from nas3d_jax.training.steps import (
  PARTITIONS,
  SearchState,
  TrainState,
  make_search_step,
  make_train_step,
  make_validation_step,
)
from tests.support.toy import ToyDerivedNet, ToySupernet, toy_batch

CONFIG = NetworkConfig(nodes=1, depth=2)
GENOTYPE = Genotype(down=(("max_pool", 0), ("avg_pool", 1)), up=(("identity", 0), ("up_conv", 1)))
BATCHES = [toy_batch(np.random.default_rng(seed), size=2) for seed in range(3)]
BOTH = np.ones(2, np.float32)  # weights of the samples of a batch
KINDS = pytest.mark.parametrize("kind", ["search", "train"])


def draw(net):
  return net.init(jax.random.key(1), BATCHES[0][0])


def begin(kind, *, optimizer=None, dropout=0.5, seed=0, loss=dice_loss):
  """State, step and batches of a search or a training of a toy network."""
  key, optimizer = jax.random.key(seed), optimizer or adam(0.1)
  if kind == "search":
    net = ToySupernet(CONFIG, dropout)
    state = SearchState.create(draw(net), optimizer, optimizer, key)
    return state, make_search_step(net, optimizer, optimizer, loss=loss), BATCHES[:2]
  net = ToyDerivedNet(CONFIG, GENOTYPE, dropout)
  return TrainState.create(draw(net), optimizer, key), make_train_step(net, optimizer, loss=loss), BATCHES[:1]


OPTIMIZERS = [f"{name}_optimizer" for name in PARTITIONS]


def losses_of(metrics):
  """The losses of a step, in the order of its updates."""
  return [metrics[name] for name in ("hybrid_loss", "kernel_loss", "loss") if name in metrics]


def numbers(tree):
  """The leaves as NumPy arrays, copied before a step takes them; random keys as their data."""
  leaves = jax.tree.leaves(tree)
  typed = [jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
  return [np.array(jax.random.key_data(leaf) if key else leaf) for leaf, key in zip(leaves, typed, strict=True)]


def equal(a, b):
  return all(np.array_equal(x, y) for x, y in zip(numbers(a), numbers(b), strict=True))


def assert_close(got, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), got, expected)


@pytest.mark.parametrize("rolled", [True, False], ids=["rolled", "unrolled"])
@pytest.mark.parametrize(
  "optimizers", [(optax.sgd(3.0), optax.sgd(2.0)), (optax.adam(0.3), optax.adam(0.1, b1=0.5))], ids=["sgd", "adam"]
)
def test_a_search_step_is_two_updates_written_out(optimizers, rolled):
  net = ToySupernet(CONFIG, dropout_rate=0.0)
  kernel = draw(net)["params"]
  alphas = {"hybrid": kernel.pop("hybrid")}
  alphas_state, kernel_state = optimizers[0].init(alphas), optimizers[1].init(kernel)
  state = SearchState.create(draw(net), *optimizers, jax.random.key(0))
  step = make_search_step(net, *optimizers, rolled=rolled)

  def loss(alphas, kernel, batch):
    return dice_loss(net.apply({"params": {**alphas, **kernel}}, batch[0]), batch[1])

  of_hybrid, of_kernel = (jax.jit(jax.value_and_grad(loss, argnums)) for argnums in (0, 1))
  update_hybrid, update_kernel = (jax.jit(optimizer.update) for optimizer in optimizers)
  for count in range(3):
    first, second = BATCHES[count], BATCHES[(count + 1) % 3]
    hybrid_loss, gradient = of_hybrid(alphas, kernel, first)
    updates, alphas_state = update_hybrid(gradient, alphas_state, alphas)
    alphas = optax.apply_updates(alphas, updates)
    kernel_loss, gradient = of_kernel(alphas, kernel, second)
    updates, kernel_state = update_kernel(gradient, kernel_state, kernel)
    kernel = optax.apply_updates(kernel, updates)

    state, metrics = step(state, first, second)
    assert_close(losses_of(metrics), [hybrid_loss, kernel_loss])
    assert_close(state.variables["params"], {**alphas, **kernel})
    # Of the same leaves in the same order; the step's have the level "params" besides.
    assert_close(jax.tree.leaves(state.hybrid_optimizer), jax.tree.leaves(alphas_state))
    assert_close(jax.tree.leaves(state.kernel_optimizer), jax.tree.leaves(kernel_state))
    assert int(state.step) == count + 1


def three_steps(net, batches, rolled=None):
  """Losses of three steps and the last state, with an optimiser of its own for each partition; with dropout."""
  optimizers = adam(0.3), optax.sgd(2.0, momentum=0.5)
  variables = draw(ToySupernet(CONFIG))
  variables = net.pack(variables) if isinstance(net, PackedNet) else variables
  state = SearchState.create(variables, *optimizers, jax.random.key(0))
  step, losses = make_search_step(net, *optimizers, rolled=rolled), []
  for _ in range(3):
    state, current = step(state, *batches)
    losses.append(losses_of(current))
  return losses, state


SMALLER = toy_batch(np.random.default_rng(9), size=1)


@pytest.mark.parametrize(
  ("batches", "other"),
  [(BATCHES[:2], True), ([BATCHES[0], SMALLER], None), ([SMALLER, BATCHES[0]], None)],
  ids=["rolled", "smaller-second", "smaller-first"],
)
def test_every_form_of_a_step_does_the_same(batches, other):
  net = ToySupernet(CONFIG, dropout_rate=0.5)
  losses, state = three_steps(net, batches, rolled=False)
  got_losses, got = three_steps(net, batches, rolled=other)
  assert jax.tree.structure(got) == jax.tree.structure(state)
  assert_close(got_losses, losses)
  assert_close(numbers(got), numbers(state))
  assert len({float(value) for step in losses for value in step}) == 6


@pytest.mark.parametrize(
  ("backend", "rolled", "second", "loops"),
  [
    ("cpu", None, BATCHES[1], True),
    ("cpu", None, SMALLER, False),
    ("cpu", False, BATCHES[1], False),
    ("gpu", None, BATCHES[1], False),
    ("gpu", True, BATCHES[1], True),
  ],
)
def test_where_the_updates_are_turns_of_a_loop(monkeypatch, backend, rolled, second, loops):
  net, optimizers = ToySupernet(CONFIG), (optax.sgd(1.0), optax.sgd(1.0))
  state = SearchState.create(draw(net), *optimizers, jax.random.key(0))
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  program = jax.make_jaxpr(make_search_step(net, *optimizers, rolled=rolled))(state, BATCHES[0], second)
  assert ("scan[" in str(program)) == loops


def test_a_packed_search_is_that_of_the_tree():
  net = ToySupernet(CONFIG, dropout_rate=0.5)
  packed = PackedNet(net, draw(net))
  losses, state = three_steps(net, BATCHES[:2])
  got_losses, got = three_steps(packed, BATCHES[:2])
  assert_close(got_losses, losses)
  assert_close(packed.unpack(got.variables), state.variables)
  assert_close(numbers(got.hybrid_optimizer), numbers(state.hybrid_optimizer))
  (momentum,) = jax.tree.leaves(got.kernel_optimizer)
  assert_close(packed.packing.unpack(momentum), state.kernel_optimizer[0].trace["params"])
  before = packed.pack(draw(net))["params"]["packed"]
  assert np.abs(got.kernel["params"]["packed"] - before).max() > 1e-2, "nothing has moved"


def test_a_packed_training_is_that_of_the_tree():
  optimizer, results = optax.adam(0.1), []
  net = ToyDerivedNet(CONFIG, GENOTYPE, dropout_rate=0.5)
  packed = PackedNet(net, draw(net))
  for own, variables in ((net, draw(net)), (packed, packed.pack(draw(net)))):
    state, step = TrainState.create(variables, optimizer, jax.random.key(0)), make_train_step(own, optimizer)
    losses = []
    for _ in range(3):
      state, current = step(state, BATCHES[0])
      losses.append(float(current["loss"]))
    results.append((losses, state.variables, make_validation_step(own)(state.variables, BATCHES[1], BOTH)))
  (losses, variables, validation), (got_losses, got, got_validation) = results
  np.testing.assert_allclose(got_losses, losses, rtol=1e-5)
  assert_close(packed.unpack(got), variables)
  np.testing.assert_allclose(got_validation, validation, rtol=1e-5)


def search_once(hybrid_batch, kernel_batch, rates=(3.0, 2.0)):
  net, optimizers = ToySupernet(CONFIG, dropout_rate=0.0), [optax.sgd(rate) for rate in rates]
  state = SearchState.create(draw(net), *optimizers, jax.random.key(0))
  state, _ = make_search_step(net, *optimizers)(state, hybrid_batch, kernel_batch)
  return state


def test_the_kernel_update_sees_the_new_hybrid_parameters_and_nothing_else_of_the_hybrid_batch():
  a, b, c = BATCHES
  state = search_once(a, b)
  assert equal(search_once(a, c).hybrid, state.hybrid)
  assert not equal(search_once(c, b).hybrid, state.hybrid)
  assert not equal(search_once(c, b).kernel, state.kernel)
  assert equal(search_once(a, b, rates=(0.0, 2.0)).kernel, search_once(c, b, rates=(0.0, 2.0)).kernel)


def test_a_training_step_written_out():
  net, optimizer = ToyDerivedNet(CONFIG, GENOTYPE, 0.0), optax.adam(0.1)
  state, step, (batch,) = begin("train", optimizer=optimizer, dropout=0.0)
  variables = draw(net)
  optimizer_state = optimizer.init(variables)
  loss_of = jax.jit(lambda variables: dice_loss(net.apply(variables, batch[0]), batch[1]))
  for count in range(3):
    loss, gradient = jax.value_and_grad(loss_of)(variables)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, variables)
    variables = optax.apply_updates(variables, updates)
    state, metrics = step(state, batch)
    assert_close(losses_of(metrics), [loss])
    assert_close(state.variables, variables)
    assert_close(state.optimizer, optimizer_state)
    assert int(state.step) == count + 1


@KINDS
def test_same_state_and_batches_same_bits(kind):
  results = []
  for seed in (0, 0, 1):
    state, step, batches = begin(kind, seed=seed)
    for _ in range(3):
      state, losses = step(state, *batches)
    results.append((state, losses))
  assert equal(results[0], results[1])
  assert not equal(results[0][1], results[2][1]), "the key of the run decides on the dropout"


@KINDS
def test_each_step_drops_other_channels(kind):
  losses = []
  for number in range(3):
    state, step, batches = begin(kind, optimizer=optax.sgd(0.0))
    losses += map(float, losses_of(step(state.replace(step=state.step + number), *batches)[1]))
  assert len(set(losses)) == len(losses)


def test_the_two_updates_of_a_step_drop_other_channels():
  state, step, (batch, _) = begin("search", optimizer=optax.sgd(0.0))
  _, losses = step(state, batch, batch)
  assert losses["hybrid_loss"] != losses["kernel_loss"]


@KINDS
def test_the_state_is_donated(kind):
  state, step, batches = begin(kind)
  before = jax.tree.leaves(state)
  state, _ = step(state, *batches)
  assert all(leaf.is_deleted() for leaf in before)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@KINDS
def test_one_compilation_serves_a_run(kind):
  traces = []

  def loss(probabilities, target):
    traces.append(None)
    return dice_loss(probabilities, target)

  state, step, batches = begin(kind, loss=loss)
  state, _ = step(state, *batches)
  once = len(traces)
  for name in [name for name in vars(state) if name.endswith("optimizer")]:
    state = state.replace(**{name: with_rate(getattr(state, name), 0.05)})
  step(step(state, *batches)[0], *batches)
  assert len(traces) == once > 0


def test_validation_is_without_dropout():
  net = ToyDerivedNet(CONFIG, GENOTYPE, dropout_rate=0.5)
  variables, (image, target) = draw(net), BATCHES[0]
  layer = variables["params"]["project"]
  confidence = 1 / (1 + np.exp(-(image / 110 @ np.asarray(layer["kernel"]) + layer["bias"])))
  axes = (1, 2, 3)
  dice = 2 * (confidence * target).sum(axes) / (confidence.sum(axes) + target.sum(axes))
  step = make_validation_step(net)
  np.testing.assert_allclose(step(variables, (image, target), BOTH), 2 * (1 - dice.mean()), rtol=1e-5)
  np.testing.assert_allclose(step(variables, (image, target), np.float32([0, 1])), 1 - dice[1].mean(), rtol=1e-5)


def test_a_sample_that_fills_up_a_batch_of_the_validation_does_not_count_even_if_its_loss_is_nan():
  net = ToyDerivedNet(CONFIG, GENOTYPE, dropout_rate=0.5)
  variables, (image, target) = draw(net), BATCHES[0]
  step, weight = make_validation_step(net), np.float32([1, 0])
  broken = np.array(image)
  broken[1] = np.nan
  assert float(step(variables, (broken, target), weight)) == float(step(variables, (image, target), weight))


@pytest.mark.parametrize("rolled", [True, False], ids=["rolled", "unrolled"])
@pytest.mark.parametrize("bad", PARTITIONS)
def test_an_update_of_a_search_that_is_not_finite_is_left_out(bad, rolled):
  net, optimizer = ToySupernet(CONFIG, 0.0), adam(0.1)
  batches, which = [jax.tree.map(np.array, batch) for batch in BATCHES[:2]], PARTITIONS.index(bad)
  batches[which][0][0, 0, 0, 0, 0] = np.nan
  state = SearchState.create(draw(net), optimizer, optimizer, jax.random.key(0))
  before = {name: numbers(getattr(state, name)) for name in ("hybrid", "kernel", *OPTIMIZERS)}
  state, metrics = make_search_step(net, optimizer, optimizer, rolled=rolled)(state, *batches)
  assert np.isnan(metrics[f"{bad}_loss"])
  for name in PARTITIONS:
    good = name != bad
    assert bool(metrics[f"{name}_finite"]) == bool(np.isfinite(metrics[f"{name}_loss"])) == good
    for part in (name, f"{name}_optimizer"):
      assert equal(numbers(getattr(state, part)), before[part]) != good, part
      assert all(np.isfinite(leaf).all() for leaf in numbers(getattr(state, part)))
  assert int(state.step) == 1


def test_an_update_of_a_training_whose_gradient_alone_is_not_finite_is_left_out():
  def loss(probabilities, target):  # finite, but the gradient of its root at 0 is not
    return dice_loss(probabilities, target) + jax.numpy.sqrt(jax.numpy.maximum(probabilities - 2, 0)).sum()

  state, step, batches = begin("train", loss=loss)
  before = numbers((state.variables, state.optimizer))
  state, metrics = step(state, *batches)
  assert np.isfinite(metrics["loss"])
  assert not metrics["finite"]
  assert equal(numbers((state.variables, state.optimizer)), before)


@pytest.fixture(scope="session")
def gpu():
  try:
    return jax.devices("gpu")[0]
  except RuntimeError:
    pytest.skip("JAX has no GPU here")


def test_a_search_step_on_the_gpu_is_that_of_the_cpu(gpu, tiny, monkeypatch):
  results = {}
  for device in (jax.devices("cpu")[0], gpu):
    # Each in the form that is chosen for it.
    monkeypatch.setattr(jax, "default_backend", lambda device=device: device.platform)
    with jax.default_device(device), jax.default_matmul_precision("float32"):
      # The difference of the parameters is the gradient; Adam's first update would be little more than its sign.
      optimizers = optax.sgd(1.0), optax.sgd(1.0)
      variables = jax.tree.map(np.array, tiny.variables)
      state = SearchState.create(jax.device_put(variables, device), *optimizers, jax.random.key(0))
      batch = jax.device_put((tiny.image, tiny.target), device)
      state, losses = make_search_step(tiny.net, *optimizers)(state, batch, batch)
      moved = jax.tree.map(lambda new, old: np.asarray(new) - old, state.variables, variables)
      results[device.platform] = [float(loss) for loss in losses_of(losses)], jax.tree.leaves(moved)
  (cpu_losses, cpu_moved), (gpu_losses, gpu_moved) = results.values()
  np.testing.assert_allclose(gpu_losses, cpu_losses, atol=1e-5)
  scale = np.sqrt(sum((leaf**2).sum() for leaf in cpu_moved))
  for got, expected in zip(gpu_moved, cpu_moved, strict=True):
    assert np.linalg.norm(got - expected) <= 1e-3 * np.linalg.norm(expected) + 1e-6 * scale


def test_a_loop_over_batches_of_two_sizes_is_refused():
  net, optimizer = ToySupernet(CONFIG, 0.0), optax.sgd(1.0)
  state = SearchState.create(draw(net), optimizer, optimizer, jax.random.key(0))
  step = make_search_step(net, optimizer, optimizer, rolled=True)
  with pytest.raises(InputError, match="rolled=True needs hybrid and kernel batches of one shape"):
    step(state, BATCHES[0], jax.tree.map(lambda leaf: leaf[:1], BATCHES[1]))
