"""Finding and reading cases: layouts, headers, and every wrong input with its message."""

import gzip
import hashlib

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.cases.case_files import CaseError
from nas3d_jax.data.cases.find_and_read import find_cases, read_case
from nas3d_jax.data.patches.normalize import normalize
from nas3d_jax.errors import InputError

SHAPE = (4, 5, 6)
AFFINE = np.asarray([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 2, 0], [0, 0, 0, 1]])
MODALITIES = ("flair", "t1", "t1ce", "t2")


def save(path, data, affine=AFFINE):
  nib.save(nib.Nifti1Image(data, affine), path)


def ramp(channel):
  """Different in every voxel and modality; the corner is background."""
  data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
  return np.where(data > 0, data + 1000 * channel, 0).astype(np.int16)


def make_case(parent, name="A_1", ending=".nii.gz", seg=True):
  folder = parent / name
  folder.mkdir(parents=True)
  for channel, modality in enumerate(MODALITIES):
    save(folder / f"{name}_{modality}{ending}", ramp(channel))
  if seg:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 1:4, 1] = (1, 2, 4)
    save(folder / f"{name}_seg{ending}", labels)
  return folder


def faults_of(data_dir):
  """Everything wrong in a folder, found by name or by reading."""
  cases, faults = find_cases(data_dir)
  for files in cases:
    try:
      read_case(files)
    except CaseError as error:
      faults.extend(error.faults)
  return faults


def only_fault(data_dir):
  faults = faults_of(data_dir)
  assert len(faults) == 1, faults
  return faults[0]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("seg", [True, False])
@pytest.mark.parametrize(("parent", "grade"), [("HGG", "HGG"), ("LGG", "LGG"), (".", None)])
def test_layouts(tmp_path, ending, seg, parent, grade):
  folder = make_case(tmp_path / parent, "B", ending, seg)
  make_case(tmp_path / parent, "A", ending, seg)
  cases, faults = find_cases(tmp_path)
  assert not faults
  assert [files.name for files in cases] == ["A", "B"]
  assert cases[1].grade == grade
  assert cases[1].folder == folder
  assert cases[1].images == tuple(folder / f"B_{m}{ending}" for m in MODALITIES)
  assert cases[1].segmentation == (folder / f"B_seg{ending}" if seg else None)
  assert (read_case(cases[0]).labels is not None) == seg


def test_hidden_and_other_files_do_not_matter(tmp_path):
  folder = make_case(tmp_path)
  (folder / "._A_1_seg.nii.gz").write_bytes(b"left by a Mac")
  (tmp_path / "survival_info.csv").write_text("a,b\n")
  (tmp_path / ".cache").mkdir()
  assert not faults_of(tmp_path)


