"""Data sets of cases that differ in orientation and voxel size: one geometry, the same arrays from whatever files."""

import json

import numpy as np
import pytest

from launch.__main__ import main
from nas3d_jax.data.cases.find_and_read import find_cases
from nas3d_jax.data.dataset import staging
from nas3d_jax.data.dataset.common_geometry import common_geometry
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.intensities import PAPER_INTENSITIES, Intensities
from nas3d_jax.data.phantom import phantom_case
from nas3d_jax.errors import InputError
from nas3d_jax.report.case_views import dataset_view
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.schema.geometry import Geometry
from tests.support.grids import HALVED, LPS, halved, write_case

SHAPE = (20, 18, 16)
BRATS = Geometry("LPS", (1, 1, 1))


@pytest.fixture(scope="module")
def patients():
  return {name: phantom_case(seed, SHAPE) for seed, name in enumerate("abcd", 1)}


def test_whatever_way_the_axes_run_the_data_set_is_the_same(patients, tmp_path, capfd):
  for name, (image, labels) in patients.items():
    write_case(tmp_path / "plain", name, image, labels)
    write_case(tmp_path / "mixed", name, image, labels, codes={"b": "RAS", "d": "ASL"}.get(name))
  plain = preprocess(tmp_path / "plain", tmp_path / "1", folds=2)
  assert "geometry: LPS, 1 x 1 x 1 mm, in which 4 of 4 cases are\n" in capfd.readouterr().err
  mixed = preprocess(tmp_path / "mixed", tmp_path / "2", folds=2)
  said = capfd.readouterr().err
  assert "geometry: LPS, 1 x 1 x 1 mm, in which 2 of 4 cases are\nturned: b, d\n" in said
  assert "resampled" not in said
  assert plain.geometry == mixed.geometry == BRATS
  assert json.loads((tmp_path / "2" / "manifest.json").read_text())["geometry"] == BRATS.to_dict()
  for one, other in zip(plain.cases, mixed.cases, strict=True):
    np.testing.assert_array_equal(mixed.image(other), plain.image(one))
    assert mixed.image(other).dtype == np.int16
    np.testing.assert_array_equal(mixed.labels(other), plain.labels(one))
    fields, expected = other.to_dict(), one.to_dict()
    np.testing.assert_allclose(fields.pop("affine"), expected.pop("affine"), atol=1e-6)
    # Of other files, but else the same.
    assert fields.pop("checksums").keys() == expected.pop("checksums").keys()
    assert fields == expected


@pytest.fixture
def coarse(patients, tmp_path):
  """Three cases at 1 mm, one in slices of 2 mm that run from the left."""
  for name, (image, labels) in patients.items():
    if name == "c":
      write_case(tmp_path / "data", name, halved(image), halved(labels), affine=HALVED, codes="RPS")
    else:
      write_case(tmp_path / "data", name, image, labels)
  return tmp_path / "data"


def test_a_case_of_other_voxels_is_resampled(patients, coarse, tmp_path, capfd):
  dataset = preprocess(coarse, tmp_path / "out", folds=2)
  assert "in which 3 of 4 cases are\nresampled: c\n" in capfd.readouterr().err
  image, labels = patients["c"]
  case = dataset.cases[2]
  assert (case.shape, case.spacing) == (SHAPE, (1, 1, 1))
  np.testing.assert_allclose(case.affine, LPS, atol=1e-6)
  stored, truth = np.zeros((*SHAPE, 4), np.float32), np.zeros(SHAPE, np.uint8)
  box = tuple(slice(*side) for side in case.cube)
  stored[box], truth[box] = dataset.image(case), dataset.labels(case)
  assert dataset.image(case).dtype == np.float32
  assert dataset.image(dataset.cases[0]).dtype == np.int16
  # Each slice twice, and nothing but that where there is brain.
  np.testing.assert_array_equal(truth, halved(labels).repeat(2, 2))
  np.testing.assert_array_equal(stored.any(-1), halved(image).repeat(2, 2).any(-1))
  assert case.label_counts == {v: int((truth == v).sum()) for v in (0, 1, 2, 4)}
  brain = stored.any(-1) & image.any(-1)
  difference = np.abs(stored - image)[brain]
  assert np.median(difference) < 60  # of intensities about 500, from noise of 18 and averaging over 2 mm
  assert stored[stored.any(-1)].min() >= halved(image)[halved(image) != 0].min() - 1e-2


