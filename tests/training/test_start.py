"""What a training started from is compared by its parameters, not by how its path is spelt."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import nas3d_jax.checkpointing.restore
import nas3d_jax.training.train
from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.data.cases.find_and_read import find_cases, read_case
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.errors import InputError
from nas3d_jax.inference.ensemble import restore_ensemble
from nas3d_jax.inference.volume import predict_volume
from nas3d_jax.training.config import START_SUM, TrainConfig
from nas3d_jax.training.setup import RunSetup
from nas3d_jax.training.start import start_of
from nas3d_jax.training.train import read_genotype, train
from tests.support.runs import history, steps_kept
from tests.support.toy import ToyDerivedNet
from tests.training.test_train import GENOTYPE, make_config, write_genotype


@pytest.fixture
def started(workdir, monkeypatch):
  """A run directory with train/0, and train/all that started from it, spelt relative to the folder above."""
  for module in (nas3d_jax.training.train, nas3d_jax.checkpointing.restore):
    monkeypatch.setattr(module, "DerivedNet", ToyDerivedNet)
  monkeypatch.chdir(workdir.parent)
  write_genotype(workdir, GENOTYPE)
  train(make_config("run", epochs=1))
  train(make_config("run", fold="all", epochs=1, init_from="run/train/0"))
  return workdir


def settings(workdir):
  return json.loads((workdir / "train" / "all" / "config.json").read_text())["settings"]


def go_on(workdir, start, epochs=2):
  workdir = Path(workdir)
  train(make_config(workdir, fold="all", epochs=epochs, init_from=start))
  return [record["epoch"] for record in history(workdir / "train" / "all")]


def test_another_spelling_is_the_same_start(started, tmp_path):
  known = settings(started)[START_SUM]
  for start in ("./run/train/0", "run/train/0/", started / "train" / "0", "run/dataset/../train/0"):
    assert go_on("run", start) == [1, 2]
  # A copy elsewhere has the same parameters; so has the folder of the step.
  shutil.copytree(started / "train" / "0", tmp_path / "copy")
  assert go_on("run", "copy", epochs=3) == [1, 2, 3]
  assert go_on("run", tmp_path / "copy" / "checkpoints" / str(max(steps_kept(tmp_path / "copy"))), 3) == [1, 2, 3]
  assert settings(started)[START_SUM] == known


def test_a_moved_run_goes_on_also_where_its_start_went_on(started, monkeypatch):
  moved = started.rename(started.with_name("moved"))
  train(make_config(moved, epochs=3))
  monkeypatch.chdir(moved)
  assert go_on(".", "train/0") == [1, 2]


@pytest.mark.parametrize(
  ("start", "reason"),
  [(None, "is None"), ("run/train/1", r"is 'run/train/1'\. Run"), ("gone", r"is 'gone' \(no checkpoint in .*gone")],
)
def test_another_start_is_refused(started, start, reason):
  train(make_config("run", fold=1, epochs=1))
  with pytest.raises(InputError, match=rf"other settings: init_from was 'run/train/0', {reason}"):
    go_on("run", start)
  assert len(history(started / "train" / "all")) == 1


def test_before_the_first_checkpoint_any_start_will_do(started):
  shutil.rmtree(started / "train" / "all" / "checkpoints")
  known = settings(started)[START_SUM]
  train(make_config("run", fold=1, epochs=1, learning_rate=0.2))
  assert go_on("run", "run/train/1", epochs=1) == [1]
  assert settings(started)[START_SUM] != known


def test_a_run_that_does_not_know_its_start_goes_on_from_the_same_place(started):
  path = started / "train" / "all" / "config.json"
  content = json.loads(path.read_text())
  del content["settings"][START_SUM]
  path.write_text(json.dumps(content))
  assert go_on("run", started / "train" / "0") == [1, 2]


def test_fewer_epochs_than_are_done_are_refused(started):
  train(make_config("run", epochs=2))
  before = history(started / "train" / "0")
  with pytest.raises(InputError, match=r"^epochs must be at least 2, to which the run in .*0 has come, got 1"):
    train(make_config("run", epochs=1))
  assert history(started / "train" / "0") == before
  train(make_config("run", epochs=2))


def test_parameters_of_another_normalisation_are_no_start_and_no_ensemble(started, tmp_path):
  write_phantoms(tmp_path / "data", cases=2, seed=0, shape=(24, 24, 24))
  other = tmp_path / "other"
  preprocess(tmp_path / "data", other / "dataset", folds=2, normalization=["zscore"])
  write_genotype(other, GENOTYPE)
  with pytest.raises(InputError, match="init_from run/train/0 has another normalization than this training: "):
    train(make_config(other, epochs=1, init_from="run/train/0"))
  assert not (other / "train").exists()
  train(make_config(other, epochs=1))
  with pytest.raises(InputError, match=r"checkpoints must have one normalization, but .*: range and .*: zscore"):
    restore_ensemble([started / "train" / "0", other / "train" / "0"])
  # What a command predicts of files, a program predicts of their intensities.
  net, variables, metadata = restore(other / "train" / "0")
  files, _ = find_cases(tmp_path / "data", metadata.schema)
  image = read_case(files[0], metadata.schema).image
  how = dict(patch_size=metadata.patch_size, intensities=metadata.intensities)
  got = predict_volume(net, variables, image, **how)
  ensemble = restore_ensemble([other / "train" / "0"])
  np.testing.assert_array_equal(got, ensemble.predict(ensemble.intensities.prepare(image)))
  own = image[image[..., 0] != 0][:, 0]
  prepared = metadata.intensities.prepare(image)
  assert prepared[..., 0].max() == pytest.approx((own.max() - own.mean()) / own.std(), rel=1e-5)


def test_a_derived_network_starts_from_its_supernet(searched, tmp_path):
  shutil.copytree(searched, tmp_path / "run")
  sizes = dict(kernels=1, nodes=1, depth=2, patch_size=8)
  config = TrainConfig(tmp_path / "run", init_from=tmp_path / "run" / "search", **sizes)
  genotype = read_genotype(tmp_path / "run" / "search" / "genotype.json")
  start = start_of(RunSetup.of(config), genotype, tmp_path / "run" / "train" / "0")
  supernet, derived = restore(searched / "search")[1]["params"], start.variables["params"]
  np.testing.assert_array_equal(derived["stem1"]["conv"]["kernel"], supernet["stem1"]["conv"]["kernel"])
  for row, (operation, state) in enumerate(genotype.up):
    np.testing.assert_array_equal(
      derived["up_2"][f"op_{row}"]["norm"]["scale"],
      supernet["up_2"][f"state_{state}"][operation]["norm"]["scale"][0],
    )
  other = dataclasses.replace(config, kernels=2)
  with pytest.raises(InputError, match=r"init_from .*search has another network than this training: .*kernels=1"):
    start_of(RunSetup.of(other), genotype, tmp_path / "run" / "train" / "0")
  unet = dataclasses.replace(config, network="unet3d", levels=2)
  with pytest.raises(InputError, match=r"init_from .*search has another architecture than this training: searched"):
    start_of(RunSetup.of(unet), None, tmp_path / "run" / "unet3d" / "0")


def test_a_training_from_a_supernet_goes_on_with_a_copy_of_it(searched, tmp_path):
  """The sum that a run keeps is of what it took from the supernet."""
  run, folder = tmp_path / "run", tmp_path / "run" / "train" / "0"
  shutil.copytree(searched, run)
  shutil.copytree(searched / "search", tmp_path / "copy")
  config = TrainConfig(run, init_from=run / "search", kernels=1, nodes=1, depth=2, patch_size=8)
  genotype = read_genotype(run / "search" / "genotype.json")
  begun = start_of(RunSetup.of(config), genotype, folder)
  # As if it had come to its first checkpoint.
  shutil.copytree(run / "search", folder)
  known = {"init_from": str(run / "search"), "workdir": str(run), **begun.settings}
  (folder / "config.json").write_text(json.dumps({"settings": known}))
  moved = dataclasses.replace(config, init_from=tmp_path / "copy")
  assert start_of(RunSetup.of(moved), genotype, folder) == (None, begun.settings)
  with pytest.raises(InputError, match="holds a run with other settings: init_from was"):
    start_of(RunSetup.of(dataclasses.replace(moved, kernels=2)), genotype, folder)


def test_a_network_of_other_modalities_and_regions_is_taken_in_part(searched, tmp_path, capsys):
  schema = tmp_path / "schema.yaml"
  schema.write_text(
    "name: two\nmodalities: {t2: _t2, flair: _flair}\nsegmentation: _seg\n"
    "labels: {1: core, 2: oedema, 4: ET}\nregions:\n  ED: [2]\n  TC: {labels: [1, 4], paint: 1}\n"
  )
  write_phantoms(tmp_path / "data", cases=2, seed=0, shape=(24, 24, 24))
  run = tmp_path / "run"
  preprocess(tmp_path / "data", run / "dataset", folds=2, schema=schema)
  sizes = dict(kernels=1, nodes=1, depth=2, patch_size=8)
  config = TrainConfig(run, init_from=searched / "search", **sizes)
  genotype = read_genotype(searched / "search" / "genotype.json")
  folder = run / "train" / "0"
  with pytest.raises(InputError, match=r"has another network than this training: .*, or --init_partial to take what"):
    start_of(RunSetup.of(config), genotype, folder)
  partial = dataclasses.replace(config, init_partial=True)
  start = start_of(RunSetup.of(partial), genotype, folder)
  there, here = restore(searched / "search")[1]["params"], start.variables["params"]
  # flair, t1, t1ce, t2 there; t2, flair here.
  old = np.asarray(there["stem0"]["project"]["kernel"])
  np.testing.assert_array_equal(here["stem0"]["project"]["kernel"], old[[3, 0]])
  np.testing.assert_array_equal(here["head"]["project"]["bias"][1], there["head"]["project"]["bias"][1])
  assert here["head"]["project"]["bias"][0] not in np.asarray(there["head"]["project"]["bias"])
  taken = start.settings["init_from_taken"]
  assert (taken["taken"]["modalities"], taken["taken"]["regions"]) == (["t2", "flair"], ["TC"])
  assert (taken["drawn"]["modalities"], taken["drawn"]["regions"]) == ([], ["ED"])
  assert list(taken["drawn"]["parameters"]) == ["head"]
  said = " ".join(capsys.readouterr().err.split())
  assert "modalities t2, flair, regions TC; drawn: " in said
  assert said.endswith("modalities none, regions ED")
  with pytest.raises(InputError, match=r"another network .*: \{'kernels': 1\} there, \{'kernels': 2\} here"):
    start_of(RunSetup.of(dataclasses.replace(partial, kernels=2)), genotype, folder)
  with pytest.raises(InputError, match="init_partial is of init_from, got it without"):
    dataclasses.replace(partial, init_from=None)
  schema.write_text(schema.read_text().replace("t2: _t2, flair: _flair", "ct: _t2"))
  preprocess(tmp_path / "data", tmp_path / "ct" / "dataset", folds=2, schema=schema)
  with pytest.raises(InputError, match="has no modality of this training: flair, t1, t1ce, t2 there, ct here"):
    start_of(RunSetup.of(dataclasses.replace(partial, workdir=tmp_path / "ct")), genotype, folder)
