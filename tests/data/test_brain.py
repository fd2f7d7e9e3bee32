"""The brain in a volume, by hand."""

import numpy as np
import pytest

from nas3d_jax.data.brain import box_of, brain_cube, intensity_range
from nas3d_jax.errors import InputError


def test_brain_cube_takes_any_modality_and_negative_voxels():
  image = np.zeros((7, 8, 9, 2), np.int16)
  image[2, 3, 4, 0] = 5
  image[5, 1, 4, 1] = -1
  assert brain_cube(image) == ((2, 6), (1, 4), (4, 5))


def test_brain_cube_of_nothing():
  with pytest.raises(InputError, match="image must have a voxel that is not zero"):
    brain_cube(np.zeros((2, 2, 2, 4)))


def test_intensity_range_leaves_out_zeros_of_each_modality():
  image = np.zeros((2, 2, 1, 2), np.int16)
  image[..., 0] = [[[3], [0]], [[7], [5]]]
  image[..., 1] = [[[-4], [0]], [[0], [-9]]]
  low, high = intensity_range(image)
  assert low.dtype == high.dtype == np.float32
  assert (low.tolist(), high.tolist()) == ([3, -9], [7, -4])


def test_intensity_range_of_nothing():
  with pytest.raises(InputError, match="modality 1 is"):
    intensity_range(np.asarray([1, 0]).reshape(1, 1, 1, 2))


def test_box_of():
  mask = np.zeros((5, 6, 7), bool)
  assert mask[box_of(mask)].size == 0
  mask[1, 2, 3] = mask[3, 2, 6] = True
  assert box_of(mask) == (slice(1, 4), slice(2, 3), slice(3, 7))
