"""The experiment at toy size, from nothing to the report: stopped in the middle, gone on with, and done.

The report is made by another package; a function that lists the scores stands in its place.
"""

import dataclasses
import json
import shutil
import sys
import types

import nibabel as nib
import numpy as np
import pytest

import nas3d_jax.training.train
from launch.__main__ import main
from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.patches.patch_stream import PatchStream
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.experiment.run import experiment, plan_experiment
from nas3d_jax.files.run_layout import TRAIN_FOLDERS
from nas3d_jax.inference.volume import predict_volume
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.inheritance import derived_variables
from nas3d_jax.models.networks import DerivedNet
from nas3d_jax.models.random_genotype import random_genotype
from nas3d_jax.report.control_contents import dice_of, read_control, verdict
from nas3d_jax.report.control_figures import control_figure
from nas3d_jax.report.control_section import groups_table
from nas3d_jax.report.run_contents import Material
from nas3d_jax.report.supernet_section import gap_table, read_losses
from nas3d_jax.runtime.data_parallel import ONE_DEVICE
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.training.steps import make_validation_step
from tests.inference.test_predict import labels_of
from tests.support.runs import history

SIZES = dict(
  folds=2, search_patch_size=8, search_epochs=3, patch_size=16, epochs=2, kernels=1, nodes=1, depth=2, filters=2,
  levels=3,
)  # fmt: skip
FLAGS = [f"--{name}={value}" for name, value in SIZES.items()]
NETWORKS, SPLITS = ("searched", "unet3d"), ("training", "cross_validation", "test", "ensemble")


def fake_report():
  def write_report(workdir, *, portal_csv):
    (workdir / "report").mkdir(exist_ok=True)
    found = sorted(str(path.relative_to(workdir)) for path in workdir.glob("scores/*/*/scores.json"))
    (workdir / "report" / "index.html").write_text(json.dumps({"scores": found, "portal": portal_csv}))

  return types.SimpleNamespace(write_report=write_report)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Ten cases and two unseen ones."""
  folder = tmp_path_factory.mktemp("experiment")
  write_phantoms(folder / "data", cases=10, seed=0, shape=(24, 24, 24))
  write_phantoms(folder / "test", cases=2, seed=1, shape=(24, 24, 24))
  return folder


def make_config(folder, **changes):
  paths = dict(workdir=folder / "run", data_dir=folder / "data", test_dir=folder / "test")
  return ExperimentConfig.of(**{**paths, **SIZES, **changes})


def files(folder):
  return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def command(folder, *more):
  paths = [f"--workdir={folder / 'run'}", f"--data_dir={folder / 'data'}", f"--test_dir={folder / 'test'}"]
  return main(["experiment", *paths, *FLAGS, "--platform=cpu", *more])


@pytest.fixture(scope="module")
def finished(folder):
  """The experiment after it was stopped in the second training; what was on disk then, and after it went on."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "nas3d_jax.report.build", fake_report())
    with pytest.MonkeyPatch.context() as stopper:
      original, calls = nas3d_jax.training.train.make_train_step, []

      def make_train_step(*arguments, **options):
        step = original(*arguments, **options)

        def limited(*arguments):
          # In its second epoch, of which nothing is saved.
          metrics = folder / "run" / "train" / "1" / "metrics.jsonl"
          calls.extend([None] * metrics.exists())
          if len(calls) == 3:
            raise KeyboardInterrupt
          return step(*arguments)

        return limited

      stopper.setattr(nas3d_jax.training.train, "make_train_step", make_train_step)
      assert command(folder) == 130
    stopped = files(folder / "run"), history(folder / "run" / "train" / "1")
    assert command(folder) == 0
  return folder, stopped


