"""What an experiment consists of: checked when made; nested searches; thresholds; cases without truth."""

import json
import shutil
from pathlib import Path

import pytest

import nas3d_jax.training.search
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.dataset.reference import open_dataset
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.errors import InputError
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.experiment.inputs import ExperimentInputs
from nas3d_jax.experiment.run import plan_experiment, spell
from nas3d_jax.experiment.stages import stages_of
from nas3d_jax.experiment.status import seconds_left
from tests.support.toy import ToySupernet

SIZES = dict(search_patch_size=8, search_epochs=1, patch_size=16, epochs=1, kernels=1, nodes=1, depth=2, levels=3)


def test_defaults_are_the_papers():
  config = ExperimentConfig.of(workdir="run")
  search, all_cases = config.search(), config.train("searched", "all")
  assert (search.patch_size, search.epochs, search.min_count, search.dropout) == (64, 100, 40, 0.1)
  assert (all_cases.patch_size, all_cases.epochs, all_cases.learning_rate, all_cases.dropout) == (128, 200, 1e-3, 0.5)
  assert all_cases.init_from == Path("run/train/0")
  unet = config.train("unet3d", 3)
  assert (unet.patch_size, unet.epochs, unet.learning_rate, unet.dropout) == (128, 200, 5e-4, 0.3)
  assert (unet.filters, unet.levels, unet.init_from, unet.genotype) == (16, 5, None, None)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(retrain_seeds=2), "retrain_seeds is of the comparison with random genotypes, got 2 without"),
    (dict(random=-1), "random must be a whole number of at least 0, got -1"),
    (dict(random=1, retrain_seeds=0), "retrain_seeds must be a whole number of at least 1, got 0"),
    (dict(cost_weights=("0.1", "-1")), "cost_weights must be numbers from 0 to 3.4e.38, got '-1'; give some as in"),
    (dict(cost_weights=("a lot",)), "cost_weights must be numbers from 0 to 3.4e.38, got 'a lot'"),
    (dict(method="random"), "method must be that of a search, got 'random'; give random=5 to compare with so many"),
    ({"seeds": 0}, "seeds must be a whole number of at least 1, got 0"),
    ({"folds": 1}, "folds must be a whole number of at least 2, got 1"),
    ({"nested": True, "folds": 2}, "nested searches need at least 3 folds, .* got folds=2"),
    ({"patch_size": 48}, "patch_size must be a multiple of 32"),
    ({"patch_size": 32, "levels": 7}, r"patch_size must be a multiple of 64 \(2 \*\* \(levels - 1\)\)"),
    ({"search_patch_size": 48}, "search_patch_size must be a multiple of 32"),
    ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
    ({"unet3d_dropout": 1.0}, r"dropout must be a number of at least 0 and below 1, got 1\.0"),
    ({"overlap": 2.0}, "overlap must be a number from 0 to below 1"),
    ({"portal_csv": ["x.csv"]}, "portal_csv holds scores of the cases of test_dir; give test_dir with it"),
    ({"choose_min_component": True, "min_component_ml": 0.1}, r"min_component_ml=0\.1 gives; leave out one of them"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_begins(fields, message):
  with pytest.raises(InputError, match=message):
    ExperimentConfig.of(workdir="run", **fields)


@pytest.fixture(scope="module")
def three_folds(tmp_path_factory):
  """Six cases of 24^3 in three folds, and their folder."""
  folder = tmp_path_factory.mktemp("three")
  write_phantoms(folder / "data", cases=6, seed=0, shape=(24, 24, 24))
  preprocess(folder / "data", folder / "run" / "dataset", folds=3)
  return folder


def names_of(config):
  return [part.name for part in stages_of(ExperimentInputs(config))]


def test_nested_searches_never_see_the_fold_that_they_are_for(three_folds, tmp_path, monkeypatch):
  monkeypatch.setattr(nas3d_jax.training.search, "Supernet", ToySupernet)
  shutil.copytree(three_folds / "run", tmp_path / "run")
  config = ExperimentConfig.of(workdir=tmp_path / "run", data_dir=three_folds / "data", nested=True, seeds=2, **SIZES)
  dataset = open_dataset(tmp_path / "run")
  parts = {part.name: part for part in stages_of(ExperimentInputs(config))}
  searches = [name for name in parts if name.startswith("search")]
  assert searches == ["search, seed 0", "search, seed 1", *(f"search, without fold {fold}" for fold in range(3))]
  for name in searches:
    assert parts[name].status() == "to do"
    parts[name].run()
    assert parts[name].status() == "done"
  for fold in range(3):
    nested = tmp_path / "run" / "nested" / str(fold)
    assert {case.fold for case in open_dataset(nested).cases} == {0, 1, 2} - {fold}
    settings = json.loads((nested / "search" / "config.json").read_text())["settings"]
    assert settings["fold"] == (fold + 1) % 3
    assert settings["dataset"] != dataset.fingerprint
    # What is trained for that fold is what was found without it, from drawn parameters.
    assert config.train("searched", fold).genotype == nested / "search" / "genotype.json"
  assert config.train("searched", "all").genotype == tmp_path / "run" / "search" / "genotype.json"
  assert config.train("searched", "all").init_from is None
  seeds = [json.loads((tmp_path / "run" / place / "search" / "config.json").read_text())["settings"]["seed"]
           for place in (".", "seeds/1")]  # fmt: skip
  assert seeds == [0, 1]


def test_stages_of_unseen_cases(three_folds, tmp_path):
  config = dict(workdir=three_folds / "run", data_dir=three_folds / "data", **SIZES)
  without = names_of(ExperimentConfig.of(**config))
  assert not any("test" in name or "ensemble" in name for name in without)
  write_phantoms(tmp_path / "test", cases=2, seed=5, shape=(24, 24, 24))
  with_truth = names_of(ExperimentConfig.of(**config, test_dir=tmp_path / "test", choose_min_component=True))
  assert set(with_truth) - set(without) == {
    *(f"{what} {network}, {split}" for what in ("predict", "score") for network in ("searched", "unet3d")
      for split in ("test", "ensemble")),
    "least component of searched", "least component of unet3d",
  }  # fmt: skip
  segmentations = sorted((tmp_path / "test").glob("*/*/*_seg.nii.gz"))
  segmentations[0].unlink()
  with pytest.raises(InputError, match="has no segmentation, though others do; add it, or move"):
    names_of(ExperimentConfig.of(**config, test_dir=tmp_path / "test"))
  segmentations[1].unlink()
  names = names_of(ExperimentConfig.of(**config, test_dir=tmp_path / "test"))
  assert "predict unet3d, ensemble" in names
  assert not any(name.startswith("score") and ("test" in name or "ensemble" in name) for name in names)


def test_an_unseen_case_under_another_name_is_found_out(three_folds, tmp_path):
  (source,) = (three_folds / "data").glob("*/Phantom_0003")
  for path in source.iterdir():
    (tmp_path / "test" / "New_1").mkdir(parents=True, exist_ok=True)
    shutil.copy(path, tmp_path / "test" / "New_1" / path.name.replace("Phantom_0003", "New_1"))
  config = ExperimentConfig.of(workdir=three_folds / "run", test_dir=tmp_path / "test", **SIZES)
  with pytest.raises(InputError, match=r"New_1 in .* is not unseen: it has the images of Phantom_0003 in"):
    plan_experiment(config)


def test_nothing_is_there_yet(three_folds, tmp_path):
  planned = plan_experiment(ExperimentConfig.of(workdir=tmp_path / "run", data_dir=three_folds / "data", **SIZES))
  assert {(part.status, part.seconds) for part in planned} == {("to do", None)}
  assert sum(part.name.startswith("train") for part in planned) == 12
  assert not (tmp_path / "run").exists()
  with pytest.raises(InputError, match="has no data set yet; give data_dir, the folder of the cases"):
    plan_experiment(ExperimentConfig.of(workdir=tmp_path / "run", **SIZES))


def test_time_left_by_hand(tmp_path):
  own, other = tmp_path / "own", tmp_path / "other"
  other.mkdir()
  (other / "metrics.jsonl").write_text("".join(json.dumps({"seconds": s}) + "\n" for s in (90.0, 10.0, 20.0)))
  assert seconds_left(own, 5, 8, {}) is None
  # The median epoch of 20 s on 4 cases is one of 40 s on 8.
  assert seconds_left(own, 5, 8, {other: 4}) == 5 * 40
  own.mkdir()
  # The second record was being written when the run was killed.
  (own / "metrics.jsonl").write_text(json.dumps({"seconds": 30.0}) + '\n{"seconds": 3')
  assert seconds_left(own, 5, 8, {other: 4}) == 4 * 30


@pytest.mark.parametrize(
  ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (95, "2 min"), (5400, "1.5 h"), (180000, "2.1 days")]
)
def test_times_as_a_person_says_them(seconds, text):
  assert spell(seconds) == text
