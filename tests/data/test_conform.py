"""Volumes brought to another orientation and voxel size, and back: exact where axes are turned, by hand where not."""

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.brain import brain_of
from nas3d_jax.data.conform import Regrid, conform
from nas3d_jax.errors import InputError
from nas3d_jax.schema.geometry import Geometry
from tests.schema.test_geometry import OBLIQUE, ORIENTATIONS

LPS = np.diag([-1.0, -1, 1, 1])
BRATS = Geometry("LPS", (1, 1, 1))
SHAPE = (5, 4, 3)


def numbered(shape=SHAPE, channels=2):
  """int16 [*shape, channels], no two voxels alike and none zero."""
  return np.arange(1, np.prod(shape) * channels + 1, dtype=np.int16).reshape(*shape, channels)


def millimetres(affine, shape):
  """Where the centre of each voxel is: [*shape, 3]."""
  return nib.affines.apply_affine(affine, np.stack(np.indices(shape), -1))


def ball(affine, shape, radius, centre=(0, 0, 0)):
  return np.linalg.norm(millimetres(affine, shape) - centre, axis=-1) < radius


def centred(spacing, shape, codes="LPS"):
  """The affine of an unrotated volume whose middle is at 0 mm."""
  turn = nib.orientations.axcodes2ornt(codes)
  affine = np.zeros((4, 4))
  for axis, ((row, sign), length) in enumerate(zip(turn, spacing, strict=True)):
    affine[int(row), axis] = sign * length
  affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
  affine[3, 3] = 1
  return affine


def test_what_is_there_already_is_not_touched():
  image = numbered()
  affine = np.diag([-1.0005, -1, 0.9995, 1])
  got = conform(image, affine, BRATS)
  assert got.image is image
  assert got.regrid is None
  probabilities = np.ones((*SHAPE, 3), np.float32)
  assert got.back(probabilities) is probabilities
  assert conform(image, np.diag([3.0, 3, 3, 1]), None).image is image


@pytest.mark.parametrize("oblique", [False, True])
def test_each_of_48_orientations_there_and_back(oblique):
  """Every voxel keeps its values and its place in the patient, whichever way the axes run."""
  image = numbered()
  base = OBLIQUE if oblique else np.diag([-1.0, -2, 3, 1])
  origin = {tuple(np.round(place, 6)): tuple(v) for place, v in zip(
    millimetres(base, SHAPE).reshape(-1, 3), image.reshape(-1, 2), strict=True
  )}  # fmt: skip
  geometry = Geometry.of(base)
  for codes in ORIENTATIONS:
    file = nib.Nifti1Image(image, base).as_reoriented(
      nib.orientations.ornt_transform(nib.io_orientation(base), nib.orientations.axcodes2ornt(codes))
    )
    stored = np.asarray(file.dataobj)
    assert "".join(nib.aff2axcodes(file.affine)) == codes
    there = conform(stored, file.affine, geometry)
    assert there.image.dtype == np.int16
    np.testing.assert_array_equal(there.image, image)
    np.testing.assert_array_equal(Regrid(stored.shape[:3], file.affine, geometry).labels(stored[..., 0]), image[..., 0])
    np.testing.assert_array_equal(there.back(image.astype(np.float32)), stored)
    # The other way, from one file to the orientation of each.
    away = Regrid(SHAPE, base, Geometry.of(file.affine))
    np.testing.assert_array_equal(away.image(image), stored)
    places = np.round(millimetres(away.affine, away.new_shape), 6).reshape(-1, 3)
    values = away.image(image).reshape(-1, 2)
    assert {tuple(place): tuple(v) for place, v in zip(places, values, strict=True)} == origin


