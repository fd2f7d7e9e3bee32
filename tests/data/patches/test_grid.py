import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas3d_jax.data.patches.grid import PatchAverage, extract_patch, gaussian_weights, patch_grid, patch_starts
from nas3d_jax.errors import InputError


@pytest.mark.parametrize(
  ("brain", "patch", "starts"),
  [
    # b <= p: one patch from -floor((p - b) / 2).
    (64, 64, (0,)),
    (63, 64, (0,)),  # floor(1 / 2) = 0
    (50, 64, (-7,)),  # floor(14 / 2) = 7
    (1, 4, (-1,)),  # floor(3 / 2) = 1
    # n = 2: o = 2 * 64 - 65 = 63, nothing left over, step 1.
    (65, 64, (0, 1)),
    # n = 2: o = 0, step 64.
    (128, 64, (0, 64)),
    # n = ceil(138 / 64) = 3, o = floor((192 - 138) / 2) = 27, left over 192 - 54 - 138 = 0,
    # step 64 - 27 = 37.
    (138, 64, (0, 37, 74)),
    # n = 3, o = floor(43 / 2) = 21, left over 1, first -floor(1 / 2) = 0, step 43.
    (149, 64, (0, 43, 86)),
    # n = 4, o = floor(56 / 3) = 18, left over 256 - 54 - 200 = 2, first -1, step 46.
    (200, 64, (-1, 45, 91, 137)),
    # n = 5, o = floor(63 / 4) = 15, left over 320 - 60 - 257 = 3, first -1, step 49.
    (257, 64, (-1, 48, 97, 146, 195)),
    # n = 2: o = 256 - 170 = 86, step 42.
    (170, 128, (0, 42)),
    (3, 1, (0, 1, 2)),
  ],
)
def test_starts_by_hand(brain, patch, starts):
  assert patch_starts(brain, patch) == starts


LENGTHS = st.integers(1, 300)


@given(LENGTHS, st.integers(1, 160))
def test_patches_cover_the_brain_and_nothing_between_is_left_out(brain, patch):
  covered = {v for start in patch_starts(brain, patch) for v in range(start, start + patch)}
  assert covered >= set(range(brain))


@given(LENGTHS, st.integers(1, 160))
def test_patches_lie_symmetric_within_a_voxel(brain, patch):
  starts = patch_starts(brain, patch)
  before, after = -starts[0], starts[-1] + patch - brain
  assert 0 <= before <= after <= before + 1
  assert len({b - a for a, b in itertools.pairwise(starts)}) <= 1


@given(LENGTHS, st.integers(1, 160))
def test_no_smaller_number_of_patches_would_do(brain, patch):
  assert (len(patch_starts(brain, patch)) - 1) * patch < brain


def test_grid_is_the_product_with_the_last_axis_fastest():
  # 5 by 4: n = 2, o = 3, step 1. 4 by 4: one at 0. 3 by 4: floor(1 / 2) = 0.
  assert patch_grid((5, 4, 3), 4) == [(0, 0, 0), (1, 0, 0)]
  # 1 by 2: floor(1 / 2) = 0; 3 by 2: o = 1, step 1.
  assert patch_grid((1, 3, 3), 2) == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]


@pytest.mark.parametrize("channels", [(), (2,)])
@pytest.mark.parametrize("start", [(0, 0, 0), (-2, 1, 3), (3, 4, -1), (-9, 0, 0), (0, 5, 0)])
def test_extract_is_a_window_of_the_zero_padded_volume(start, channels):
  volume = np.arange(4 * 5 * 6 * int(np.prod(channels)), dtype=np.int16) + 1
  volume = volume.reshape(4, 5, 6, *channels)
  padded = np.pad(volume, [(10, 10)] * 3 + [(0, 0)] * len(channels))
  window = padded[tuple(slice(s + 10, s + 13) for s in start)]
  patch = extract_patch(volume, start, 3)
  assert patch.dtype == np.int16
  np.testing.assert_array_equal(patch, window)


def test_extract_copies_out_of_a_memory_map(tmp_path):
  volume = np.arange(125, dtype=np.int16).reshape(5, 5, 5)
  np.save(tmp_path / "volume.npy", volume)
  mapped = np.load(tmp_path / "volume.npy", mmap_mode="r")
  patch = extract_patch(mapped, (1, 1, 1), 4)
  assert type(patch) is np.ndarray
  patch[:] = 0
  np.testing.assert_array_equal(mapped, volume)


