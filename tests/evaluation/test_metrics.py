"""Metrics against hand-worked cases and a real patient."""

import json
import statistics

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation import metrics
from nas3d_jax.schema.builtin import BRATS2019

METHODS = ("hnfnetv1-20", "isen-20", "sanet0-20", "scan-20", "yixinmpl-20")


def box(shape, *ranges):
  mask = np.zeros(shape, bool)
  mask[tuple(slice(*r) for r in ranges)] = True
  return mask


PERFECT = dict(zip(metrics.METRICS, (1, 1, 1, 0, 1, 0, 1), strict=False))


class TestOverlap:
  def test_counts_and_ratios(self):
    # 2 x 2 x 2 against 1 x 2 x 2 within it and one voxel beside, in 4 x 4 x 4 = 64 voxels.
    truth = box((4, 4, 4), (0, 2), (0, 2), (0, 2))
    prediction = box((4, 4, 4), (0, 1), (0, 2), (0, 2)) | box((4, 4, 4), (3, 4), (3, 4), (3, 4))
    overlap = metrics.Overlap.of(prediction, truth)
    assert overlap == metrics.Overlap(both=4, prediction=5, truth=8, volume=64)
    assert overlap.dice == pytest.approx(8 / 13)
    assert overlap.sensitivity == pytest.approx(1 / 2)
    assert overlap.specificity == pytest.approx(55 / 56)

  @pytest.mark.parametrize(
    ("prediction", "truth", "dice", "sensitivity", "specificity"),
    [(0, 0, 1, 1, 1), (5, 0, 0, 0, 0.95), (0, 5, 0, 0, 1), (100, 0, 0, 0, 0)],
  )
  def test_empty_regions(self, prediction, truth, dice, sensitivity, specificity):
    overlap = metrics.Overlap(both=0, prediction=prediction, truth=truth, volume=100)
    assert (overlap.dice, overlap.sensitivity) == (dice, sensitivity)
    assert overlap.specificity == pytest.approx(specificity)

  def test_truth_that_fills_the_volume(self):
    assert metrics.Overlap(both=7, prediction=7, truth=100, volume=100).specificity == 1


class TestScore:
  def test_regions_of_a_case(self):
    # Along the last axis: oedema, core, enhancing, two voxels each; the prediction has no
    # enhancing tumour and takes it for core.
    truth = np.zeros((2, 4, 10), np.uint8)
    truth[0, 0, 2:8] = [2, 2, 1, 1, 4, 4]
    prediction = np.where(truth == 4, 1, truth).astype(np.int16)
    result = metrics.score(prediction, truth, BRATS2019, (1, 1, 1))
    # Lesions of so few voxels are left out, so none is missed.
    missed = dict(zip(metrics.METRICS, (0, 0, 1, 373.13, 1, 0, 0), strict=False))
    assert result == {
      "WT": {**PERFECT, "truth_ml": 0.006, "prediction_ml": 0.006},
      "TC": {**PERFECT, "truth_ml": 0.004, "prediction_ml": 0.004},
      "ET": {**missed, "truth_ml": 0.002, "prediction_ml": 0},
    }
    assert [type(v) for m in result.values() for v in m.values()] == [float] * 27

  def test_volumes_and_tolerance_are_in_mm(self):
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[2:8, 2:8, 2:8] = 2  # 216 voxels, 152 of them surface
    prediction = np.roll(truth, 1, axis=0)
    result = metrics.score(prediction, truth, BRATS2019, (2, 1, 0.5))["WT"]
    assert (result["truth_ml"], result["prediction_ml"]) == (0.216, 0.216)
    assert result["lesion_dice"] == result["dice"] == pytest.approx(180 / 216)
    # Of each surface the far face, 36 voxels, is at most 2 mm from the other; so is all else, or nearer.
    assert metrics.score(prediction, truth, BRATS2019, (2, 1, 0.5), tolerance=2)["WT"]["surface_dice"] == 1
    assert result["surface_dice"] < 1
    assert result["hausdorff95"] == result["lesion_hausdorff95"] == 2

  @pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), True, "1"])
  def test_wrong_tolerance(self, tolerance):
    empty = np.zeros((3, 3, 3), np.uint8)
    with pytest.raises(InputError, match="tolerance must be a length in mm"):
      metrics.score(empty, empty, BRATS2019, (1, 1, 1), tolerance=tolerance)

  def test_specificity_counts_the_whole_volume(self):
    truth = np.zeros((10, 10, 10), np.uint8)
    prediction = truth.copy()
    truth[4, 4, 4:6] = 4
    prediction[4, 4, 5:8] = 4
    result = metrics.score(prediction, truth, BRATS2019, (1, 1, 1))
    assert result["WT"]["specificity"] == pytest.approx(996 / 998)
    assert result["WT"]["dice"] == pytest.approx(2 / 5)

  def test_all_background(self):
    empty = np.zeros((3, 3, 3), np.uint8)
    result = metrics.score(empty, empty, BRATS2019, (1, 1, 1))
    for region in BRATS2019.region_names:
      assert result[region] == {**PERFECT, "truth_ml": 0, "prediction_ml": 0}

  @pytest.mark.parametrize(
    ("prediction", "truth", "spacing", "message"),
    [
      (np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), (1, 1, 1), r"\(2, 2, 2\).*\(2, 2, 3\)"),
      (np.zeros((2, 2), int), np.zeros((2, 2), int), (1, 1, 1), r"prediction must be .*\(2, 2\)"),
      (np.zeros((2, 2, 2)), np.zeros((2, 2, 2), int), (1, 1, 1), "prediction .*float64"),
      (np.zeros((2, 2, 2), int), np.full((2, 2, 2), 3), (1, 1, 1), r"truth holds labels \[3\]"),
      (np.full((2, 2, 2), -1), np.zeros((2, 2, 2), int), (1, 1, 1), r"prediction .*\[-1\]"),
      (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1, 0, 1), "spacing .*mm"),
      (np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), (1, 1), "spacing .*mm"),
    ],
  )
  def test_wrong_input(self, prediction, truth, spacing, message):
    with pytest.raises(InputError, match=message):
      metrics.score(prediction, truth, BRATS2019, spacing)