def test_it_went_on_where_it_was_stopped(finished):
  folder, (before, records) = finished
  run = folder / "run"
  assert not any(path.is_relative_to(run / "unet3d") for path in before)
  after = files(run)
  for part in ("dataset", "search", "train/0"):
    assert {path: time for path, time in before.items() if path.is_relative_to(run / part)} == {
      path: time for path, time in after.items() if path.is_relative_to(run / part)
    }
  # The first epoch of the training that was stopped is the one from before, to the last digit of its time.
  assert [record["epoch"] for record in records] == [1]
  assert history(run / "train" / "1")[:1] == records
  for network in NETWORKS:
    for fold in ("0", "1", "all"):
      assert len(history(run / TRAIN_FOLDERS[network] / fold)) == 2


def test_a_second_run_does_nothing_and_says_what_came_out(finished, monkeypatch, capsys):
  folder, _ = finished
  monkeypatch.delitem(sys.modules, "nas3d_jax.report.build", raising=False)
  monkeypatch.setattr(nas3d_jax.training.train, "make_train_step", None)
  before = files(folder / "run")
  assert command(folder) == 0
  assert files(folder / "run") == before
  said = capsys.readouterr()
  assert "so far" not in said.err  # no part was begun
  assert "cross-validation" in said.out
  assert "index.html" in said.out


def test_a_dry_run_lists_all_as_done(finished, capsys):
  folder, _ = finished
  before = files(folder / "run")
  planned = plan_experiment(make_config(folder))
  assert {part.status for part in planned} == {"done"}
  recorded = json.loads((folder / "run" / "experiment.json").read_text())
  assert [part.name for part in planned] == recorded["parts"]
  assert command(folder, "--dry_run") == 0
  assert capsys.readouterr().out.count("done") == len(planned)
  assert files(folder / "run") == before


def test_what_it_would_take_to_train_on(finished):
  """Twice the epochs: each training has two left, as long as its median; what stands on it is to be made anew."""
  folder, _ = finished
  planned = {part.name: part for part in plan_experiment(make_config(folder, epochs=4))}
  times = [record["seconds"] for record in history(folder / "run" / "unet3d" / "1")]
  part = planned["train unet3d, fold 1"]
  assert (part.status, part.seconds) == ("begun", pytest.approx(2 * np.median(times)))
  assert planned["search, seed 0"].status == planned["preprocess"].status == "done"
  more = {part.name: part for part in plan_experiment(make_config(folder, seeds=2))}["search, seed 1"]
  times = [record["seconds"] for record in history(folder / "run" / "search")]
  assert (more.status, more.seconds) == ("to do", pytest.approx(3 * np.median(times)))
  smooth = {part.name: part for part in plan_experiment(make_config(folder, gaussian=True))}
  costs = json.loads((folder / "run" / "costs.json").read_text())["unet3d"]
  assert smooth["predict unet3d, test"].status == "changed"
  assert smooth["predict unet3d, test"].seconds == pytest.approx(2 * costs["case_s"])
  assert smooth["predict unet3d, ensemble"].seconds == pytest.approx(2 * 2 * costs["case_s"])


def test_every_case_of_the_cross_validation_by_the_fold_that_did_not_see_it(finished):
  """Predicted again by hand, from the checkpoint whose training left the case out."""
  folder, _ = finished
  dataset = Dataset.open(folder / "run" / "dataset")
  for network in NETWORKS:
    out = folder / "run" / "predictions" / network / "cross_validation"
    folds = json.loads((out / "predictions.json").read_text())["settings"]["folds"]
    assert folds == {case.name: case.fold for case in dataset.cases}
    assert {path.name for path in out.glob("*.nii.gz")} == {f"{case.name}.nii.gz" for case in dataset.cases}
    case = dataset.fold_cases(1)[0]
    net, variables, metadata = restore(folder / "run" / TRAIN_FOLDERS[network] / str(case.fold))
    (source,) = (folder / "data").glob(f"*/{case.name}")
    volumes = [nib.load(source / f"{case.name}_{name}.nii.gz").get_fdata() for name in ("flair", "t1", "t1ce", "t2")]
    probabilities = predict_volume(net, variables, np.stack(volumes, -1), patch_size=metadata.patch_size)
    np.testing.assert_array_equal(labels_of(out / f"{case.name}.nii.gz"), BRATS2019.decode(probabilities))