@pytest.mark.parametrize(
  ("spacing", "target"),
  [((1, 1, 2), (1, 1, 1)), ((0.7, 1.3, 2.2), (1, 1, 1)), ((1, 1, 1), (1.5, 2, 3)), ((0.5, 3, 1), (1.1, 0.9, 1))],
)
@pytest.mark.parametrize("codes", ["LPS", "ASR"])
def test_a_ramp_in_millimetres_stays_one(spacing, target, codes):
  """Straight lines between voxels, and their means, give it back exactly; at the ends, half a voxel, it goes level."""
  shape = (22, 18, 14)
  affine = centred(spacing, shape, codes)
  ramp = 500 + millimetres(affine, shape) @ [1.0, -2.0, 0.5]
  geometry = Geometry("LPS", target)
  regrid = Regrid(shape, affine, geometry)
  got = regrid.image(np.stack([ramp, -ramp], -1).astype(np.float32))
  lengths = np.abs(affine[:3, :3]).sum(1) * np.asarray(shape)[nib.io_orientation(affine)[:, 0].argsort().astype(int)]
  assert got.shape == (*(int(np.floor(n / t + 0.5)) for n, t in zip(lengths, target, strict=True)), 2)
  places = millimetres(regrid.affine, regrid.new_shape)
  reach = lengths / 2 - np.maximum(np.asarray(target), np.abs(affine[:3, :3]).sum(1))
  inside = (np.abs(places) < reach).all(-1)
  assert inside.mean() > 0.3
  expected = (500 + places @ [1.0, -2.0, 0.5])[inside]
  np.testing.assert_allclose(got[inside], np.stack([expected, -expected], -1), rtol=2e-6)
  np.testing.assert_allclose(Geometry.of(regrid.affine).spacing, target, rtol=1e-12)
  # The middle of the volume stays where it was.
  middle = nib.affines.apply_affine(regrid.affine, (np.asarray(regrid.new_shape) - 1) / 2)
  np.testing.assert_allclose(middle, 0, atol=1e-9)


def test_half_the_voxels_are_the_means_of_blocks():
  image = numbered((4, 6, 2), 1)
  got = conform(image, LPS, Geometry("LPS", (2, 2, 2))).image
  np.testing.assert_array_equal(got, image.reshape(2, 2, 3, 2, 1, 2, 1).mean((1, 3, 5)))


def test_one_voxel_more_by_hand():
  """Along one axis 3 voxels of 2 mm, at -2, 0 and 2 mm, become 6 of 1 mm, at -2.5 to 2.5."""
  image = np.array([8, 4, 12], np.int16).reshape(1, 1, 3, 1)
  regrid = Regrid((1, 1, 3), centred((1, 1, 2), (1, 1, 3)), BRATS)
  np.testing.assert_array_equal(regrid.image(image).ravel(), [8, 7, 5, 6, 10, 12])
  np.testing.assert_array_equal(regrid.labels(np.uint8([[[8, 4, 12]]])).ravel(), [8, 8, 4, 4, 12, 12])


def test_nothing_seeps_out_of_the_brain_nor_into_it():
  """3 voxels of brain between background, in 2 mm: 6 voxels in 1 mm, none of them dimmed by the zeros beside them."""
  image = np.zeros((1, 1, 7, 2), np.int16)
  image[0, 0, 2:5] = [[100, -4], [100, -4], [100, 0]]
  got = conform(image, centred((1, 1, 2), (1, 1, 7)), BRATS).image[0, 0]
  np.testing.assert_array_equal(got[:, 0], [0] * 4 + [100] * 6 + [0] * 4)
  # A modality that is zero within the brain is a value like others.
  np.testing.assert_array_equal(got[:, 1], [0] * 4 + [-4, -4, -4, -3, -1, 0] + [0] * 4)


@pytest.mark.parametrize("spacing", [(1, 1, 2), (0.6, 0.6, 3), (1.4, 0.8, 1)])
def test_a_ball_keeps_its_volume_and_labels_stay_themselves(spacing):
  shape = tuple(int(48 / n) for n in spacing)
  affine = centred(spacing, shape)
  labels = np.zeros(shape, np.uint8)
  for radius, value in ((16, 2), (11, 4), (7, 1)):
    labels[ball(affine, shape, radius, (1, -2, 0.5))] = value
  regrid = Regrid(shape, affine, BRATS)
  got = regrid.labels(labels)
  assert np.unique(got).tolist() == [0, 1, 2, 4]
  for radius, values in ((16, (1, 2, 4)), (11, (1, 4)), (7, (1,))):
    ml, exact = np.isin(got, values).sum() / 1000, 4 / 3 * np.pi * radius**3 / 1000
    assert ml == pytest.approx(exact, rel=0.05)
    # As a probability, there and back again, it is about the same set of voxels.
    back = regrid.back(np.isin(got, values)[..., None].astype(np.float32), np.ones(shape, bool))[..., 0] >= 0.5
    truth = np.isin(labels, values)
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.9


