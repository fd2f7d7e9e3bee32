"""The parts of a recipe: losses by NumPy, optimisers and schedules by optax and by hand; stopping changes none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nas3d_jax.checkpointing.restore
import nas3d_jax.training.train
from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.errors import InputError
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.output_head import probabilities_of
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.training.losses import make_logit_loss
from nas3d_jax.training.optimizers import average_of, make_optimizer, rate_of, scheduled
from nas3d_jax.training.recipe import RECIPES, resolved
from nas3d_jax.training.train import train
from tests.support.runs import assert_same_end, history, interrupt
from tests.support.toy import ToyDerivedNet

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (2, 3, 4, 5, 2)).astype(np.float32)
LABEL = RNG.integers(0, 3, (2, 3, 4, 5))
TARGET = np.stack([LABEL == 1, LABEL == 2], -1).astype(np.float32)
GENOTYPE = Genotype(down=(("max_pool", 1), ("down_conv", 0)), up=(("identity", 0), ("up_conv", 1)))


def dice_by_numpy(p, axes):
  overlap, total = (p * TARGET).sum(axes), p.sum(axes) + TARGET.sum(axes)
  return 1 - np.mean((1e-6 + 2 * overlap) / (1e-6 + total))


def softmax(logits):
  every = np.concatenate([np.zeros_like(logits[..., :1]), logits], -1)
  powers = np.exp(every - every.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("over", ["sample", "batch"])
@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@pytest.mark.parametrize("name", ["dice", "dice_ce", "dice_focal"])
def test_losses_by_numpy(name, output, over):
  """Focal as MONAI writes it: (1 - p_t)^gamma times the cross-entropy, gamma 2, no weights."""
  axes = (1, 2, 3) if over == "sample" else (0, 1, 2, 3)
  if output == "sigmoid":
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    true = np.where(TARGET > 0, p, 1 - p)
  else:
    every = softmax(LOGITS.astype(np.float64))
    p = every[..., 1:]
    true = np.take_along_axis(every, LABEL[..., None], -1)[..., 0]
  expected = dice_by_numpy(p, axes)
  entropy = {"dice": 0 * true, "dice_ce": -np.log(true), "dice_focal": (1 - true) ** 2 * -np.log(true)}[name]
  expected += np.mean(entropy)
  got = make_logit_loss(name, over=over, output=output)(jnp.asarray(LOGITS), jnp.asarray(TARGET))
  np.testing.assert_allclose(got, expected, rtol=2e-5)
  np.testing.assert_allclose(probabilities_of(jnp.asarray(LOGITS), output), p, rtol=1e-5, atol=1e-7)


def test_far_logits_give_finite_losses():
  for output in ("sigmoid", "softmax"):
    for name in ("dice_ce", "dice_focal"):
      loss = make_logit_loss(name, output=output)
      value, gradient = jax.value_and_grad(loss)(jnp.asarray(LOGITS * 1e4), jnp.asarray(TARGET))
      assert np.isfinite(value)
      assert np.isfinite(gradient).all()


def run(optimizer, count=5, size=4):
  """The parameters after each of some updates with changing gradients."""
  params, out = jnp.arange(size, dtype=jnp.float32), []
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for step in range(count):
    gradient = jnp.cos(params * (step + 1)) * 3
    updates, state = update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    out.append(np.asarray(params))
  return np.stack(out), state


@pytest.mark.parametrize(
  ("own", "other"),
  [
    (make_optimizer("adamw", 0.1, weight_decay=0.3), optax.adamw(0.1, weight_decay=0.3)),
    (make_optimizer("sgd", 0.1), optax.sgd(0.1, momentum=0.99, nesterov=True)),
    (
      make_optimizer("adam", 0.1, clip_norm=0.5),
      optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1)),
    ),
    (
      make_optimizer("sgd", scheduled("cosine", 0.1, steps=5), clip_norm=1.0, weight_decay=0.01),
      optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.trace(0.99, nesterov=True),
        optax.add_decayed_weights(0.01),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(0.1, 5)),
      ),
    ),
  ],
)
def test_optimisers_are_those_of_optax(own, other):
  np.testing.assert_allclose(run(own)[0], run(other)[0], rtol=1e-5, atol=1e-6)


def test_schedules_by_hand():
  cosine, poly = (scheduled(name, 2.0, steps=10, warmup=0.2) for name in ("cosine", "poly"))
  t = np.arange(9) / 8
  for rate, fall in ((cosine, 1 + np.cos(np.pi * t)), (poly, 2 * (1 - t) ** 0.9)):
    got = [float(rate(jnp.int32(step))) for step in range(11)]
    np.testing.assert_allclose(got, [1.0, 2.0, *fall], atol=1e-6)
  np.testing.assert_allclose(
    [scheduled("cosine", 1.0, steps=4)(jnp.int32(i)) for i in range(5)],
    [optax.cosine_decay_schedule(1.0, 4)(i) for i in range(5)],
    atol=1e-6,
  )


def test_the_average_of_the_parameters_by_hand():
  params, state = run(make_optimizer("adam", 0.1, ema=0.5), count=6)
  average = np.arange(4, dtype=np.float32)
  for step, current in enumerate(params):
    keep = min(0.5, (1 + step) / (10 + step))
    average = keep * average + (1 - keep) * current
  np.testing.assert_allclose(average_of(state), average, rtol=1e-5)
  assert average_of(run(make_optimizer("adam", 0.1))[1]) is None
  assert rate_of(state) == pytest.approx(0.1)


def test_parts_that_are_given_stand_in_place_of_the_recipes():
  assert resolved("paper", {}) == dict(RECIPES["paper"])
  config = TrainConfig("w", recipe="modern", loss="dice_focal", clip_norm=0.0)
  assert (config.loss, config.clip_norm, config.optimizer, config.schedule) == ("dice_focal", 0.0, "adamw", "cosine")
  assert TrainConfig("w", recipe="modern", schedule="plateau").warmup == 0
  paper = {name: getattr(TrainConfig("w"), name) for name in RECIPES["paper"]}
  assert paper == dict(RECIPES["paper"])
  assert (TrainConfig("w").learning_rate, TrainConfig("w", network="unet3d").learning_rate) == (1e-3, 5e-4)
  assert TrainConfig("w", optimizer="sgd").learning_rate == 1e-2
  assert {field.name for field in dataclasses.fields(SearchConfig)} >= set(RECIPES["paper"]) - {"ema"}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"warmup": 0.1}, "warmup is for the schedules cosine and poly, got 0.1 with plateau"),
    ({"recipe": "new"}, "recipe must be one of paper, modern, got 'new'"),
    ({"loss": "focal"}, "loss must be one of dice, dice_ce, dice_focal, or None, got 'focal'"),
    ({"ema": 1.0}, "ema must be a number of at least 0 and below 1, or None, got 1.0"),
    ({"mirror": "X"}, "mirror must be one of none, D, H, W"),
  ],
)
def test_what_is_refused(changes, message):
  with pytest.raises(InputError, match=message):
    TrainConfig("w", **changes)


@pytest.fixture
def toy(monkeypatch):
  for module in (nas3d_jax.training.train, nas3d_jax.checkpointing.restore):
    monkeypatch.setattr(module, "DerivedNet", ToyDerivedNet)


def config_of(workdir, **changes):
  (workdir / "search").mkdir(exist_ok=True)
  (workdir / "search" / "genotype.json").write_text(GENOTYPE.to_json())
  sizes = dict(kernels=1, nodes=1, depth=2, patch_size=16, epochs=3)
  return TrainConfig(workdir, **{**sizes, "recipe": "modern", **changes})


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
  "changes",
  [{}, {"optimizer": "sgd", "schedule": "poly", "loss": "dice_focal", "sampling": "random", "steps_per_epoch": 5}],
)
def test_a_modern_training_stopped_within_an_epoch_ends_as_one_left_alone(copies, monkeypatch, changes):
  one, other = copies("one"), copies("other")
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    interrupt(patch, nas3d_jax.training.train, "make_train_step", after=3)
    train(config_of(one, checkpoint_minutes=1e-9, **changes))
  ends = train(config_of(one, **changes)), train(config_of(other, **changes))
  assert_same_end(*ends)
  if "steps_per_epoch" in changes:
    assert [record["step"] for record in history(ends[0])] == [5, 10, 15]
  rates = [record["learning_rate"] for record in history(ends[0])]
  assert rates[0] > rates[1] > rates[2] > 0
  # What is saved is the average, with which the last validation was made; the parameters themselves are elsewhere.
  _, variables, metadata = restore(ends[0], "last")
  assert metadata.step == history(ends[0])[-1]["step"]
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.usefixtures("toy")
def test_softmax_of_overlapping_regions_is_refused(copies):
  workdir = copies("one")
  with pytest.raises(InputError, match="output=softmax is for regions that exclude each other, and WT, TC, ET overlap"):
    train(config_of(workdir, output="softmax"))
  assert not (workdir / "train").exists()
