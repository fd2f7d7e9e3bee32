"""Evaluation of folders of NIfTI files: pairing, checks, reuse, and two real patients."""

import csv
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.cases.segmentations import find_segmentations
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.evaluate import evaluate
from nas3d_jax.evaluation.metrics import METRICS
from nas3d_jax.files.run_layout import PREDICTIONS_JSON, SCORES_CSV, SCORES_JSON
from nas3d_jax.inference.prediction_record import FORMAT, VERSION
from nas3d_jax.schema.builtin import BRATS2019

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
PERFECT = dict(zip(METRICS, (1, 1, 1, 0, 1, 0, 1), strict=False))


def perfect(voxels, size=6):
  """Scores of a region of so many voxels of so many cubic millimetres that was predicted as it is."""
  millilitres = pytest.approx(voxels * size / 1000)
  return {**PERFECT, "truth_ml": millilitres, "prediction_ml": millilitres}


def save(path, data, affine=AFFINE):
  path.parent.mkdir(parents=True, exist_ok=True)
  nib.save(nib.Nifti1Image(data, affine), path)
  return path


def labels():
  """8 x 6 x 5: one row of oedema, one of core, one of enhancing tumour."""
  volume = np.zeros((8, 6, 5), np.uint8)
  volume[2:6, 1, 2], volume[2:6, 2, 2], volume[2:6, 3, 2] = 2, 1, 4
  return volume


@pytest.fixture
def folders(tmp_path):
  """Two cases without images, one in a grade's folder, and perfect predictions of both."""
  truth, predictions = tmp_path / "data", tmp_path / "predictions"
  save(truth / "HGG" / "a" / "a_seg.nii.gz", labels())
  save(truth / "b" / "b_seg.nii", labels())
  save(predictions / "a.nii.gz", labels())
  save(predictions / "b.nii", labels())
  return predictions, truth, tmp_path / "out"


def test_only_predicted_leaves_out_truths_without_prediction(folders):
  predictions = folders[0]
  (predictions / "b.nii").unlink()
  with pytest.raises(InputError, match=r"no prediction b\.nii.*--only_predicted"):
    evaluate(*folders)
  assert list(evaluate(*folders, only_predicted=True).cases) == ["a"]
  with pytest.raises(InputError, match="only_predicted and cases both"):
    evaluate(*folders, cases=["a"], only_predicted=True)
  (predictions / "a.nii.gz").unlink()
  with pytest.raises(InputError, match=r"no case to score in .*predictions; give"):
    evaluate(*folders, only_predicted=True)


def test_only_predicted_still_wants_what_the_record_has_as_pending(folders):
  predictions, _, out = folders
  (predictions / "b.nii").unlink()
  record = {"format": FORMAT, "version": VERSION, "settings": {}, "cases": {"a": {}, "b": None}}
  (predictions / PREDICTIONS_JSON).write_text(json.dumps(record))
  with pytest.raises(InputError, match=r"b: no prediction .*not predicted yet"):
    evaluate(*folders, only_predicted=True)
  assert not out.exists()


def test_scores_every_case_and_writes_both_files(folders):
  predictions, _, out = folders
  shifted = np.roll(labels(), 1, axis=2)
  save(predictions / "b.nii", shifted.astype(np.float32))
  scores = evaluate(*folders)
  assert list(scores.cases) == ["a", "b"]
  assert scores.cases["a"] == {"WT": perfect(12), "TC": perfect(8), "ET": perfect(4)}
  # One voxel along the third axis is 3 mm: no overlap, and every voxel 3 mm away; 12 false
  # positives in 240 - 12 voxels of background.
  for region, size in (("WT", 12), ("TC", 8), ("ET", 4)):
    expected = {**perfect(size), "dice": 0, "sensitivity": 0, "hausdorff95": 3, "surface_dice": 0}
    expected["specificity"] = 1 - size / (240 - size)
    # Too small for a lesion.
    assert scores.cases["b"][region] == {n: v if n.endswith("ml") else pytest.approx(v) for n, v in expected.items()}
  with open(out / SCORES_CSV, newline="", encoding="utf-8") as file:
    rows = {(row["case"], row["region"]): row for row in csv.DictReader(file)}
  assert len(rows) == 6
  assert float(rows["b", "TC"]["hausdorff95"]) == 3
  content = json.loads((out / SCORES_JSON).read_text())
  assert content["summary"]["WT"]["dice"]["mean"] == 0.5
  assert sorted(path.name for path in out.iterdir()) == [SCORES_CSV, SCORES_JSON]


