"""Cross-validation: each case by the fold that did not see it, and a refusal wherever that is not so."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from launch.__main__ import main
from nas3d_jax.errors import InputError
from nas3d_jax.inference.config import InferenceChoices, PredictConfig
from nas3d_jax.inference.predict import predict_cases
from tests.inference.test_predict import labels_of, save_run

# What the regions WT, TC, ET give when painted: 2 from fold 0's network, 1 from fold 1's.
CONFIDENCES = {0: (0.9, 0.2, 0.1), 1: (0.9, 0.8, 0.1)}


@pytest.fixture
def run(workdir, phantom_dataset):
  """A run directory with the data set and a network of each fold, which says the same everywhere."""
  for fold, confidences in CONFIDENCES.items():
    save_run(workdir / "train" / str(fold), confidences)
    write_settings(workdir, fold, fold=fold, dataset=phantom_dataset.fingerprint, init_from=None)
  return workdir


@pytest.fixture
def data(phantom_dataset):
  return phantom_dataset.folder.parent / "data"


def write_settings(workdir, number, **settings):
  path = workdir / "train" / str(number) / "config.json"
  path.write_text(json.dumps({"settings": settings, "sessions": []}))


def config(run, data, **changes):
  return PredictConfig(**dict(workdir=run, cross_validation=True, data_dir=data, out=run / "out") | changes)


def test_each_case_is_predicted_by_its_own_fold(run, data, phantom_dataset):
  summary = predict_cases(config(run, data))
  assert set(summary.predicted) == {case.name for case in phantom_dataset.cases}
  for case in phantom_dataset.cases:
    painted = np.unique(labels_of(run / "out" / f"{case.name}.nii.gz"))
    assert painted.tolist() == [0, 2 if case.fold == 0 else 1]
    assert nib.load(run / "out" / f"{case.name}.nii.gz").shape == case.shape
  record = json.loads((run / "out" / "predictions.json").read_text())
  assert record["settings"]["folds"] == {case.name: case.fold for case in phantom_dataset.cases}
  assert len(record["settings"]["checkpoints"]) == 2
  again = predict_cases(config(run, data))
  assert (again.predicted, set(again.reused)) == ((), set(summary.predicted))
  for shard in ("2/2", "1/2"):
    predict_cases(config(run, data, out=run / "shards", shard=shard))
  one, several = ({path.name: path.read_bytes() for path in (run / name).iterdir()} for name in ("out", "shards"))
  assert one == several


def test_some_cases_by_the_command(run, data, phantom_dataset, capsys):
  name = phantom_dataset.fold_cases(1)[0].name
  where = [f"--workdir={run}", f"--data_dir={data}", f"--out={run / 'out'}", "--platform=cpu"]
  assert main(["predict", "--cross_validation", f"--cases={name}", *where]) == 0
  assert "1 cases predicted" in capsys.readouterr().out
  assert [path.name for path in (run / "out").glob("*.nii.gz")] == [f"{name}.nii.gz"]


def test_one_fold_before_the_others_are_trained(run, data, phantom_dataset):
  shutil.rmtree(run / "train" / "1")
  summary = predict_cases(config(run, data, fold=(0,)))
  own = {case.name for case in phantom_dataset.fold_cases(0)}
  assert set(summary.predicted) == own
  assert all(set(np.unique(labels_of(run / "out" / f"{name}.nii.gz"))) == {0, 2} for name in own)
  other = phantom_dataset.fold_cases(1)[0].name
  with pytest.raises(InputError, match=rf"{other} is in no such fold of .*; name labelled cases of fold 0$"):
    predict_cases(config(run, data, fold=(0,), cases=(other,)))
  with pytest.raises(InputError, match=r"fold must be below 2, the folds of .*, got 2"):
    predict_cases(config(run, data, fold=(0, 2)))


def test_a_missing_fold_is_named(run, data):
  shutil.rmtree(run / "train" / "1")
  with pytest.raises(InputError, match=r"fold 1 is missing: there is no training in .*train/1; train it with --fold=1"):
    predict_cases(config(run, data))
  assert not (run / "out").exists()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"fold": 0}, r"train/1 cannot predict the cases of fold 1: it was trained on cases of fold 1 \(fold=0\)"),
    ({"fold": "all"}, "it was trained on cases of fold 1"),
    ({"dataset": "other"}, "it was trained on another data set than"),
    ({"init_from": "run/train/0"}, r"it started from parameters that may have seen cases of fold 1 \(init_from="),
  ],
)
def test_a_training_that_saw_its_cases_is_refused(run, data, phantom_dataset, changes, message):
  write_settings(run, 1, **{"fold": 1, "dataset": phantom_dataset.fingerprint, "init_from": None, **changes})
  with pytest.raises(InputError, match=message):
    predict_cases(config(run, data))


def test_a_case_of_that_name_with_other_images_is_refused(run, data, phantom_dataset, tmp_path):
  """Or else a case that a fold was trained on could pass for one of that fold's."""
  first, second = phantom_dataset.fold_cases(0)[0].name, phantom_dataset.fold_cases(1)[0].name
  shutil.copytree(data, tmp_path / "data")
  (theirs,), (folder,) = data.glob(f"*/{second}"), (tmp_path / "data").glob(f"*/{first}")
  for path in theirs.iterdir():
    shutil.copy(path, folder / path.name.replace(second, first))
  with pytest.raises(InputError, match=rf"1 of the cases .*\n  {first}: its images in .* are not those of the data"):
    predict_cases(config(run, tmp_path / "data"))
  assert not (run / "out" / f"{first}.nii.gz").exists()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"cases": ("nobody",)}, "nobody is in no such fold of .*; name labelled cases of the data set"),
    ({"fold": (0, "all")}, 'fold "all" saw all cases and has none for a cross_validation; give numbers of folds'),
    ({"checkpoint": ("x",)}, "give either fold .* or checkpoint, .* got both"),
    ({"workdir": None}, "workdir and fold go together"),
    ({"network": "unet3d"}, "fold 0 is missing: there is no training in .*unet3d/0"),
    ({"network": "other"}, "network must be one of searched, unet3d, plain_unet, got 'other'"),
    ({"cases": ()}, "cases must name at least one case, or be None for all, got none"),
  ],
)
def test_what_is_refused(run, data, changes, message):
  with pytest.raises(InputError, match=message):
    predict_cases(config(run, data, **changes))


