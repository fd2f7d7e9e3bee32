"""Surfaces and their distances against hand-worked cases and brute force over all pairs of voxels."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas3d_jax.evaluation import surfaces
from nas3d_jax.evaluation.surfaces import SurfaceDistances


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


def brute_pairs(prediction, truth, spacing):
  """Distances of all pairs of surface voxels."""
  a, b = (np.array(brute_surface(m)) * np.array(spacing) for m in (prediction, truth))
  return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


def brute_hausdorff95(prediction, truth, spacing):
  """All pairs of surface voxels; the quantile by its textbook formula."""
  pairs = brute_pairs(prediction, truth, spacing)

  def quantile(values):
    values = sorted(values.tolist())
    rank = 0.95 * (len(values) - 1)
    low = int(rank)
    high = min(low + 1, len(values) - 1)
    return values[low] + (rank - low) * (values[high] - values[low])

  return max(quantile(pairs.min(1)), quantile(pairs.min(0)))


class TestSurface:
  def test_of_a_cube_is_its_shell(self):
    cube = box((7, 7, 7), (1, 6), (1, 6), (1, 6))
    np.testing.assert_array_equal(
      surfaces.surface(cube), cube & ~box((7, 7, 7), (2, 5), (2, 5), (2, 5))
    )

  def test_has_the_volumes_end(self):
    full = np.ones((3, 4, 5), bool)
    np.testing.assert_array_equal(
      surfaces.surface(full), full & ~box((3, 4, 5), (1, 2), (1, 3), (1, 4))
    )

  def test_ignores_diagonal_neighbours(self):
    mask = np.ones((3, 3, 3), bool)
    mask[0, 0, 0] = False
    assert not surfaces.surface(mask)[1, 1, 1]


class TestHausdorff95:
  @pytest.mark.parametrize(("axis", "expected"), [(0, 1.5), (1, 4.0), (2, 9.0)])
  def test_shifted_voxel_in_mm(self, axis, expected):
    truth = box((8, 8, 8), (2, 3), (2, 3), (2, 3))
    prediction = np.roll(truth, 2 if axis == 1 else 1 if axis == 0 else 3, axis)
    assert surfaces.hausdorff95(prediction, truth, (1.5, 2, 3)) == pytest.approx(expected)

  def test_is_the_larger_direction_and_a_linear_quantile(self):
    # A line of 11 voxels against its first: distances 0..10 one way, 0 the other; rank 9.5.
    line, first = box((1, 1, 11), (0, 1), (0, 1), (0, 11)), box((1, 1, 11), (0, 1), (0, 1), (0, 1))
    assert surfaces.hausdorff95(line, first, (1, 1, 1)) == pytest.approx(9.5)
    assert surfaces.hausdorff95(first, line, (1, 1, 2)) == pytest.approx(19)

  def test_leaves_out_a_twentieth(self):
    # One stray voxel among 41 (rank 38 of 0..40 ascending is still on the common line).
    truth = box((3, 3, 200), (1, 2), (1, 2), (0, 40))
    stray = truth | box((3, 3, 200), (1, 2), (1, 2), (199, 200))
    assert surfaces.hausdorff95(stray, truth, (1, 1, 1)) == 0

  def test_empty(self):
    some, none = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    assert surfaces.hausdorff95(none, none, (1, 1, 1)) == 0
    assert surfaces.hausdorff95(some, none, (1, 1, 1)) == 373.13
    assert surfaces.hausdorff95(none, some, (1, 1, 1)) == 373.13

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
    assert surfaces.hausdorff95(*masks, spacing) == pytest.approx(expected, abs=1e-9)

  @pytest.mark.parametrize("density", [0.002, 0.02, 0.5])
  def test_sparse_and_ragged_masks_equal_brute_force(self, density):
    # Nearly empty masks take the k-d tree, dense noise the distance transform.
    masks = np.random.default_rng(3).random((2, 16, 14, 12)) < density
    spacing = (1.0, 0.7, 3.0)
    expected = brute_hausdorff95(*masks, spacing)
    assert surfaces.hausdorff95(*masks, spacing) == pytest.approx(expected, abs=1e-9)


class TestSurfaceDice:
  def test_by_hand(self):
    # Lines of one voxel's thickness are all surface: 10 voxels against the same ones and 4 more, 1 to 4 voxels of 2 mm
    # beyond the end: within 4 mm are all of the truth and 10 + 2 of the prediction.
    truth = box((1, 1, 20), (0, 1), (0, 1), (0, 10))
    prediction = box((1, 1, 20), (0, 1), (0, 1), (0, 14))
    distances = SurfaceDistances.between(prediction, truth, (1, 1, 2))
    assert distances.surface_dice(4) == pytest.approx((10 + 12) / 24)
    assert distances.surface_dice(3.9) == pytest.approx((10 + 11) / 24)
    assert distances.surface_dice(0) == pytest.approx(20 / 24)
    assert distances.surface_dice(8) == 1

  def test_empty(self):
    some, none = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    assert SurfaceDistances.between(none, none, (1, 1, 1)).surface_dice(1) == 1
    assert SurfaceDistances.between(some, none, (1, 1, 1)).surface_dice(1) == 0
    assert SurfaceDistances.between(none, some, (1, 1, 1)).surface_dice(1e9) == 0

  @pytest.mark.parametrize("density", [0.01, 0.3])
  @pytest.mark.parametrize("tolerance", [0, 0.7, 1.4, 3])
  def test_equals_brute_force(self, density, tolerance):
    masks = np.random.default_rng(5).random((2, 14, 12, 10)) < density
    spacing = (1.0, 0.7, 3.0)
    pairs = brute_pairs(*masks, spacing)
    near = [nearest <= tolerance + 1e-9 for nearest in (pairs.min(1), pairs.min(0))]
    expected = sum(n.sum() for n in near) / sum(n.size for n in near)
    assert SurfaceDistances.between(*masks, spacing).surface_dice(tolerance) == pytest.approx(expected)