def test_probabilities_come_back_whole_at_the_border_of_the_brain():
  """Within the brain 0.8 stays 0.8 up to its border, and outside it is 0, on a grid finer and one coarser."""
  shape = (20, 20, 20)
  for spacing in ((0.5, 0.5, 0.5), (1, 1, 3)):
    affine = centred(spacing, shape)
    brain = ball(affine, shape, 4.0 if spacing[0] < 1 else 8.0)
    image = np.where(brain[..., None], np.int16([700, 300]), 0).astype(np.int16)
    there = conform(image, affine, BRATS)
    np.testing.assert_array_equal(np.unique(there.image[..., 0]), [0, 700])
    answer = np.where(brain_of(there.image)[..., None], np.float32([0.8, 0.3, 0.1]), 0)
    back = there.back(answer)
    assert (back.shape, back.dtype) == ((*shape, 3), np.float32)
    assert not back[~brain].any()
    covered = back[brain][:, 0] > 0
    assert covered.mean() > 0.99
    np.testing.assert_allclose(back[brain][covered], np.broadcast_to([0.8, 0.3, 0.1], (covered.sum(), 3)), rtol=1e-6)


def test_turned_and_resampled_is_the_same_from_whatever_orientation():
  """The file's orientation leaves no trace, down to the last bit, in the network's input nor in its answer."""
  shape, spacing = (6, 7, 5), (1.3, 0.8, 2.5)
  affine = centred(spacing, shape)
  image = numbered(shape) * (np.arange(2) + 1).astype(np.int16)
  image[:2] = 0
  first = conform(image, affine, BRATS)
  answer = np.random.default_rng(0).random((*first.image.shape[:3], 3), np.float32)
  answer *= brain_of(first.image)[..., None]
  for codes in ("RAS", "SAL", "PIR"):
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    file = nib.Nifti1Image(image, affine).as_reoriented(turn)
    there = conform(np.asarray(file.dataobj), file.affine, BRATS)
    np.testing.assert_array_equal(there.image, first.image)
    np.testing.assert_allclose(there.regrid.affine, first.regrid.affine, atol=1e-9)
    np.testing.assert_array_equal(there.back(answer), nib.orientations.apply_orientation(first.back(answer), turn))


def test_a_single_slice():
  image = numbered((4, 4, 1))
  got = conform(image, np.diag([-1.0, -1, 0.3, 1]), BRATS)
  assert got.image.shape == (4, 4, 1, 2)
  assert conform(image, np.diag([-1.0, -1, 3, 1]), BRATS).image.shape == (4, 4, 3, 2)


@pytest.mark.parametrize(
  ("affine", "message"),
  [
    (np.diag([-1000.0, -1000, 1000, 1]), r"of LPS, 1000 x 1000 x 1000 mm cannot be brought to LPS, 1 x 1 x 1 mm, it"),
    (np.diag([-0.001, -0.001, 0.001, 1]), "check the voxel size in its header"),
    (np.diag([-60.0, -60, 60, 1]), "it would have 12000 x 12000 x 3000; check the voxel size"),
    (np.zeros((4, 4)), "affine must be 4x4, finite and invertible"),
  ],
)
def test_a_header_that_means_no_head_allocates_nothing(affine, message):
  with pytest.raises(InputError, match=message):
    conform(np.broadcast_to(np.int16(1), (200, 200, 50, 2)), affine, BRATS)


def test_arrays_that_do_not_fit():
  with pytest.raises(InputError, match=r"image must be \[D, H, W, M\], got shape \(5, 4, 3\)"):
    conform(np.ones(SHAPE), LPS, BRATS)
  with pytest.raises(InputError, match=r"array must be of shape \(5, 4, 3\) first, got \(3, 4, 5\)"):
    Regrid(SHAPE, LPS, BRATS).labels(np.ones((3, 4, 5)))
