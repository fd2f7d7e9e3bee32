"""Phantoms: what a BraTS case is known to look like, whatever the shape; files and restarts."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from nas3d_jax.data.cases.find_and_read import find_cases, read_case
from nas3d_jax.data.phantom import phantom_case, write_phantoms
from nas3d_jax.errors import InputError

FLAIR, T1, T1CE, T2 = range(4)
SHAPES = [(16, 16, 16), (24, 32, 20), (48, 48, 48), (96, 96, 64)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 7, (3, 2)])
def test_head(shape, seed):
  image, labels = phantom_case(seed, shape)
  assert (image.shape, image.dtype) == ((*shape, 4), np.int16)
  assert (labels.shape, labels.dtype) == (shape, np.uint8)
  brain = image[..., 0] != 0
  for channel in range(1, 4):
    np.testing.assert_array_equal(image[..., channel] != 0, brain)
  assert image.min() == 0
  for channel in range(4):
    low, high = np.percentile(image[brain, channel], (1, 99))
    assert 80 < low < 450
    assert 450 < high < 1600
  assert ndimage.label(brain)[1] == 1
  assert ndimage.binary_fill_holes(brain).sum() == brain.sum()
  assert 0.1 < brain.mean() < 0.35  # an ellipsoid with the radii of a head is 0.2 of the volume
  assert not labels[~brain].any()
  corners = image[:: shape[0] - 1, :: shape[1] - 1, :: shape[2] - 1]
  assert not corners.any()


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 32, 20), (32, 32, 32)])
def test_regions_are_there_and_one_in_five_lacks_enhancement(shape):
  found = [set(np.unique(phantom_case((0, i), shape)[1]).tolist()) for i in range(60)]
  assert sum({0, 1, 2} <= values for values in found) >= 57
  without = sum(4 not in values for values in found)
  assert 3 <= without <= 22  # 12 expected; beyond this once in a thousand series
  assert all(values <= {0, 1, 2, 4} for values in found)


@pytest.mark.parametrize("seed", range(5))
def test_regions_are_nested(seed):
  """Going out from the core one meets oedema, going out from the necrosis one meets tumour."""
  image, labels = phantom_case(seed, (64, 64, 64))
  for inner, outer, least in (((1, 4), (2,), 0.75), ((1,), (1, 2, 4), 0.95)):
    mask = np.isin(labels, inner)
    shell = ndimage.binary_dilation(mask) & ~mask & (image[..., 0] > 0)
    assert np.isin(labels[shell], outer).mean() > least


@pytest.mark.parametrize("seed", [0, 1, 2, 4])  # 3 has no rim
def test_contrasts(seed):
  """Oedema is bright in FLAIR and T2, the rim in T1ce, the necrosis dark in T1."""
  image, labels = phantom_case(seed, (96, 96, 80))
  healthy, dead, oedema, rim = (
    np.median(image[mask], axis=0)
    for mask in ((labels == 0) & (image[..., 0] > 0), labels == 1, labels == 2, labels == 4)
  )
  assert oedema[FLAIR] > 1.4 * healthy[FLAIR]
  assert oedema[T2] > 1.3 * healthy[T2]
  assert dead[T1] < 0.8 * healthy[T1]
  assert rim[T1CE] > 1.2 * healthy[T1CE]
  assert rim[T1CE] > 1.5 * oedema[T1CE]


def test_seed_settles_everything():
  first, again, other = (phantom_case((5, i), (24, 24, 24)) for i in (1, 1, 2))
  np.testing.assert_array_equal(first[0], again[0])
  np.testing.assert_array_equal(first[1], again[1])
  assert (first[0] != other[0]).any()
  assert (first[1] != other[1]).any()


@pytest.mark.parametrize(
  ("seed", "shape", "message"),
  [
    (-1, (16, 16, 16), "seed must be whole numbers of at least 0, got -1"),
    (0.5, (16, 16, 16), "seed must be whole numbers"),
    (0, (16, 16), "shape must be three lengths of at least 16 voxels"),
    (0, (16, 15, 16), "shape must be three lengths of at least 16 voxels"),
    (0, (16, 16.0, 16), "shape must be three lengths of at least 16 voxels"),
  ],
)
def test_refused(seed, shape, message):
  with pytest.raises(InputError, match=message):
    phantom_case(seed, shape)


def test_files(tmp_path):
  folders = write_phantoms(tmp_path / "out", cases=8, seed=0, shape=(16, 18, 20))
  assert [folder.name for folder in folders] == [f"Phantom_{i:04d}" for i in range(1, 9)]
  cases, faults = find_cases(tmp_path / "out")
  assert not faults
  assert [files.folder for files in cases] == folders
  for index, files in enumerate(cases):
    case = read_case(files)
    image, labels = phantom_case((0, index), (16, 18, 20))
    np.testing.assert_array_equal(case.image, image)
    np.testing.assert_array_equal(case.labels, labels)
    assert files.grade == ("HGG" if 4 in labels else "LGG")
  assert {files.grade for files in cases} == {"HGG", "LGG"}


def test_header_is_that_of_brats(tmp_path):
  (folder,) = write_phantoms(tmp_path / "out", cases=1, seed=0, shape=(16, 18, 20))
  for kind, dtype in (("flair", np.int16), ("seg", np.uint8)):
    volume = nib.load(folder / f"{folder.name}_{kind}.nii.gz")
    expected = [[-1, 0, 0, 0], [0, -1, 0, 17], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(volume.affine, expected)
    np.testing.assert_array_equal(volume.get_qform(), volume.get_sform())
    assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")
    assert (volume.header["qform_code"], volume.header["sform_code"]) == (1, 1)
    assert volume.header.get_zooms() == (1, 1, 1)
    assert volume.header.get_xyzt_units()[0] == "mm"
    assert volume.get_data_dtype() == dtype


def test_a_begun_folder_is_completed(tmp_path):
  out = tmp_path / "out"
  first = write_phantoms(out, cases=2, seed=1, shape=(16, 16, 16))
  times = [folder.stat().st_mtime_ns for folder in first]
  (out / ".Phantom_0003.partial").mkdir()
  (out / ".Phantom_0003.partial" / "half.nii.gz").write_bytes(b"x")
  folders = write_phantoms(out, cases=3, seed=1, shape=(16, 16, 16))
  assert folders[:2] == first
  assert [folder.stat().st_mtime_ns for folder in first] == times
  assert sorted(path.name for path in out.iterdir() if path.name not in ("HGG", "LGG")) == [
    "phantoms.json"
  ]
  assert len(list(folders[2].iterdir())) == 5


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"seed": 2}, "out must be new or hold phantoms of this seed and shape"),
    ({"shape": (16, 16, 17)}, "out must be new or hold phantoms of this seed and shape"),
    ({"cases": 1}, r"out holds more than cases=1 phantoms \(Phantom_0002\)"),
    ({"cases": 0}, "cases must be a whole number of at least 1, got 0"),
    ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ({"shape": (8, 8, 8)}, "shape must be three lengths"),
  ],
)
def test_other_flags_in_a_begun_folder(tmp_path, flags, message):
  begun = {"cases": 2, "seed": 1, "shape": (16, 16, 16)}
  write_phantoms(tmp_path, **begun)
  with pytest.raises(InputError, match=message):
    write_phantoms(tmp_path, **{**begun, **flags})


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("x")
  with pytest.raises(InputError, match="out must be new or hold phantoms"):
    write_phantoms(tmp_path, cases=1, seed=0, shape=(16, 16, 16))
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_more_than_names_or_memory_hold_is_refused(tmp_path):
  with pytest.raises(InputError, match=r"^cases must be at most 9999, which their names can count, got 10000$"):
    write_phantoms(tmp_path / "new", cases=10000, seed=0)
  with pytest.raises(InputError, match=r"^seed must be .* below 9223372036854775808, got 9223372036854775808$"):
    write_phantoms(tmp_path / "new", cases=1, seed=2**63)
  with pytest.raises(InputError, match=r"^shape must be three lengths of at most 32767 voxels, as in NIfTI-1, got"):
    write_phantoms(tmp_path / "new", cases=1, seed=0, shape=(100000,) * 3)
  assert not (tmp_path / "new").exists()