def test_a_case_that_is_not_there_does_not_keep_the_others_from_it(run, data, phantom_dataset, tmp_path):
  shutil.copytree(data, tmp_path / "data")
  shutil.rmtree(next((tmp_path / "data").glob("*/Phantom_0001")))
  next((tmp_path / "data").glob("*/Phantom_0002/*_t1.nii.gz")).unlink()
  with pytest.raises(InputError, match="2 of the cases cannot be predicted; 2 cases predicted, in ") as caught:
    predict_cases(config(run, tmp_path / "data"))
  _, first, second = str(caught.value).splitlines()
  assert first.startswith("  Phantom_0001: its images are not in ")
  assert second.startswith("  Phantom_0002: no t1 image Phantom_0002_t1.nii.gz")
  assert predict_cases(config(run, data)).predicted == ("Phantom_0001", "Phantom_0002")


def test_cases_that_are_not_there(run, tmp_path):
  (tmp_path / "empty" / "x").mkdir(parents=True)
  (tmp_path / "empty" / "x" / "x_t1.nii.gz").write_bytes(b"")
  with pytest.raises(InputError, match=r"the images of Phantom_0001, .* are not in .*empty, or not complete"):
    predict_cases(config(run, tmp_path / "empty"))


def test_named_cases_of_an_ordinary_prediction(run, data, phantom_dataset):
  names = tuple(case.name for case in phantom_dataset.cases[:2])
  wanted = config(run, data, cross_validation=False, fold=(0,), cases=names)
  assert predict_cases(wanted).predicted == names
  with pytest.raises(InputError, match=r"there is no case nobody in .*name cases that are there"):
    predict_cases(config(run, data, cross_validation=False, fold=(0,), cases=("nobody",), out=run / "other"))


def test_choices_of_inference_are_recorded_and_compared(run, data, phantom_dataset):
  name = phantom_dataset.cases[0].name
  wanted = dict(cross_validation=False, fold=(0,), cases=(name,))
  predict_cases(config(run, data, **wanted, choices=InferenceChoices(gaussian=True, overlap=0.25)))
  record = json.loads((run / "out" / "predictions.json").read_text())
  assert record["settings"]["inference"] == {
    "tta": False, "overlap": 0.25, "gaussian": True, "whole_volume": False, "patch_batch": 1, "min_component_ml": 0.0
  }  # fmt: skip
  with pytest.raises(InputError, match=r"was predicted with inference=.*give --overwrite"):
    predict_cases(config(run, data, **wanted))
  # Records from before there were choices were made without any.
  predict_cases(config(run, data, **wanted, overwrite=True))
  record = json.loads((run / "out" / "predictions.json").read_text())
  del record["settings"]["inference"]
  (run / "out" / "predictions.json").write_text(json.dumps(record))
  assert predict_cases(config(run, data, **wanted)).reused == (name,)


def test_small_components_are_taken_out_of_what_is_written(run, data, phantom_dataset):
  """A network that sees ET everywhere in the brain, whose volume is known from the images."""
  save_run(run / "train" / "all", (0.9, 0.8, 0.7))
  case = phantom_dataset.cases[0]
  ml = (phantom_dataset.image(case) != 0).any(-1).sum() / 1000
  wanted = dict(cross_validation=False, fold=("all",), cases=(case.name,), overwrite=True)
  for least, paint in ((0.999 * ml, 4), (1.001 * ml, 1)):
    predict_cases(config(run, data, **wanted, choices=InferenceChoices(min_component_ml=float(least))))
    assert np.unique(labels_of(run / "out" / f"{case.name}.nii.gz")).tolist() == [0, paint]