def test_affines_may_differ_by_rounding(folders):
  predictions, _, _ = folders
  save(predictions / "a.nii.gz", labels(), AFFINE + 1e-4)
  assert evaluate(*folders).cases["a"]["WT"] == perfect(12)


def test_every_missing_file_is_listed(folders):
  predictions, data, out = folders
  (predictions / "a.nii.gz").unlink()
  save(predictions / "stray.nii.gz", labels())
  save(predictions / "b.nii.gz", labels())
  save(data / "late" / "late_seg.nii.gz", labels())
  with pytest.raises(InputError) as error:
    evaluate(*folders)
  message = str(error.value)
  assert "4 of the cases cannot be scored, so nothing was written" in message
  assert re.search(r"\n  a: no prediction a.nii.gz or .nii in .*predictions; predict it", message)
  assert re.search(r"\n  b: it has 2 predictions: b.nii and b.nii.gz; keep one", message)
  assert re.search(r"\n  late: no prediction late.nii.gz", message)
  assert re.search(r"\n  stray: no segmentation stray_seg.nii.gz or .nii below .*data;", message)
  assert not out.exists()


def test_cases_names_what_is_scored(folders):
  predictions, data, _ = folders
  (predictions / "a.nii.gz").unlink()
  save(data / "odd" / "W39_Segm.nii", labels())
  assert list(evaluate(*folders, cases=["b"]).cases) == ["b"]


@pytest.mark.parametrize(
  ("cases", "message"),
  [
    (["a", "nobody"], r"1 of the cases.*\n  nobody: no pred(.|\n)*\n  nobody: no seg"),
    ([], "no case"),
  ],
)
def test_cases_that_are_not_there(folders, cases, message):
  with pytest.raises(InputError, match=message):
    evaluate(*folders, cases=cases)


def unscorable():
  other = labels()
  other[0, 0, 0] = 3
  half = labels().astype(np.float32)
  half[0, 0, 0] = 0.5
  moved = AFFINE.copy()
  moved[0, 3] = 1
  return {
    "label": (other, AFFINE, r"a.nii.gz has 1 voxels with values \(3\).*\(0, 1, 2, 4\)"),
    "fraction": (half, AFFINE, r"1 voxels with values \(0.5\)"),
    "NaN": (np.full((8, 6, 5), np.nan, np.float32), AFFINE, r"240 voxels with values \(nan\)"),
    "shape": (labels()[1:], AFFINE, r"shape \(7, 6, 5\), truth \(8, 6, 5\)"),
    "affine": (labels(), moved, r"prediction has the affine .* truth .*grid"),
  }


@pytest.mark.parametrize("kind", unscorable())
def test_a_prediction_that_does_not_fit(folders, kind):
  data, affine, message = unscorable()[kind]
  save(folders[0] / "a.nii.gz", data, affine)
  with pytest.raises(InputError, match=f"1 of the cases(.|\n)*  a: .*{message}"):
    evaluate(*folders)
  assert not folders[2].exists()


