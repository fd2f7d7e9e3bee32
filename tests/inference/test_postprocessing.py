"""Small components of the innermost region, by hand, and the threshold that is chosen on known truth."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.component_threshold import choose_min_component
from nas3d_jax.evaluation.metrics import score
from nas3d_jax.inference.postprocessing import components_ml, remove_small
from nas3d_jax.schema.builtin import BRATS2019, BRATS2024
from nas3d_jax.schema.schema import Region

SPACING = (1.0, 2.0, 5.0)  # 10 mm3, 0.01 ml a voxel


def three_spots():
  """Enhancing spots of 1 and 3 voxels (the latter joined by corners) and one of 8, in core and in oedema."""
  labels = np.zeros((12, 12, 12), np.uint8)
  labels[1:11, 1:11, 1:11] = 2
  labels[2:5, 2:5, 2:5] = 1
  labels[3, 3, 3] = 4
  for k in (6, 7, 8):
    labels[k, k, k] = 4
  labels[1:3, 8:10, 8:10] = 4
  return labels


@pytest.mark.parametrize(("least", "kept"), [(0.0, 12), (0.01, 12), (0.02, 11), (0.031, 8), (0.08, 8), (0.081, 0)])
def test_components_below_the_volume_are_removed(least, kept):
  labels = three_spots()
  got = remove_small(labels, BRATS2019, SPACING, least)
  assert (got == 4).sum() == kept
  # A voxel taken out of ET stays in TC, whatever lies around it: TC's own label is 1.
  np.testing.assert_array_equal(got[labels != 4], labels[labels != 4])
  assert set(np.unique(got[(labels == 4) & (got != 4)])) <= {1}
  assert (labels == 4).sum() == 12  # a copy


def test_a_cavity_is_not_the_innermost_region():
  labels = three_spots()
  labels[labels == 4] = 3
  labels[0, 0, :3] = 4
  got = remove_small(labels, BRATS2024, SPACING, 1e6)
  # ET goes, to the label of TC; the cavity, the last of the regions, stays.
  np.testing.assert_array_equal(got, np.where(labels == 3, 1, labels))


def test_volumes_of_components():
  components, sizes = components_ml(three_spots() == 4, SPACING)
  np.testing.assert_allclose(sorted(sizes), [0.01, 0.03, 0.08])
  assert components.max() == 3


def test_a_single_region_becomes_background():
  schema = dataclasses.replace(BRATS2019, regions=(Region("WT", (1, 2, 4), 2),))
  got = remove_small(three_spots(), schema, SPACING, 1e6)
  assert not got.any()


def test_a_schema_without_a_label_for_the_rest_is_refused():
  schema = dataclasses.replace(
    BRATS2019, labels=((0, "background"), (1, "core")), regions=(Region("A", (1,), 1), Region("B", (1,), 1))
  )
  labels = np.zeros((4, 4, 4), np.uint8)
  labels[1, 1, 1] = 1
  with pytest.raises(InputError, match=r"schema 'brats2019' has no label for what is not 'B' .*min_component_ml"):
    remove_small(labels, schema, SPACING, 1.0)


@pytest.fixture
def folders(tmp_path):
  """Case a has ET of 8 voxels and a false one of 3; case b has none and 1 false voxel; 0.01 ml a voxel."""
  affine = np.diag([*SPACING, 1])
  for name in "ab":
    truth, prediction = np.zeros((2, 12, 12, 12), np.uint8)
    if name == "a":
      truth[1:3, 8:10, 8:10] = prediction[1:3, 8:10, 8:10] = 4
      prediction[6:9, 6, 6] = 4
    else:
      prediction[3, 3, 3] = 4
    paths = tmp_path / "data" / name / f"{name}_seg.nii.gz", tmp_path / "predictions" / f"{name}.nii.gz"
    for path, array in zip(paths, (truth, prediction), strict=True):
      path.parent.mkdir(parents=True, exist_ok=True)
      nib.save(nib.Nifti1Image(array, affine), path)
  return tmp_path / "predictions", tmp_path / "data"


def test_the_threshold_of_the_highest_mean_dice_is_chosen(folders):
  choice = choose_min_component(*folders, ["a", "b"], candidates=(0.2, 0.0, 0.05, 0.02, 0.1))
  # Case a: 16 / 19 with the false spot, 1 without, 0 with nothing left; case b: 0 with the false voxel, then 1.
  want = {0.0: 8 / 19, 0.02: (16 / 19 + 1) / 2, 0.05: 1.0, 0.1: 0.5, 0.2: 0.5}
  assert choice.dice == pytest.approx(want)
  assert (choice.region, choice.min_component_ml) == ("ET", 0.05)
  assert choice.to_dict()["tried"][0] == {"min_component_ml": 0.0, "dice": pytest.approx(8 / 19)}


@pytest.mark.parametrize("least", [0.0, 0.02, 0.05, 0.1])
def test_its_dice_is_that_of_the_scores_after_removal(folders, least):
  choice = choose_min_component(*folders, ["a", "b"], candidates=(least,))
  found = []
  for name in "ab":
    paths = folders[0] / f"{name}.nii.gz", folders[1] / name / f"{name}_seg.nii.gz"
    prediction, truth = (np.asarray(nib.load(path).dataobj) for path in paths)
    removed = remove_small(prediction, BRATS2019, SPACING, least)
    found.append(score(removed, truth, BRATS2019, SPACING)["ET"]["dice"])
  assert choice.dice[least] == pytest.approx(np.mean(found))


def test_of_equals_the_smallest_is_chosen(folders):
  assert choose_min_component(*folders, ["b"], candidates=(0.5, 0.02, 0.05)).min_component_ml == 0.02


def test_a_case_without_truth_is_refused(folders):
  with pytest.raises(InputError, match=r"there is no segmentation of c in .*give cases with truth"):
    choose_min_component(*folders, ["a", "c"])
  with pytest.raises(InputError, match="cases and candidates must not be empty"):
    choose_min_component(*folders, [])
