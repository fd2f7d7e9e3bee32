"""Metrics against hand-worked cases, brute force over all pairs of voxels, and a real patient."""

import json
import statistics

import hypothesis
import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas3d_jax import metrics
from nas3d_jax.errors import InputError
from nas3d_jax.schema import BRATS2019

METHODS = ("hnfnetv1-20", "isen-20", "sanet0-20", "scan-20", "yixinmpl-20")


def box(shape, *ranges):
  mask = np.zeros(shape, bool)
  mask[tuple(slice(*r) for r in ranges)] = True
  return mask


def brute_surface(mask):
  """Voxels of the mask with one of 6 neighbours outside it, voxel by voxel."""
  voxels = {tuple(v) for v in np.argwhere(mask).tolist()}
  steps = [s for s in np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)]).tolist()]
  return sorted(
    v for v in voxels if any(tuple(np.add(v, s).tolist()) not in voxels for s in steps)
  )


def brute_hausdorff95(prediction, truth, spacing):
  """All pairs of surface voxels; the quantile by its textbook formula."""
  a, b = (np.array(brute_surface(m)) * np.array(spacing) for m in (prediction, truth))
  pairs = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

  def quantile(values):
    values = sorted(values.tolist())
    rank = 0.95 * (len(values) - 1)
    low = int(rank)
    high = min(low + 1, len(values) - 1)
    return values[low] + (rank - low) * (values[high] - values[low])

  return max(quantile(pairs.min(1)), quantile(pairs.min(0)))


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


class TestSurface:
  def test_of_a_cube_is_its_shell(self):
    cube = box((7, 7, 7), (1, 6), (1, 6), (1, 6))
    np.testing.assert_array_equal(
      metrics.surface(cube), cube & ~box((7, 7, 7), (2, 5), (2, 5), (2, 5))
    )

  def test_has_the_volumes_end(self):
    full = np.ones((3, 4, 5), bool)
    np.testing.assert_array_equal(
      metrics.surface(full), full & ~box((3, 4, 5), (1, 2), (1, 3), (1, 4))
    )

  def test_ignores_diagonal_neighbours(self):
    mask = np.ones((3, 3, 3), bool)
    mask[0, 0, 0] = False
    assert not metrics.surface(mask)[1, 1, 1]


class TestHausdorff95:
  @pytest.mark.parametrize(("axis", "expected"), [(0, 1.5), (1, 4.0), (2, 9.0)])
  def test_shifted_voxel_in_mm(self, axis, expected):
    truth = box((8, 8, 8), (2, 3), (2, 3), (2, 3))
    prediction = np.roll(truth, 2 if axis == 1 else 1 if axis == 0 else 3, axis)
    assert metrics.hausdorff95(prediction, truth, (1.5, 2, 3)) == pytest.approx(expected)

  def test_is_the_larger_direction_and_a_linear_quantile(self):
    # A line of 11 voxels against its first: distances 0..10 one way, 0 the other; rank 9.5.
    line, first = box((1, 1, 11), (0, 1), (0, 1), (0, 11)), box((1, 1, 11), (0, 1), (0, 1), (0, 1))
    assert metrics.hausdorff95(line, first, (1, 1, 1)) == pytest.approx(9.5)
    assert metrics.hausdorff95(first, line, (1, 1, 2)) == pytest.approx(19)

  def test_leaves_out_a_twentieth(self):
    # One stray voxel among 41 (rank 38 of 0..40 ascending is still on the common line).
    truth = box((3, 3, 200), (1, 2), (1, 2), (0, 40))
    stray = truth | box((3, 3, 200), (1, 2), (1, 2), (199, 200))
    assert metrics.hausdorff95(stray, truth, (1, 1, 1)) == 0

  def test_empty(self):
    some, none = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    assert metrics.hausdorff95(none, none, (1, 1, 1)) == 0
    assert metrics.hausdorff95(some, none, (1, 1, 1)) == 373.13
    assert metrics.hausdorff95(none, some, (1, 1, 1)) == 373.13

  @hypothesis.given(
    masks=hnp.arrays(
      bool,
      st.tuples(st.just(2), *[st.integers(1, 6)] * 3),
      elements=st.booleans(),
      fill=st.booleans(),
    ).filter(lambda m: m.any((1, 2, 3)).all()),
    spacing=st.tuples(*[st.sampled_from((0.5, 1.0, 1.7, 6.0))] * 3),
  )
  @hypothesis.settings(max_examples=60, deadline=None)
  def test_equals_brute_force(self, masks, spacing):
    expected = brute_hausdorff95(*masks, spacing)
    assert metrics.hausdorff95(*masks, spacing) == pytest.approx(expected, abs=1e-9)

  @pytest.mark.parametrize("density", [0.002, 0.02, 0.5])
  def test_sparse_and_ragged_masks_equal_brute_force(self, density):
    # Nearly empty masks take the k-d tree, dense noise the distance transform.
    masks = np.random.default_rng(3).random((2, 16, 14, 12)) < density
    spacing = (1.0, 0.7, 3.0)
    expected = brute_hausdorff95(*masks, spacing)
    assert metrics.hausdorff95(*masks, spacing) == pytest.approx(expected, abs=1e-9)


class TestScore:
  def test_regions_of_a_case(self):
    # Along the last axis: oedema, core, enhancing, two voxels each; the prediction has no
    # enhancing tumour and takes it for core.
    truth = np.zeros((2, 4, 10), np.uint8)
    truth[0, 0, 2:8] = [2, 2, 1, 1, 4, 4]
    prediction = np.where(truth == 4, 1, truth).astype(np.int16)
    result = metrics.score(prediction, truth, BRATS2019, (1, 1, 1))
    perfect = {"dice": 1, "sensitivity": 1, "specificity": 1, "hausdorff95": 0}
    missed = {"dice": 0, "sensitivity": 0, "specificity": 1, "hausdorff95": 373.13}
    assert result == {"WT": perfect, "TC": perfect, "ET": missed}
    assert [type(v) for m in result.values() for v in m.values()] == [float] * 12

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
      assert result[region] == {"dice": 1, "sensitivity": 1, "specificity": 1, "hausdorff95": 0}

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
        assert result[region]["dice"] == result[region]["sensitivity"] == (1 if empty else 0)