def test_reads_voxels_in_file_order(tmp_path):
  make_case(tmp_path)
  case = read_case(find_cases(tmp_path)[0][0])
  assert case.image.shape == (*SHAPE, 4)
  assert case.image.dtype == np.int16
  for channel in range(4):
    np.testing.assert_array_equal(case.image[..., channel], ramp(channel))
  assert case.labels.dtype == np.uint8
  assert case.labels[1, :, 1].tolist() == [0, 1, 2, 4, 0]
  assert case.spacing == (1.0, 1.0, 2.0)
  np.testing.assert_array_equal(case.affine, AFFINE)
  for path in case.files.images:
    assert case.checksums[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
  assert len(case.checksums) == 5


@pytest.mark.parametrize(
  ("stored", "value", "slope", "expected"),
  [
    ("<i2", 7, (2, 1), ("int16", 15)),
    ("<i2", 7, (0.5, 0), ("float32", 3.5)),
    ("<i2", 7, (0, 3), ("int16", 7)),  # slope 0 means that there is none
    (">i2", 7, (1, 0), ("int16", 7)),
    ("<f8", 7.0, (1, 0), ("int16", 7)),
    ("<f8", 7.25, (1, 0), ("float32", 7.25)),
    ("<u2", 40000, (1, 0), ("float32", 40000)),
    ("<i4", -32768, (1, 0), ("int16", -32768)),
    ("<i4", -32769, (1, 0), ("float32", -32769)),
  ],
)
def test_slope_and_stored_type(tmp_path, stored, value, slope, expected):
  data = np.zeros(SHAPE, stored)
  data[1, 2, 3], data[3, 2, 1] = value, 2
  header = nib.Nifti1Header(endianness=stored[0])
  header.set_data_dtype(data.dtype)
  header.set_data_shape(SHAPE)
  header.set_sform(AFFINE, code=1)
  header["vox_offset"] = 352
  header["scl_slope"], header["scl_inter"] = slope
  raw = header.binaryblock + bytes(4) + data.tobytes(order="F")
  (make_case(tmp_path) / "A_1_t2.nii.gz").write_bytes(gzip.compress(raw))
  image = read_case(find_cases(tmp_path)[0][0]).image
  assert (image.dtype, image[1, 2, 3, 3]) == expected
  np.testing.assert_array_equal(image[..., 0], ramp(0))


def test_missing_modality(tmp_path):
  folder = make_case(tmp_path)
  (folder / "A_1_t1ce.nii.gz").rename(folder / "A_1_t1c.nii.gz")
  fault = only_fault(tmp_path)
  assert fault.case == "A_1"
  assert "no t1ce image A_1_t1ce.nii.gz or .nii" in fault.reason
  assert "A_1_t1c.nii.gz" in fault.reason
  assert fault.remedy == "add the file, or rename the one that it is"


def test_empty_case_folder_lacks_everything(tmp_path):
  make_case(tmp_path)
  (tmp_path / "B").mkdir()
  assert [f.reason.split(" image")[0] for f in faults_of(tmp_path)] == [
    f"no {m}" for m in MODALITIES
  ]


@pytest.mark.parametrize("kind", ["t2", "seg"])
def test_doubled_file(tmp_path, kind):
  folder = make_case(tmp_path)
  save(folder / f"A_1_{kind}.nii", ramp(0))
  fault = only_fault(tmp_path)
  name = {"t2": "t2", "seg": "segmentation"}[kind]
  assert fault.reason == f"{name} is there twice: A_1_{kind}.nii and A_1_{kind}.nii.gz in {folder}"
  assert fault.remedy == "keep one of them"


def test_segmentation_of_another_name(tmp_path):
  """BraTS 2020's training case 355."""
  folder = make_case(tmp_path, "BraTS20_Training_355", ".nii")
  (folder / "BraTS20_Training_355_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
  fault = only_fault(tmp_path)
  assert fault.case == "BraTS20_Training_355"
  assert "W39_1998.09.19_Segm.nii is there" in fault.reason
  assert "rename it to BraTS20_Training_355_seg.nii if" in fault.remedy


def test_two_cases_of_one_name(tmp_path):
  make_case(tmp_path / "HGG")
  make_case(tmp_path / "LGG")
  fault = only_fault(tmp_path)
  assert fault.case == "A_1"
  assert fault.reason == "2 cases have this name: HGG/A_1 and LGG/A_1"


@pytest.mark.parametrize("kind", ["t1", "seg"])
def test_other_shape(tmp_path, kind):
  folder = make_case(tmp_path)
  save(folder / f"A_1_{kind}.nii.gz", (np.arange(150) // 50).astype(np.int16).reshape(5, 5, 6))
  name = {"t1": "t1", "seg": "segmentation"}[kind]
  assert only_fault(tmp_path).reason == f"{name} has shape (5, 5, 6), flair (4, 5, 6)"


@pytest.mark.parametrize(
  ("shift", "reasons"),
  [
    (1e-5, []),
    (0.01, [
      "t1 has the affine [[-1.0, 0.0, 0.0, 0.01], [0.0, -1.0, 0.0, 239.0], [0.0, 0.0, 2.0, 0.0]], "
      "flair [[-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 239.0], [0.0, 0.0, 2.0, 0.0]]"
    ]),
  ],
)
def test_other_affine(tmp_path, shift, reasons):
  affine = AFFINE.copy()
  affine[0, 3] += shift
  save(make_case(tmp_path) / "A_1_t1.nii.gz", ramp(1), affine)
  assert [fault.reason for fault in faults_of(tmp_path)] == reasons


@pytest.mark.parametrize(
  ("value", "what"),
  [
    (np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (1e39, "beyond 1e+18"), (-3e38, "beyond 1e+18"),
    ([2e18, np.nan], "NaN or beyond 1e+18"),
  ],
)
def test_voxels_that_are_not_finite_or_no_intensities(tmp_path, value, what):
  folder = make_case(tmp_path)
  data = ramp(1).astype(np.float64)
  data[2, 2, 2:4] = value
  save(folder / "A_1_t1.nii.gz", data)
  assert only_fault(tmp_path).reason == f"t1 has 2 voxels that are {what}"


@pytest.mark.parametrize(("low", "high"), [(-1e18, 1e18), (1e-29, 3e-29)])
def test_the_greatest_intensities_and_the_least_range_are_scaled_to_finite_ones(tmp_path, low, high):
  data = np.where(ramp(1) == 0, 0, np.clip(ramp(1), low, high))
  data[2, 2, 2:4] = low, high
  save(make_case(tmp_path) / "A_1_t1.nii.gz", data)
  scaled = np.asarray(normalize(read_case(find_cases(tmp_path)[0][0]).image))[..., 1]
  np.testing.assert_allclose(scaled[2, 2, 2:4], [10, 110], rtol=1e-5)
  assert np.isfinite(scaled).all()


def test_a_range_that_single_precision_does_not_hold(tmp_path):
  data = np.where(ramp(1) == 0, 0, 1e9 + 1e-3 * ramp(1))
  save(make_case(tmp_path) / "A_1_t1.nii.gz", data)
  assert only_fault(tmp_path).reason.endswith("between which single precision has nothing")


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (np.zeros(SHAPE, np.int16), "t1 is 0 in every voxel"),
    (np.full(SHAPE, 5, np.int16), "t1 is 5 in every voxel"),
    (np.where(ramp(0) > 50, 5, 0).astype(np.int16), "t1 is 5 in every voxel that is not zero"),
  ],
)
def test_constant_volume(tmp_path, data, reason):
  save(make_case(tmp_path) / "A_1_t1.nii.gz", data)
  assert only_fault(tmp_path).reason == reason


@pytest.mark.parametrize(
  ("value", "seen"), [(3, "3"), (-1, "-1"), (260, "260"), (1.5, "1.5"), (np.nan, "nan")]
)
def test_label_outside_the_schema(tmp_path, value, seen):
  labels = np.zeros(SHAPE, np.float32 if isinstance(value, float) else np.int16)
  labels[0, 0, 2:4] = value
  save(make_case(tmp_path) / "A_1_seg.nii.gz", labels)
  fault = only_fault(tmp_path)
  assert fault.reason == (
    f"segmentation has 2 voxels with values ({seen}) that are no labels of schema 'brats2019' "
    "(0, 1, 2, 4)"
  )


def test_everything_wrong_with_a_case_at_once(tmp_path):
  folder = make_case(tmp_path)
  save(folder / "A_1_t1.nii.gz", np.zeros(SHAPE, np.int16))
  (folder / "A_1_t2.nii.gz").write_bytes(b"")
  save(folder / "A_1_seg.nii.gz", np.full(SHAPE, 9, np.uint8))
  with pytest.raises(CaseError) as caught:
    read_case(find_cases(tmp_path)[0][0])
  assert [f.reason.split()[0] for f in caught.value.faults] == [
    "A_1_t2.nii.gz", "t1", "segmentation"
  ]
  assert str(caught.value).count("A_1: ") == 3


@pytest.mark.parametrize("kind", ["no such folder", "empty", "a file", "only grades"])
def test_no_cases(tmp_path, kind):
  data_dir = tmp_path / "data"
  if kind == "a file":
    data_dir.write_text("")
  elif kind != "no such folder":
    data_dir.mkdir()
  if kind == "only grades":
    (data_dir / "HGG").mkdir()
  with pytest.raises(InputError, match=r"data_dir (must be a folder|holds no case).*data"):
    find_cases(data_dir)


def test_real_cases_read_as_nibabel_reads_them(real_cases):
  cases, faults = find_cases(real_cases)
  assert not faults
  assert [(files.name, files.grade) for files in cases] == [
    ("BraTS19_TCGA_DU7294_1", "LGG"), ("BraTS19_TCGA_FG6692_1", "HGG")
  ]
  case = read_case(cases[1])
  assert case.image.dtype == np.int16
  for channel, path in enumerate(case.files.images):
    np.testing.assert_array_equal(case.image[..., channel], nib.load(path).dataobj)
  np.testing.assert_array_equal(case.labels, nib.load(case.files.segmentation).dataobj)
  np.testing.assert_array_equal(case.affine, nib.load(case.files.images[0]).affine)