class TestSummarize:
  @pytest.mark.parametrize("values", [[3.0], [1.0, 2.0, 4.0, 9.0], [0.5, 0.1, 0.9, 0.4, 0.2]])
  def test_equals_the_statistics_module(self, values):
    summary = metrics.summarize(iter(values))
    cuts = (
      statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    expected = {
      "count": len(values),
      "mean": statistics.fmean(values),
      "std": statistics.pstdev(values),
      "min": min(values),
      "q25": cuts[0],
      "median": statistics.median(values),
      "q75": cuts[2],
      "max": max(values),
    }
    assert tuple(summary) == metrics.STATISTICS
    assert summary == pytest.approx(expected)

  def test_of_nothing(self):
    with pytest.raises(InputError, match="at least one case"):
      metrics.summarize([])


@pytest.fixture(scope="module")
def expected_scores(shared):
  return json.loads((shared / "real" / "segmentations" / "metrics_TCGA-DU-7294.json").read_text())


@pytest.fixture(scope="module")
def truth(real_cases):
  name = "BraTS19_TCGA_DU7294_1"
  volume = nib.load(real_cases / "LGG" / name / f"{name}_seg.nii.gz")
  return np.asanyarray(volume.dataobj)


class TestRealPatient:
  """Counts of NumPy and distances of MONAI 1.6.1 on what five algorithms said of a patient."""

  @pytest.mark.parametrize("method", METHODS)
  def test_golden(self, shared, expected_scores, truth, method):
    file = shared / "real" / "segmentations" / "TCGA-DU-7294" / f"{method}.nii.gz"
    prediction = np.asanyarray(nib.load(file).dataobj)
    result = metrics.score(prediction, truth, BRATS2019, (1, 1, 1))
    masks = [np.moveaxis(BRATS2019.region_masks(v), -1, 0) for v in (prediction, truth)]
    for region, predicted, true in zip(BRATS2019.region_names, *masks, strict=True):
      expected = expected_scores[file.name][region]
      overlap = metrics.Overlap.of(predicted, true)
      counts = (overlap.both, overlap.prediction, overlap.truth)
      assert counts == (expected["tp"], expected["p"], expected["t"])
      for ratio in {"dice", "sensitivity", "specificity"} & set(expected):
        assert result[region][ratio] == pytest.approx(expected[ratio], abs=1e-6)
      if "hd95" in expected:
        assert result[region]["hausdorff95"] == pytest.approx(expected["hd95"], abs=1e-3)
      else:  # the patient has no enhancing tumour
        empty = expected["p"] == 0
        assert result[region]["hausdorff95"] == (0 if empty else 373.13)
        for ratio in ("dice", "sensitivity", "lesion_dice", "surface_dice"):
          assert result[region][ratio] == (1 if empty else 0)
        assert result[region]["lesion_hausdorff95"] == (0 if empty else 374)
      assert result[region]["truth_ml"] == pytest.approx(expected["t"] / 1000)
      assert result[region]["prediction_ml"] == pytest.approx(expected["p"] / 1000)
