"""What is compiled once a process: equal arguments give the same program, and networks that are not the same do not."""

import dataclasses
import gc
import weakref

import flax.linen as nn
import jax
import numpy as np
import pytest

import nas3d_jax.training.train
from nas3d_jax.inference.volume import shared_predict_step
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet, variable_shapes
from nas3d_jax.models.packing import packed_net
from nas3d_jax.models.search_space import CustomOperation, SearchSpace
from nas3d_jax.runtime.compiling import announced, shared
from nas3d_jax.training.config import TrainConfig
from nas3d_jax.training.setup import RunSetup
from nas3d_jax.training.train import TrainSession, train

DOWN, UP = (("down_conv", 1), ("max_pool", 0)), (("identity", 0), ("up_conv", 1))
CONFIG = NetworkConfig(kernels=1, nodes=1, depth=2)
GENOTYPE, TURNED = Genotype(down=DOWN, up=UP), Genotype(down=DOWN[::-1], up=UP)
SIZES = dict(kernels=1, nodes=1, depth=2, patch_size=8, epochs=1, sampling="random", steps_per_epoch=2)


@pytest.fixture(autouse=True)
def none_before():
  shared.cache_clear()
  yield
  shared.cache_clear()


@pytest.fixture
def made(monkeypatch):
  """The training steps that are made."""
  original, made = nas3d_jax.training.train.make_train_step, []

  def make_train_step(*arguments, **options):
    made.append(original(*arguments, **options))
    return made[-1]

  monkeypatch.setattr(nas3d_jax.training.train, "make_train_step", make_train_step)
  return made


def test_folds_take_one_step_which_is_compiled_once(workdir, made, capsys):
  (workdir / "search").mkdir()
  (workdir / "search" / "genotype.json").write_text(GENOTYPE.to_json())
  config = TrainConfig(workdir, **SIZES)
  for fold in (0, 1, "all"):
    train(dataclasses.replace(config, fold=fold))
  (step,) = made
  assert step._cache_size() == 1
  assert capsys.readouterr().err.count("compiling the training step") == 1


def test_another_setting_is_another_step(workdir, made):
  changes = (
    {}, {"loss": "dice_ce"}, {"dice_over": "batch"}, {"learning_rate": 0.1}, {"weight_decay": 0.1}, {"clip_norm": 1.0},
    {"ema": 0.9}, {"optimizer": "sgd"}, {"schedule": "cosine"}, {"schedule": "cosine", "epochs": 3},
    {"modality_dropout": 0.5}, {"dropout": 0.25}, {"precision": "bfloat16"}, {"kernels": 2},
  )  # fmt: skip
  runs = [(SIZES | own, GENOTYPE) for own in changes]
  # Equal, but with rows and so parameters in another order.
  assert GENOTYPE == TURNED
  runs.append((SIZES, TURNED))
  for count, (settings, genotype) in enumerate(runs, 1):
    for _ in range(2):
      setup = RunSetup.of(TrainConfig(workdir, **settings))
      TrainSession(setup, workdir / "train", genotype, None).close()
    assert len(made) == count


def test_a_network_is_predicted_with_one_step():
  one = shared_predict_step(DerivedNet(CONFIG, GENOTYPE))
  assert shared_predict_step(DerivedNet(CONFIG, GENOTYPE)) is one
  for other in (
    shared_predict_step(DerivedNet(CONFIG, TURNED)),
    shared_predict_step(DerivedNet(dataclasses.replace(CONFIG, kernels=2), GENOTYPE)),
    shared_predict_step(DerivedNet(CONFIG, GENOTYPE), xi=50.0),
    shared_predict_step(DerivedNet(CONFIG, GENOTYPE), precision="bfloat16"),
  ):
    assert other is not one


def test_operations_of_ones_own_share_nothing():
  """Equal ones may have other modules."""
  space = SearchSpace.of(("conv",), (CustomOperation("own", "normal", lambda channels: nn.Conv(channels, (3, 3, 3))),))
  config = dataclasses.replace(CONFIG, space=space)
  genotype = Genotype(down=(("down_conv", 1), ("down_conv", 0)), up=(("own", 0), ("up_conv", 1)), space=space)
  one, other = (packed_net(DerivedNet(config, genotype)) for _ in range(2))
  assert one is not other
  steps = [shared_predict_step(DerivedNet(config, genotype)) for _ in range(2)]
  assert steps[0] is not steps[1]
  assert packed_net(DerivedNet(CONFIG, GENOTYPE)) is packed_net(DerivedNet(CONFIG, GENOTYPE))


def test_a_network_that_cannot_be_a_key_shares_nothing():
  class Own(DerivedNet):
    widths: list = dataclasses.field(default_factory=list)

  net = Own(CONFIG, GENOTYPE)
  assert shared_predict_step(net) is not shared_predict_step(net)
  assert variable_shapes(net) == variable_shapes(DerivedNet(CONFIG, GENOTYPE))


def test_no_garbage_is_collected_meanwhile_and_it_is_afterwards():
  seen = []
  announced("the toy step", lambda: seen.append(gc.isenabled()))()
  with pytest.raises(ZeroDivisionError):
    announced("the toy step", lambda: 1 / 0)()
  assert seen == [False]
  assert gc.isenabled()


def test_what_was_announced_is_not_kept():
  """A program may hold the cases of a run."""
  step = jax.jit(lambda number: number + 1)
  assert announced("the toy step", step)(np.float32(1)) == 2
  kept = weakref.ref(step)
  del step
  gc.collect()
  assert kept() is None