def test_what_the_report_finds(finished):
  folder, _ = finished
  run = folder / "run"
  known = {case.name for case in Dataset.open(run / "dataset").cases}
  for network in NETWORKS:
    for split in SPLITS:
      cases = set(Scores.load(run / "scores" / network / split).cases)
      assert cases == ({"Phantom_0001", "Phantom_0002"} if split in ("test", "ensemble") else known)
    made_by = json.loads((run / "predictions" / network / "ensemble" / "predictions.json").read_text())["settings"]
    assert len(made_by["checkpoints"]) == 2
  costs = json.loads((run / "costs.json").read_text())
  assert set(costs) == set(NETWORKS)
  for found in costs.values():
    assert set(found) == {"parameters", "flops", "patch_size", "peak_bytes", "step_ms", "case_s", "device"}
    assert found["patch_size"] == 16
    assert min(found["parameters"], found["flops"], found["step_ms"], found["case_s"]) > 0
  said = json.loads((run / "experiment.json").read_text())
  assert (said["nested"], said["seeds"], said["test_dir"]) == (False, [0], str(folder / "test"))
  assert len(json.loads((run / "report" / "index.html").read_text())["scores"]) == 8
  # The last training starts from fold 0's parameters.
  settings = json.loads((run / "unet3d" / "all" / "config.json").read_text())["settings"]
  assert settings["init_from"] == str(run / "unet3d" / "0")


def test_other_settings_are_refused_and_nothing_is_lost(finished):
  folder, _ = finished
  before = files(folder / "run")
  for changes, message in (
    (dict(learning_rate=0.1), r"train/0 holds a run with other settings: learning_rate was 0\.001, is 0\.1"),
    (dict(tta=True), "cross_validation was predicted with inference=.*give --overwrite"),
    (dict(folds=3), "folds must be 2, those of .*, got 3; leave it out"),
    (dict(nested=True, folds=None), "nested searches need at least 3 folds, two to search on"),
    (dict(data_dir=folder / "nowhere"), "data_dir must be the folder of the cases, got"),
    (dict(portal_csv=["unet3d/test=nowhere.csv"]), "portal_csv must be a file, or NETWORK/SPLIT=FILE, got 'unet3d"),
    (dict(test_dir=folder / "data"), r"Phantom_0001 in .* is not unseen: it has the images of Phantom_0001"),
  ):
    with pytest.raises(InputError, match=message):
      experiment(make_config(folder, **changes))
  after = files(folder / "run")
  experiments = folder / "run" / "experiment.json"
  assert {path: time for path, time in after.items() if path != experiments} == {
    path: time for path, time in before.items() if path != experiments
  }


def test_the_control_trains_searched_and_random_networks_alike(finished, monkeypatch):
  folder, _ = finished
  monkeypatch.setitem(sys.modules, "nas3d_jax.report.build", fake_report())
  shutil.copytree(folder / "run", folder / "control" / "run")
  config = make_config(folder, workdir=folder / "control" / "run", random=1)
  parts = [part.name for part in plan_experiment(config) if part.status != "done"]
  own = [f"control, searched 0: {what} with seed 0" for what in ("train", "predict", "score")]
  assert parts[:5] == ["random genotype 0", "control, supernet of seed 0: losses of all genotypes", *own]
  assert len(parts) == 2 + 3 * 3
  before = files(config.root)
  experiment(config)
  assert {part.status for part in plan_experiment(config)} == {"done"}
  after = files(config.root)
  assert {path for path, time in before.items() if after[path] != time} == {
    config.root / "experiment.json", config.root / "report" / "index.html"
  }
  drawn = Genotype.from_json((config.root / "control" / "random" / "0" / "search" / "genotype.json").read_text())
  assert drawn == random_genotype(NetworkConfig(nodes=1), 0)
  material = Material.read(config.root)
  runs = read_control(config.root)
  assert [run[:3] for run in runs] == [("random", 0, 0), ("searched", 0, 0), ("unet3d", 0, 0)]
  # Trained as fold 0 of the experiment itself, with the genotype of the search.
  assert [record["loss"] for record in runs[1].history.records] == [
    record["loss"] for record in history(config.root / "train" / "0")
  ]
  fold = {case.name for case in Dataset.open(config.root / "dataset").fold_cases(0)}
  assert all(set(run.scores.cases) == fold for run in runs)
  assert runs[1].scores.cases == {
    case: values for case, values in material.scores["searched", "cross_validation"].cases.items() if case in fold
  }
  rows = [dict(zip(groups_table(material, runs).header, row, strict=True)) for row in groups_table(material, runs).rows]
  assert [row["group"] for row in rows] == ["searched genotypes", "random genotypes", "3D U-Net"]
  assert rows[0]["mean Dice"] == f"{dice_of([runs[1]]).mean():.4f}"
  assert int(rows[0]["parameters"].replace(",", "")) == material.costs["searched"]["parameters"]
  assert verdict(runs, 0).startswith("Whether the search beats random genotypes cannot be said with fewer than two")
  assert len(control_figure(runs).axes) == 1
  _check_supernet(config, material)