@given(st.tuples(*[st.integers(1, 11)] * 3), st.integers(1, 8), st.integers(1, 3), st.data())
def test_stitching_the_patches_gives_back_the_volume(shape, patch, channels, data):
  seed = data.draw(st.integers(0, 2**32 - 1))
  # Sums of up to 27 integers below 2 ** 15 are exact in float32, and so are their means.
  volume = np.random.default_rng(seed).integers(-(2**15), 2**15, (*shape, channels), np.int16)
  average = PatchAverage(shape, channels)
  for start in patch_grid(shape, patch):
    average.add(start, extract_patch(volume, start, patch))
  result = average.result()
  assert result.dtype == np.float32
  np.testing.assert_array_equal(result, volume)


def test_overlaps_are_averaged():
  average = PatchAverage((2, 2, 3), 1)
  average.add((0, 0, 0), np.full((2, 2, 2, 1), 1.0))
  average.add((0, 0, 1), np.full((2, 2, 2, 1), 4.0))
  np.testing.assert_array_equal(average.result()[..., 0], np.broadcast_to([1, 2.5, 4], (2, 2, 3)))


def test_a_voxel_in_no_patch_is_an_error():
  average = PatchAverage((2, 2, 3), 1)
  average.add((0, 0, 0), np.zeros((2, 2, 2, 1)))
  with pytest.raises(InputError, match="4 of 12 voxels lie in no patch"):
    average.result()


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: patch_starts(0, 64), "brain must be a whole number of at least 1, got 0"),
    (lambda: patch_starts(64, -1), "patch must be a whole number of at least 1, got -1"),
    (lambda: patch_starts(64, 1.5), "patch must be a whole number of at least 1, got 1.5"),
    (lambda: patch_grid((4, 4), 2), r"shape must be the three .*got \(4, 4\)"),
    (lambda: PatchAverage((4, 4), 2), r"shape must be the three .*got \(4, 4\)"),
    (lambda: PatchAverage((4, 4, 4), 0), "channels must be a whole number of at least 1, got 0"),
    (
      lambda: PatchAverage((4, 4, 4), 2).add((0, 0, 0), np.zeros((4, 4, 4, 3))),
      r"\[d, h, w, 2\], got shape \(4, 4, 4, 3\)",
    ),
    (
      lambda: PatchAverage((4, 4, 4), 2).add((0, 0, 0), np.zeros((4, 4, 2))),
      r"got shape \(4, 4, 2\)",
    ),
  ],
)
def test_wrong_input_is_named(call, message):
  with pytest.raises(InputError, match=message):
    call()


def test_patches_of_three_lengths_cover_a_volume_and_come_back():
  volume = np.arange(9 * 5 * 12 * 2, dtype=np.float32).reshape(9, 5, 12, 2)
  size = (4, 8, 12)
  # Along D three patches of 4 over 9 voxels; along H one of 8 over 5, which begins 1 before; along W the very one.
  starts = patch_grid(volume.shape[:3], size)
  assert starts == [(d, -1, 0) for d in patch_starts(9, 4)]
  average = PatchAverage(volume.shape[:3], 2, gaussian_weights(size))
  for start in starts:
    patch = extract_patch(volume, start, size)
    assert patch.shape == (4, 8, 12, 2)
    assert not patch[:, 0].any()
    average.add(start, patch)
  np.testing.assert_allclose(average.result(), volume, rtol=1e-6)


def test_gaussian_weights_of_three_lengths_are_products_of_lines():
  weights = gaussian_weights((4, 8, 6))
  assert weights.shape == (4, 8, 6, 1)
  # Deviations 0.5, 1 and 0.75 voxels; a voxel at half a voxel from the centre along each axis.
  expected = np.exp(-0.5 * (0.5 / 0.5) ** 2 - 0.5 * (0.5 / 1) ** 2 - 0.5 * (0.5 / 0.75) ** 2)
  np.testing.assert_allclose(weights[2, 4, 3, 0], expected, rtol=1e-6)
