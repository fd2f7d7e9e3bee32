"""Numbers have upper bounds: those of the options, and those that memory and the data set."""

import pytest

from launch.__main__ import main
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.errors import InputError
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.inference.config import InferenceChoices, PredictConfig
from nas3d_jax.options import options_of
from nas3d_jax.runtime.memory import check_fits
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.training.search import search
from nas3d_jax.training.setup import RunSetup, initial_variables, key_of, network_config
from nas3d_jax.training.train import train

CONFIGS = (SearchConfig, TrainConfig, InferenceChoices, PredictConfig, ExperimentConfig)
# Any time and any volume is a sound one.
UNBOUNDED = {"checkpoint_minutes", "min_component_ml"}


@pytest.mark.parametrize("config", CONFIGS)
def test_every_number_has_an_upper_bound(config):
  for name, option in options_of(config).items():
    if option.kind in (int, float) and name not in UNBOUNDED:
      assert option.most is not None or option.below is not None, name


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"seed": 2**63}, "^seed must be at most 9223372036854775807, got 9223372036854775808$"),
    ({"patch_size": 4096}, "^patch_size must be at most 2048, got 4096$"),
    ({"batch_size": 10**9}, "^batch_size must be at most 65536, got 1000000000$"),
    ({"hybrid_learning_rate": 1e39}, "^hybrid_learning_rate must be at most 3.4e\\+38, got 1e"),
  ],
)  # fmt: skip
def test_what_is_too_large_by_far_is_refused_at_once(fields, message):
  with pytest.raises(InputError, match=message):
    SearchConfig("nowhere", **fields)


@pytest.mark.parametrize(
  "flag", ["--batch_size=1000000000", "--patch_size=4096", f"--seed={2**63}", "--epochs=99999999"]
)
@pytest.mark.parametrize("stage", ["search", "train"])
def test_the_command_line_refuses_the_same(stage, flag, capsys):
  assert main([stage, "--workdir=nowhere", flag]) == 2
  error = capsys.readouterr().err
  assert f"{flag[2:].partition('=')[0]} must be at most " in error
  assert "Traceback" not in error


def test_a_batch_or_a_network_larger_than_memory_is_refused(workdir):
  sizes = dict(kernels=1, nodes=1, depth=2)
  with pytest.raises(
    InputError, match=r"^a batch of patch_size=2048 and batch_size=60000 needs at least 13440000\.0 GiB"
  ):
    RunSetup.of(SearchConfig(workdir, patch_size=2048, batch_size=60000, **sizes))
  setup = RunSetup.of(TrainConfig(workdir, network="unet3d", patch_size=16, filters=65536))
  from nas3d_jax.models.search_space import PAPER_SPACE
  from nas3d_jax.models.unet3d import UNet3D

  net = UNet3D(network_config(setup.config, setup.dataset.schema, PAPER_SPACE))
  with pytest.raises(InputError, match=r"^a network of filters=65536, levels=5 needs at least .* give smaller ones$"):
    initial_variables(net, key_of(0))


def test_a_batch_holds_no_patch_twice(workdir):
  sizes = dict(patch_size=8, kernels=1, nodes=1, depth=2)
  with pytest.raises(
    InputError, match=r"^batch_size must be at most \d+, the number of patches of the hybrid part, got 6"
  ):
    search(SearchConfig(workdir, batch_size=60000, **sizes))
  config = TrainConfig(workdir, network="unet3d", patch_size=8, levels=2, batch_size=60000)
  with pytest.raises(InputError, match=r"^batch_size must be at most \d+, the number of patches of the training part"):
    train(config)
  assert not (workdir / "search").exists()
  assert not (workdir / "unet3d").exists()


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(shape=(100000, 16, 16)), "^shape must be three lengths of at most 32767 voxels, as in NIfTI-1, got"),
    (
      dict(shape=(30000, 30000, 30000)),
      r"^shape=\(30000, 30000, 30000\) needs at least .* GiB of memory, .* a smaller one",
    ),
    (dict(cases=10000), "^cases must be at most 9999, which their names can count, got 10000$"),
  ],
)
def test_phantoms_are_as_many_and_as_large_as_can_be(tmp_path, fields, message):
  with pytest.raises(InputError, match=message):
    write_phantoms(tmp_path / "out", **{"cases": 1, "seed": 0, **fields})
  assert not (tmp_path / "out").exists()


def test_memory_is_compared():
  check_fits(2**30, "x=1", "give less", memory=2**30)
  with pytest.raises(InputError, match=r"^x=1 needs at least 2\.0 GiB of memory, and there are 1\.0 GiB; give less$"):
    check_fits(2**31, "x=1", "give less", memory=2**30)