def test_every_bad_case_is_listed(folders):
  predictions, data, _ = folders
  content = (predictions / "a.nii.gz").read_bytes()
  (predictions / "a.nii.gz").write_bytes(content[: len(content) // 2])
  save(data / "b" / "b_seg.nii", np.full((8, 6, 5), 9, np.uint8))
  with pytest.raises(InputError) as error:
    evaluate(*folders, workers=1)
  assert re.search(r"  a: prediction a.nii.gz is truncated", str(error.value))
  assert re.search(r"  b: truth b_seg.nii has 240 voxels with values \(9\)", str(error.value))


class TestAgain:
  def test_same_files_are_reused(self, folders, capsys):
    first = evaluate(*folders)
    written = {path: path.stat().st_mtime_ns for path in folders[2].iterdir()}
    assert evaluate(*folders) == first
    assert "reused" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folders[2].iterdir()} == written

  def test_a_lost_table_is_written_again(self, folders):
    evaluate(*folders)
    before = (folders[2] / SCORES_CSV).read_text()
    (folders[2] / SCORES_CSV).unlink()
    evaluate(*folders)
    assert (folders[2] / SCORES_CSV).read_text() == before

  def test_other_files_need_overwrite(self, folders):
    evaluate(*folders)
    before = (folders[2] / SCORES_JSON).read_text()
    save(folders[0] / "b.nii", np.zeros((8, 6, 5), np.uint8))
    with pytest.raises(InputError, match=r"other files of b; give --overwrite"):
      evaluate(*folders)
    assert (folders[2] / SCORES_JSON).read_text() == before
    assert evaluate(*folders, overwrite=True).cases["b"]["ET"]["hausdorff95"] == 373.13

  def test_another_tolerance_needs_overwrite(self, folders):
    save(folders[0] / "b.nii", np.roll(labels(), 1, axis=2))
    assert evaluate(*folders).cases["b"]["WT"]["surface_dice"] == 0
    with pytest.raises(InputError, match=r"tolerance=1, got 3; give --overwrite"):
      evaluate(*folders, tolerance=3)
    # All is 3 mm away.
    assert evaluate(*folders, tolerance=3, overwrite=True).cases["b"]["WT"]["surface_dice"] == 1

  def test_a_foreign_table_is_not_lost(self, folders):
    folders[2].mkdir()
    (folders[2] / SCORES_CSV).write_text("mine")
    with pytest.raises(InputError, match="would be lost"):
      evaluate(*folders)
    assert (folders[2] / SCORES_CSV).read_text() == "mine"


class TestFindSegmentations:
  def test_images_and_hidden_files_are_passed_over(self, tmp_path):
    volume = labels()
    wanted = {
      "a": save(tmp_path / "HGG" / "a" / "a_seg.nii.gz", volume),
      "c": save(tmp_path / "LGG" / "c" / "c_seg.nii", volume),
    }
    save(tmp_path / "HGG" / "a" / "a_t1.nii.gz", volume)
    save(tmp_path / "HGG" / "a" / "._a_seg.nii.gz", volume)
    save(tmp_path / "LGG" / "unlabelled" / "unlabelled_flair.nii.gz", volume)
    assert find_segmentations(tmp_path) == (wanted, [])

  def test_linked_cases_are_found(self, tmp_path):
    save(tmp_path / "store" / "a" / "a_seg.nii.gz", labels())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").symlink_to(tmp_path / "store" / "a")
    assert list(find_segmentations(tmp_path / "data")[0]) == ["a"]

  def test_faults(self, tmp_path):
    volume = labels()
    save(tmp_path / "HGG" / "twice" / "twice_seg.nii.gz", volume)
    save(tmp_path / "LGG" / "twice" / "twice_seg.nii", volume)
    save(tmp_path / "c355" / "W39_1998.09.19_Segm.nii", volume)
    save(tmp_path / "c355" / "c355_t1.nii", volume)
    found, faults = find_segmentations(tmp_path)
    assert not found
    reasons = {fault.case: str(fault) for fault in faults}
    assert re.search(r"2 segmentations: .*HGG.* and .*LGG", reasons["twice"])
    assert re.search(
      r"no segmentation c355_seg.nii.*W39_1998.09.19_Segm.nii; rename", reasons["c355"]
    )


@pytest.mark.parametrize("index", [0, 1])
def test_a_folder_that_is_not_there(folders, index):
  shutil.rmtree(folders[index])
  name = ("predictions_dir", "data_dir")[index]
  with pytest.raises(InputError, match=f"{name} must be a folder.*, got .*mistyped"):
    evaluate(*folders)


@pytest.mark.parametrize("workers", [0, 1.5, True])
def test_workers_are_checked(folders, workers):
  with pytest.raises(InputError, match="workers"):
    evaluate(*folders, workers=workers)


def test_real_patients(shared, tmp_path):
  real = shared / "real"
  predictions = tmp_path / "predictions"
  predictions.mkdir()
  low, high = "BraTS19_TCGA_DU7294_1", "BraTS19_TCGA_FG6692_1"
  name = "isen-20.nii.gz"
  shutil.copy(real / "segmentations" / "TCGA-DU-7294" / name, predictions / f"{low}.nii.gz")
  shutil.copy(real / "cases" / "HGG" / high / f"{high}_seg.nii.gz", predictions / f"{high}.nii.gz")
  scores = evaluate(predictions, real / "cases", tmp_path / "out", schema=BRATS2019)
  for values in scores.cases[high].values():
    assert values == {**PERFECT, "truth_ml": values["truth_ml"], "prediction_ml": values["truth_ml"]}
    assert values["truth_ml"] > 1
  assert scores.cases[low]["ET"] == perfect(0)  # empty in both
  golden = json.loads((real / "segmentations" / "metrics_TCGA-DU-7294.json").read_text())[name]
  for region in ("WT", "TC"):
    got = scores.cases[low][region]
    assert got["dice"] == pytest.approx(golden[region]["dice"], abs=1e-6)
    assert got["hausdorff95"] == pytest.approx(golden[region]["hd95"], abs=1e-3)
