"""Data sets and checkpoints of format version 1, as an earlier state of this library wrote them, serve on."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.dataset.verify import verify
from nas3d_jax.inference.volume import predict_volume
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.training.search import search
from nas3d_jax.training.train import train
from tests.support.runs import without_times

FIXTURE = Path(__file__).parents[1] / "fixtures" / "format1"
SIZES = dict(patch_size=8, kernels=1, nodes=1, depth=2)
KINDS = {"search": "Supernet", "train/0": "DerivedNet", "unet3d/0": "UNet3D"}


@pytest.fixture
def run(tmp_path):
  """That run, in a folder of its own."""
  with zipfile.ZipFile(FIXTURE / "run.zip") as archive:
    archive.extractall(tmp_path)
  return tmp_path / "run"


def test_the_data_set_opens(run):
  dataset = Dataset.open(run / "dataset")
  verify(dataset.folder, dataset.cases, everything=True)
  assert [case.name for case in dataset.cases] == [f"Phantom_{i:04d}" for i in range(1, 5)]
  assert dataset.fingerprint == "5266ebda98625dcc0d4d027b1beef000e0bfe9034d8a32085d041092c9e9a410"


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_is_restored_and_predicts_the_same(name, run):
  net, variables, metadata = restore(run / name)
  assert type(net).__name__ == KINDS[name]
  dataset = Dataset.open(run / "dataset")
  assert metadata.dataset["fingerprint"] == dataset.fingerprint
  image = np.array(dataset.image(dataset.cases[0]))
  got = np.asarray(predict_volume(net, variables, image, patch_size=metadata.patch_size))
  expected = np.load(FIXTURE / "predictions.npz")[name.replace("/", "_")]
  # Processors round differently.
  np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6)
  np.testing.assert_array_equal(metadata.schema.decode(got), metadata.schema.decode(expected))


def assert_close(got, expected):
  """The same numbers but for rounding, and the same everything else."""
  if isinstance(expected, dict):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
      assert_close(got[name], value)
  elif isinstance(expected, list):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
      assert_close(one, other)
  else:
    assert got == (pytest.approx(expected, rel=1e-4, abs=1e-6) if isinstance(expected, float) else expected)


def resume_search(run):
  search(SearchConfig(run, **SIZES, epochs=3))


def resume_training(run):
  train(TrainConfig(run, fold=1, **SIZES, epochs=2))


def resume_unet3d(run):
  train(TrainConfig(run, network="unet3d", patch_size=8, filters=2, levels=2, epochs=2))


@pytest.mark.parametrize(
  ("name", "resume"), [("search", resume_search), ("train/1", resume_training), ("unet3d/0", resume_unet3d)]
)
def test_a_run_goes_on(name, resume, run):
  resume(run)
  assert_close(without_times(run / name), json.loads((FIXTURE / "records.json").read_text())[name])
