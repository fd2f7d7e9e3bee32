"""Choices of inference: each by hand on answers that are known, and what excludes what."""

import itertools

import numpy as np
import pytest

from nas3d_jax.data.patches.grid import PatchAverage, gaussian_weights, overlapping_starts, patch_starts
from nas3d_jax.errors import InputError
from nas3d_jax.inference.config import PAPER, InferenceChoices
from nas3d_jax.inference.volume import in_one_pass, in_patches, mirrored, predict_mean


def test_defaults_are_the_papers():
  off = dict(tta=False, overlap=0.0, gaussian=False, whole_volume=False, patch_batch=1, min_component_ml=0.0)
  assert PAPER.to_dict() == off


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"tta": 1}, "tta must be True or False, got 1"),
    ({"overlap": 1.0}, r"overlap must be a number from 0 to below 1, got 1\.0"),
    ({"overlap": -0.1}, "overlap must be a number from 0"),
    ({"patch_batch": 0}, "patch_batch must be a whole number of at least 1, got 0"),
    ({"min_component_ml": float("nan")}, "min_component_ml must be a number of at least 0, got nan"),
    ({"whole_volume": True, "gaussian": True}, "whole_volume takes no patches: leave out overlap, gaussian"),
    ({"whole_volume": True, "overlap": 0.5}, "whole_volume takes no patches"),
    ({"whole_volume": True, "patch_batch": 2}, "whole_volume takes no patches"),
  ],
)
def test_what_is_refused(fields, message):
  with pytest.raises(InputError, match=message):
    InferenceChoices(**fields)


def test_mirroring_by_hand():
  """A step that looks at a corner and says it everywhere: the mean over the flips is the mean of the 8 corners."""
  calls = []

  def corner(variables, patch, low, high):
    calls.append(np.asarray(patch))
    return np.full((*patch.shape[:3], 1), patch[0, 0, 0, 0], np.float32)

  patch = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype(np.float32)
  got = mirrored(corner)(None, patch, None, None)
  corners = [patch[where][0] for where in itertools.product((0, -1), repeat=3)]
  np.testing.assert_allclose(got, np.full((4, 4, 4, 1), np.mean(corners)), rtol=1e-5)
  assert len({call.tobytes() for call in calls}) == 8


@pytest.mark.parametrize("lead", [(), (2,)])
def test_mirrored_answers_are_mirrored_back(lead):
  """Shifting is not symmetric: to the left and to the right by one, averaged over the flips of that axis."""
  patch = np.random.default_rng(1).normal(size=(*lead, 4, 6, 8, 2)).astype(np.float32)

  def shift(variables, patch, low, high):
    return np.roll(patch, 1, axis=-3)

  got = mirrored(shift)(None, patch, None, None)
  both = (np.roll(patch, 1, -3) + np.roll(patch, -1, -3)) / 2
  np.testing.assert_allclose(got, both, rtol=1e-5, atol=1e-6)
  for along, expected in (("H", both), ("DH", both), ("DW", np.roll(patch, 1, -3))):
    np.testing.assert_allclose(mirrored(shift, along)(None, patch, None, None), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("brain", "patch", "overlap", "starts"),
  [
    (20, 8, 0.5, (0, 4, 8, 12)),
    (20, 8, 0.25, (0, 6, 12)),
    (21, 8, 0.25, (0, 4, 8, 13)),
    (9, 8, 0.9, (0, 1)),
    (12, 10, 0.9, (0, 1, 2)),  # 10 * (1 - 0.9) is 1, whatever floating point says
    (8, 8, 0.5, (0,)),
    (5, 8, 0.5, patch_starts(5, 8)),
  ],
)
def test_overlapping_starts_by_hand(brain, patch, overlap, starts):
  assert overlapping_starts(brain, patch, overlap) == starts


@pytest.mark.parametrize(("brain", "patch"), [(37, 8), (64, 16), (129, 32), (17, 16)])
@pytest.mark.parametrize("overlap", [0.01, 0.3, 0.5, 0.75])
def test_neighbours_overlap_by_at_least_that_and_cover_the_brain(brain, patch, overlap):
  starts = overlapping_starts(brain, patch, overlap)
  assert (starts[0], starts[-1]) == (0, brain - patch)
  strides = [b - a for a, b in itertools.pairwise(starts)]
  assert all(stride > 0 and patch - stride >= overlap * patch - 1e-9 for stride in strides)