def test_each_weight_of_the_cost_is_searched_and_trained_with_every_seed(finished):
  folder, _ = finished
  # That of the searches is theirs already.
  config = make_config(folder, seeds=2, cost_weights=("0", "10", "1e1"))
  parts = [part.name for part in plan_experiment(config) if "control" in part.name]
  assert [name for name in parts if "search with" in name] == [
    f"control, search with cost_weight=10, {seed}" for seed in (0, 1)
  ]
  trained = [f"control, {name}: train with seed 0" for name in ("searched 0", "searched 1", "cost_10 0", "cost_10 1")]
  assert [name for name in parts if "train" in name] == [*trained, "control, unet3d: train with seed 0"]


def _check_supernet(config, material):
  """A supernet with the operations of a genotype alone is the derived network with its parameters of these."""
  genotypes = {"searched/0": config.genotype(0), "random/0": config.root / "control/random/0/search/genotype.json"}
  losses = read_losses(config.root)
  assert set(losses) == {"0"} and set(losses["0"]) == set(genotypes)
  net, variables, metadata = restore(config.root / "search", "last")
  dataset = Dataset.open(config.root / "dataset")
  sizes = dict(patch_size=metadata.patch_size, batch_size=1)
  stream = PatchStream(dataset, dataset.fold_cases(0), seed=0, skip_empty=True, replicas=ONE_DEVICE, **sizes)
  batches = [(item.batch, item.weight) for item in stream.host.one_pass()]
  for name, path in genotypes.items():
    genotype = Genotype.from_json(path.read_text())
    derived = DerivedNet(metadata.network, genotype)
    step = make_validation_step(derived)
    parameters = derived_variables(variables, genotype, net.config)
    expected = sum(float(step(parameters, *batch)) for batch in batches) / len(batches)
    assert losses["0"][name] == pytest.approx(expected, rel=1e-5)
  row = gap_table(dataclasses.replace(material, control=read_control(config.root)), losses).rows[0]
  last = material.search.records[-1]["validation_loss"]
  assert row[:2] == ("0", f"{last:.4f}") and row[3] == f"{losses['0']['searched/0'] - last:+.4f}"
  assert row[4].endswith("(patches of 16)")


def test_a_damaged_prediction_is_made_again_and_scored_anew(finished, monkeypatch):
  folder, _ = finished
  monkeypatch.setitem(sys.modules, "nas3d_jax.report.build", fake_report())
  copy = folder / "copy"
  shutil.copytree(folder / "run", copy / "run")
  lost = copy / "run" / "predictions" / "searched" / "test" / "Phantom_0002.nii.gz"
  original = lost.read_bytes()
  lost.unlink()
  config = make_config(folder, workdir=copy / "run")
  status = {part.name: part.status for part in plan_experiment(config)}
  assert status["predict searched, test"] == "begun"
  assert status["score searched, test"] == "changed"
  assert not any(state != "done" for name, state in status.items() if name.startswith(("search", "train", "prep")))
  experiment(config)
  assert lost.read_bytes() == original
  assert {part.status for part in plan_experiment(config)} == {"done"}
