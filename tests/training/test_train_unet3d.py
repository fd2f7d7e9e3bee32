"""Training of the hand-designed 3D U-Net as a command runs it: defaults, folder, checkpoint, prediction."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from launch.__main__ import main
from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.errors import InputError
from nas3d_jax.models.config import UNetConfig
from nas3d_jax.models.unet3d import UNet3D
from nas3d_jax.training.config import TrainConfig
from nas3d_jax.training.train import train
from tests.support.runs import history
from tests.training.test_train import GENOTYPE, WITHOUT_THE_LIBRARY, write_genotype

SIZES = dict(network="unet3d", filters=2, levels=3, patch_size=16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, phantom_dataset):
  """A run directory with fold 0 after two epochs, by the command; no search was ever made."""
  workdir = tmp_path_factory.mktemp("unet3d") / "run"
  shutil.copytree(phantom_dataset.folder, workdir / "dataset")
  flags = ["--epochs=2", *(f"--{name}={value}" for name, value in SIZES.items())]
  assert main(["train", f"--workdir={workdir}", "--fold=0", *flags, "--platform=cpu"]) == 0
  return workdir


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({}, (1e-3, 0.5)),
    ({"network": "unet3d"}, (5e-4, 0.3)),
    ({"network": "unet3d", "learning_rate": 0.01, "dropout": 0.0}, (0.01, 0.0)),
  ],
)
def test_rates_are_those_of_the_network_unless_given(fields, expected):
  config = TrainConfig("run", **fields)
  assert (config.learning_rate, config.dropout) == expected


def test_an_unknown_network_is_refused():
  with pytest.raises(InputError, match="network must be one of searched, unet3d, plain_unet, got 'unet'"):
    TrainConfig("run", network="unet")
  with pytest.raises(InputError, match="genotype is the searched network's, got it with network='unet3d'"):
    TrainConfig("run", network="unet3d", genotype="genotype.json")


def test_folder_history_and_metadata(trained):
  folder = trained / "unet3d" / "0"
  assert [record["epoch"] for record in history(folder)] == [1, 2]
  assert all(record["learning_rate"] == 5e-4 for record in history(folder))
  assert not (trained / "train").exists()
  net, variables, metadata = restore(folder)
  assert isinstance(net, UNet3D)
  assert (net.config, net.dropout_rate) == (UNetConfig(filters=2, levels=3), 0.3)
  assert (metadata.kind, metadata.architecture, metadata.genotype) == ("train", "unet3d", None)
  x = np.ones((1, 16, 16, 16, 4), np.float32)
  assert jax.eval_shape(net.apply, variables, x).shape == (1, 16, 16, 16, 3)


def test_the_checkpoint_opens_with_orbax_alone(trained, tmp_path):
  _, variables, metadata = restore(trained / "unet3d" / "0", "last")
  step = trained / "unet3d" / "0" / "checkpoints" / str(metadata.step)
  command = [sys.executable, "-c", WITHOUT_THE_LIBRARY, str(step), str(tmp_path / "arrays.npz")]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
  said = json.loads(done.stdout)
  assert (said["architecture"], said["network"]["filters"], said["genotype"]) == ("unet3d", 2, None)
  with np.load(tmp_path / "arrays.npz", allow_pickle=False) as found:
    np.testing.assert_array_equal(
      found["/params/context_0/first/conv/kernel"], variables["params"]["context_0"]["first"]["conv"]["kernel"]
    )
    assert len(found.files) == len(jax.tree.leaves(variables))


def test_it_goes_on_whatever_the_searched_networks_flags_are(trained):
  folder = train(TrainConfig(trained, **SIZES, epochs=2, nodes=1, depth=2))
  assert [record["epoch"] for record in history(folder)] == [1, 2]
  with pytest.raises(InputError, match="holds a run with other settings: filters was 2, is 4"):
    train(TrainConfig(trained, **SIZES | {"filters": 4}, epochs=2))


def test_a_start_from_another_network_is_refused(trained):
  write_genotype(trained, GENOTYPE)
  start = trained / "unet3d" / "0"
  config = TrainConfig(trained, fold=1, patch_size=16, kernels=1, nodes=1, depth=2, init_from=start)
  with pytest.raises(InputError, match="has another architecture than this training: unet3d there, searched here"):
    train(config)


def test_patches_that_do_not_fit(trained):
  with pytest.raises(InputError, match=r"patch_size must be a multiple of 16 \(2 \*\* \(levels - 1\)\), got 24"):
    train(TrainConfig(trained, network="unet3d", patch_size=24))


def test_prediction_with_that_network(trained, phantom_dataset, capsys):
  data, out = phantom_dataset.folder.parent / "data", trained / "predictions"
  where = [f"--workdir={trained}", "--network=unet3d", "--fold=0", f"--data_dir={data}", f"--out={out}"]
  name = phantom_dataset.cases[0].name
  assert main(["predict", *where, f"--cases={name}", "--platform=cpu"]) == 0
  assert "1 cases predicted" in capsys.readouterr().out
  (source,) = json.loads((out / "predictions.json").read_text())["settings"]["checkpoints"].values()
  assert "/unet3d/0/checkpoints/" in source


def test_metadata_that_contradicts_itself(trained):
  fields = restore(trained / "unet3d" / "0")[2].to_dict()
  assert RunMetadata.from_dict(fields).architecture == "unet3d"
  for changes, message in (
    ({"architecture": "resnet"}, 'architecture must be one of "searched", "unet3d", "plain_unet", got \'resnet\''),
    ({"architecture": "searched"}, "network is wrong: network config has unknown fields"),
    ({"kind": "search"}, "kind must be 'train' for architecture 'unet3d'"),
    ({"genotype": {"down": GENOTYPE.down, "up": GENOTYPE.up}}, "genotype must be None for architecture 'unet3d'"),
  ):
    with pytest.raises(InputError, match=message):
      RunMetadata.from_dict(fields | changes)