def test_an_overlap_out_of_range_is_refused():
  with pytest.raises(InputError, match=r"overlap must be a number from 0 to below 1, got 1\.5"):
    overlapping_starts(20, 8, 1.5)


def test_gaussian_weights_by_hand():
  weights = gaussian_weights(8)
  # The deviation is 1 voxel, the centre between voxels 3 and 4.
  assert weights.shape == (8, 8, 8, 1)
  np.testing.assert_allclose(weights[3, 4, 4, 0], np.exp(-3 * 0.5**2 / 2), rtol=1e-6)
  np.testing.assert_allclose(weights[0, 4, 3, 0], np.exp(-(3.5**2 + 2 * 0.5**2) / 2), rtol=1e-6)
  np.testing.assert_array_equal(weights, weights[::-1, ::-1, ::-1])
  assert weights.min() > 0


def test_weighted_overlaps_by_hand():
  # Two patches of 8 share the voxels 4 to 7 of 12; in each, weights fall off from its own centre.
  weights = gaussian_weights(8)
  average = PatchAverage((8, 12, 8), 1, weights)
  for start, value in (((0, 0, 0), 1.0), ((0, 4, 0), 3.0)):
    average.add(start, np.full((8, 8, 8, 1), value, np.float32))
  line = np.exp(-((np.arange(8) - 3.5) ** 2) / 2)
  shared = (line[4:] + 3 * line[:4]) / (line[4:] + line[:4])
  np.testing.assert_allclose(average.result()[2, :, 5, 0], [1] * 4 + shared.tolist() + [3] * 4, rtol=1e-5)


def test_patches_in_batches_are_the_same_as_one_by_one():
  cube = np.random.default_rng(2).integers(1, 9, (12, 9, 20, 2))
  sizes, seen = [], []

  def forward(patch):
    sizes.append(patch.shape)
    return patch[..., :1] / 8

  one = in_patches(forward, cube, 8, 1)
  # 2 x 2 x 3 patches in batches of 5: the last is filled up, so that one compilation serves.
  batched = in_patches(
    forward, cube, 8, 1, choices=InferenceChoices(patch_batch=5), on_patch=lambda *counts: seen.append(counts)
  )
  np.testing.assert_array_equal(one, batched)
  assert sizes[-3:] == [(5, 8, 8, 8, 2)] * 3
  assert seen == [(5, 12), (10, 12), (12, 12)]


def test_the_overlap_asked_for_is_what_is_computed():
  starts = []
  cube = np.stack(np.meshgrid(*(np.arange(1, n + 1) for n in (8, 16, 8)), indexing="ij"), -1)

  def forward(patch):
    starts.append(int(patch[0, 0, 0, 1]) - 1)
    return patch[..., :1]

  got = in_patches(forward, cube, 8, 1, choices=InferenceChoices(overlap=0.5, gaussian=True))
  assert starts == [0, 4, 8]
  np.testing.assert_allclose(got, cube[..., :1], rtol=1e-6)


@pytest.mark.parametrize(("cube", "padded"), [((7, 8, 9), (8, 8, 16)), ((16, 1, 15), (16, 8, 16))])
def test_a_whole_volume_is_padded_to_the_multiple_and_cut_back(cube, padded):
  image = np.random.default_rng(3).integers(1, 9, (*cube, 2)).astype(np.int16)
  seen = []

  def forward(volume):
    seen.append(volume)
    return volume[..., 1:] * 2

  np.testing.assert_array_equal(in_one_pass(forward, image, 8), image[..., 1:] * 2)
  (volume,) = seen
  assert (volume.shape, volume.dtype) == ((*padded, 2), np.float32)
  assert volume.sum() == image.sum()  # zeros all around


def test_choices_reach_the_prediction():
  """One pass, 8 times mirrored, over the brain's box alone."""
  shapes = []

  def step(variables, patch, low, high):
    shapes.append(patch.shape)
    return np.asarray(patch)[..., :1] / 16

  volume = np.zeros((12, 14, 16, 1), np.int16)
  volume[2:11, 3:10, 1:15] = np.random.default_rng(4).integers(1, 9, (9, 7, 14, 1))
  choices = InferenceChoices(whole_volume=True, tta=True)
  got = predict_mean([(step, None)], volume, patch_size=8, regions=1, multiple=4, choices=choices)
  np.testing.assert_allclose(got, volume / np.float32(16), rtol=1e-6)
  assert shapes == [(12, 8, 16, 1)] * 8
