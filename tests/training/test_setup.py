"""What a search or a training is made from."""

import dataclasses
import json
import shutil

import jax
import pytest

from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.options import options_of
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.training.setup import RunSetup, key_of

SIZES = dict(patch_size=8, nodes=1, depth=2)


@pytest.mark.parametrize("make", [SearchConfig, TrainConfig])
def test_the_network_has_the_channels_of_the_data(workdir, make):
  setup = RunSetup.of(make(workdir, kernels=2, variant="released", **SIZES))
  assert setup.network == NetworkConfig(in_channels=4, out_channels=3, kernels=2, nodes=1, depth=2, variant="released")
  assert setup.device.platform == jax.default_backend()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(patch_size=12), r"^patch_size must be a multiple of 8 \(2 \*\* \(depth \+ 1\)\), got 12; use 8 or 16$"),
    (dict(nodes=0), "^nodes must be a whole number of at least 1, got 0$"),
    (dict(variant="mine"), "^variant must be one of paper, released, got 'mine'$"),
  ],
)
def test_a_network_that_cannot_be(workdir, changes, message):
  with pytest.raises(InputError, match=message):
    RunSetup.of(SearchConfig(workdir, **SIZES | changes))


def test_no_data_set(workdir):
  shutil.rmtree(workdir / "dataset")
  with pytest.raises(InputError, match=r"manifest\.json is missing; run preprocess"):
    RunSetup.of(SearchConfig(workdir, **SIZES))


def test_a_part_without_cases(workdir):
  setup = RunSetup.of(SearchConfig(workdir, fold=1, **SIZES))
  with pytest.raises(InputError, match="fold 1 leaves no case for the kernel part; preprocess"):
    setup.stream("kernel", (), seed=0)


def test_settings_are_json_and_name_the_data(workdir):
  config = SearchConfig(workdir, **SIZES)
  setup = RunSetup.of(config)
  with setup.open_run(workdir / "search", extra=[["conv", 0]], seed=3):
    pass
  stored = json.loads((workdir / "search" / "config.json").read_text())
  expected = dataclasses.asdict(config) | {"workdir": str(workdir), "operations": [], "extra": [["conv", 0]], "seed": 3}
  assert stored["settings"] == expected | {"dataset": setup.dataset.fingerprint}
  assert stored["sessions"] == [setup.device.to_dict()]


@pytest.mark.parametrize("config", [SearchConfig, TrainConfig])
def test_a_run_that_does_not_know_of_an_option_goes_on_with_its_default(workdir, config):
  """Of each option in turn, those whose default is a tuple among them, which JSON gives back as a list."""
  setup = RunSetup.of(config(workdir, **SIZES))
  folder = workdir / "run"
  with setup.open_run(folder):
    pass
  content = json.loads((folder / "config.json").read_text())
  for name, option in options_of(config).items():
    if getattr(setup.config, name) == option.default:
      kept = {other: value for other, value in content["settings"].items() if other != name}
      (folder / "config.json").write_text(json.dumps({**content, "settings": kept}))
      setup.open_run(folder).checkpoints.close()


@pytest.mark.parametrize(
  ("changes", "refused"),
  [(dict(epochs=3, checkpoint_minutes=1.0), None), (dict(dropout=0.2), r"dropout was 0\.1, is 0\.2")],
)
def test_a_run_may_be_made_longer(workdir, changes, refused):
  with RunSetup.of(SearchConfig(workdir, **SIZES)).open_run(workdir / "search"):
    pass
  longer = RunSetup.of(SearchConfig(workdir, **SIZES, **changes))
  if refused:
    with pytest.raises(InputError, match=refused):
      longer.open_run(workdir / "search")
  else:
    longer.open_run(workdir / "search").checkpoints.close()


def test_metadata_reads_back(workdir):
  setup = RunSetup.of(SearchConfig(workdir, dropout=0.25, **SIZES))
  metadata = setup.metadata(kind="search", genotype=None, epoch=2, step=7)
  got = RunMetadata.from_dict(json.loads(json.dumps(metadata)))
  assert (got.kind, got.epoch, got.step, got.patch_size, got.dropout_rate) == ("search", 2, 7, 8, 0.25)
  assert (got.network, got.schema) == (setup.network, setup.dataset.schema)
  assert got.dataset == {"fingerprint": setup.dataset.fingerprint}


def test_keys_do_not_depend_on_the_default():
  with jax.default_prng_impl("rbg"):
    assert str(jax.random.key_impl(key_of(5))) == "threefry2x32"