def test_a_report_lays_a_prediction_over_the_case_on_the_grid_of_the_data_set(coarse, tmp_path, patients):
  dataset = preprocess(coarse, tmp_path / "out", folds=2)
  prediction = coarse / "c" / "c_seg.nii.gz"  # on the grid of its files
  view = dataset_view(dataset, "c", {"searched": prediction})
  np.testing.assert_array_equal(view.labels["searched"], view.labels["truth"])
  assert view.image.shape[:3] == view.labels["searched"].shape
  with pytest.raises(InputError, match=r"b_seg.nii.gz has shape .*predict the case again"):
    write_case(tmp_path / "other", "b", *(array[:-2] for array in patients["b"]))
    dataset_view(dataset, "c", {"searched": tmp_path / "other" / "b" / "b_seg.nii.gz"})


def test_anisotropic_cases_keep_their_voxels(patients, tmp_path):
  affine = np.diag([-1.0, -1, 3, 1])
  for name, (image, labels) in patients.items():
    write_case(tmp_path / "data", name, image, labels, affine=affine)
  dataset = preprocess(tmp_path / "data", tmp_path / "out", folds=2)
  assert dataset.geometry == Geometry("LPS", (1, 1, 3))
  image, _ = patients["a"]
  box = tuple(slice(*side) for side in dataset.cases[0].cube)
  np.testing.assert_array_equal(dataset.image(dataset.cases[0]), image[box])


def test_a_geometry_that_is_asked_for_by_the_command(coarse, tmp_path, capsys):
  run = ["preprocess", f"--data_dir={coarse}", f"--workdir={tmp_path}", "--folds=2"]
  assert main([*run, "--orientation=RAS", "--spacing=2,2,2"]) == 0
  assert "dataset; RAS, 2 x 2 x 2 mm\n" in capsys.readouterr().out
  dataset = Dataset.open(tmp_path / "dataset")
  assert dataset.geometry == Geometry("RAS", (2, 2, 2))
  assert {case.shape for case in dataset.cases} == {(10, 9, 8)}
  assert main([*run, "--orientation=RAS", "--spacing=2,2,2.0001"]) == 0
  assert main(run) == 0
  assert "reused" in capsys.readouterr().err
  for flag in ("--spacing=1,1,1", "--orientation=LPS"):
    assert main([*run, flag]) == 2
    assert "was made with the geometry RAS, 2 x 2 x 2 mm, got" in capsys.readouterr().err
  assert main([*run, "--orientation=LPS", "--overwrite"]) == 0
  assert "dataset; LPS, 1 x 1 x 1 mm\n" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--orientation=LPX", "orientation must be three letters, one each of R or L, A or P, S or I, got 'LPX'"),
    ("--spacing=1,1", "spacing must be three lengths in mm, each above 0, got (1.0, 1.0)"),
    ("--spacing=1,1,0", "spacing must be three lengths in mm, each above 0"),
    ("--spacing=1,1,x", "spacing must be three lengths in mm, each above 0, got 1,1,x"),
    ("--spacing=0.01,1,1", "cannot be brought to LPS, 0.01 x 1 x 1 mm, it would have 2000 x 18 x 16; check"),
  ],
)
def test_a_geometry_that_is_none(coarse, tmp_path, capsys, flag, message):
  run = ["preprocess", f"--data_dir={coarse}", f"--workdir={tmp_path / 'run'}", "--folds=2"]
  assert main([*run, flag]) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "run" / "dataset").exists()


def test_a_header_that_cannot_be_read_is_left_to_whoever_reads_the_case(coarse):
  found, _ = find_cases(coarse)
  (coarse / "a" / "a_flair.nii.gz").write_bytes(b"\x1f\x8bnothing")
  settled = common_geometry(found, None, None, 2)
  assert sorted(settled.found) == ["b", "c", "d"]
  assert settled.chosen == BRATS
  assert common_geometry(found[:1], None, None, 1) is None


def test_what_was_stored_for_another_geometry_is_not_gone_on_with(tmp_path):
  same, turned = (
    staging.mark(BRATS2019, geometry, PAPER_INTENSITIES) for geometry in (BRATS, Geometry("LPS", (1, 1, 2)))
  )
  other = staging.mark(BRATS2019, BRATS, Intensities("all", ("zscore",) * 4))
  partial = staging.prepare(tmp_path / "out", [], same, fresh=False)
  (partial / "records" / "a.json").write_text("{}")
  assert staging.prepare(tmp_path / "out", [], same, fresh=False) == partial
  assert (partial / "records" / "a.json").exists()
  for changed in (turned, other):
    staging.prepare(tmp_path / "out", [], changed, fresh=False)
    assert not (partial / "records" / "a.json").exists()
    (partial / "records" / "a.json").write_text("{}")
