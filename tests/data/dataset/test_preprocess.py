"""Preprocessing: cube, ranges, counts by hand; faults all at once; restarts; the real patients."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.phantom import phantom_case, write_phantoms
from nas3d_jax.errors import InputError
from nas3d_jax.schema.builtin import BRATS2019
from tests.support.layouts import LAYOUTS, PHANTOM, write_layout

SHAPE = (16, 18, 20)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
  out = tmp_path_factory.mktemp("phantoms") / "data"
  write_phantoms(out, cases=4, seed=0, shape=SHAPE)
  return out


@pytest.fixture
def data_dir(phantoms, tmp_path):
  return Path(shutil.copytree(phantoms, tmp_path / "data"))


@pytest.fixture
def out(tmp_path):
  return tmp_path / "run" / "dataset"


def tree(folder):
  """Every file below a folder with its content, but for the times at which they changed."""
  files = {path for path in folder.rglob("*") if path.is_file()} - {folder / "verified.json"}
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def file_of(data_dir, case, kind):
  return next(data_dir.glob(f"*/Phantom_{case:04d}/*_{kind}.nii.gz"))


def rewrite(path, change):
  volume = nib.load(path)
  data = change(np.asarray(volume.dataobj).copy())
  nib.save(nib.Nifti1Image(data, volume.affine), path)


def put(index, value):
  def change(data):
    data = data.astype(np.float32) if isinstance(value, float) else data
    data[index] = value
    return data

  return change


def test_cases_are_cropped_and_described(data_dir, out):
  dataset = preprocess(data_dir, out, folds=2, seed=3)
  assert [case.name for case in dataset.cases] == [f"Phantom_{i:04d}" for i in range(1, 5)]
  for index, case in enumerate(dataset.cases):
    image, labels = phantom_case((0, index), SHAPE)
    where = np.argwhere(image.any(axis=-1))
    cube = list(zip(where.min(0).tolist(), (where.max(0) + 1).tolist(), strict=True))
    box = tuple(slice(*side) for side in cube)
    assert list(case.cube) == cube
    assert case.shape == SHAPE
    np.testing.assert_array_equal(dataset.image(case), image[box])
    np.testing.assert_array_equal(dataset.labels(case), labels[box])
    assert case.label_counts == {v: int((labels == v).sum()) for v in (0, 1, 2, 4)}
    brain = image[image[..., 0] > 0]
    assert case.low == tuple(brain.min(0).tolist())
    assert case.high == tuple(brain.max(0).tolist())
    assert case.spacing == (1, 1, 1)
    assert case.affine[1] == (0, -1, 0, 17)
    assert case.grade == ("HGG" if 4 in labels else "LGG")
    files = data_dir.glob(f"*/{case.name}/*.nii.gz")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert case.checksums == sums
  assert sorted(case.fold for case in dataset.cases) == [0, 0, 1, 1]
  assert sorted(path.name for path in out.iterdir()) == ["cases", "config.json", "manifest.json", "verified.json"]
  assert [path.name for path in out.parent.iterdir()] == ["dataset"]
  config = json.loads((out / "config.json").read_text())
  assert (config["folds"], config["seed"], config["data_dir"]) == (2, 3, str(data_dir))


def test_without_labels_a_case_is_in_no_fold(data_dir, out):
  file_of(data_dir, 2, "seg").unlink()
  dataset = preprocess(data_dir, out, folds=3)
  case = dataset.cases[1]
  assert (case.fold, case.label_counts, dataset.labels(case)) == (None, None, None)
  assert len(case.checksums) == 4
  assert sorted(c.fold for c in dataset.cases if c is not case) == [0, 1, 2]
  assert not (out / "cases" / case.name / "labels.npy").exists()


def test_number_of_workers_changes_nothing(data_dir, tmp_path):
  one = preprocess(data_dir, tmp_path / "1", folds=2, workers=1)
  three = preprocess(data_dir, tmp_path / "3", folds=2, workers=3)
  assert one.fingerprint == three.fingerprint
  assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_every_bad_case_in_one_go(data_dir, out):
  rewrite(file_of(data_dir, 1, "t1"), put((8, 9, 10), np.nan))
  file_of(data_dir, 2, "flair").unlink()
  rewrite(file_of(data_dir, 3, "seg"), put((0, 0, 0), 4))
  path = file_of(data_dir, 4, "t2")
  path.write_bytes(path.read_bytes()[:-200])
  rewrite(file_of(data_dir, 4, "seg"), put((8, 9, 10), 3))
  with pytest.raises(InputError) as caught:
    preprocess(data_dir, out, folds=4)
  first, *lines = str(caught.value).splitlines()
  assert first == "4 of the cases in data_dir cannot be used, so nothing was written:"
  expected = [
    ("Phantom_0001: t1 has 1 voxel that is NaN", "replace them by 0"),
    ("Phantom_0002: no flair image Phantom_0002_flair.nii.gz", "add the file"),
    ("Phantom_0003: 1 labelled voxels lie where all modalities are background", "clear them"),
    ("Phantom_0004: Phantom_0004_t2.nii.gz is truncated", "download the file again"),
    ("Phantom_0004: segmentation has 1 voxels with values (3)", "correct the labels"),
  ]
  assert len(lines) == len(expected)
  for line, (reason, remedy) in zip(lines, expected, strict=True):
    assert line.startswith(f"  {reason}")
    assert remedy in line
  assert not out.parent.exists()


def test_same_again_is_reused(data_dir, out, capfd):
  before = preprocess(data_dir, out, folds=2)
  times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
  again = preprocess(data_dir, out, folds=2)
  assert again.fingerprint == before.fingerprint
  assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
  streams = capfd.readouterr()
  assert "reused" in streams.err
  assert streams.out == ""


def unlabel(data_dir):
  file_of(data_dir, 3, "seg").unlink()


def regrade(data_dir):
  folder = file_of(data_dir, 1, "seg").parent
  shutil.move(folder, data_dir / folder.name)


def repack(data_dir):
  path = file_of(data_dir, 2, "t1")
  path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))


@pytest.mark.parametrize(
  ("flags", "change", "message"),
  [
    ({"folds": 3}, None, "was made with folds=2, got 3"),
    ({"seed": 1}, None, "was made with seed=0, got 1"),
    ({}, unlabel, "was made of other files of Phantom_0003"),
    ({}, regrade, "was made of other files of Phantom_0001"),
    ({}, repack, "was made of other files of Phantom_0002"),
  ],
)
def test_something_else_needs_overwrite(data_dir, out, flags, change, message):
  preprocess(data_dir, out, folds=2)
  before = tree(out)
  if change is not None:
    change(data_dir)
  with pytest.raises(InputError, match=message) as caught:
    preprocess(data_dir, out, **{"folds": 2, **flags})
  assert "--overwrite" in str(caught.value)
  assert tree(out) == before
  preprocess(data_dir, out, overwrite=True, **{"folds": 2, **flags})
  assert tree(out) != before
  assert [path.name for path in out.parent.iterdir()] == ["dataset"]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"folds": 5}, r"number of cases with a segmentation \(4\), got 5; use --folds=4"),
    ({"folds": 1}, "folds must be a whole number of at least 2, got 1"),
    ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ({"workers": -1}, "workers must be a whole number of at least 1, got -1"),
  ],
)
def test_flags_out_of_range(data_dir, out, flags, message):
  with pytest.raises(InputError, match=message):
    preprocess(data_dir, out, **flags)
  assert not out.parent.exists()


def test_empty_data_dir(tmp_path, out):
  (tmp_path / "none").mkdir()
  with pytest.raises(InputError, match=r"data_dir holds no case, got '.*none'"):
    preprocess(tmp_path / "none", out)
  assert not out.parent.exists()


def test_real_cases(out, real_cases):
  """Against nibabel and NumPy on the files themselves."""
  dataset = preprocess(real_cases, out, folds=2)
  assert [(case.name, case.grade) for case in dataset.cases] == [
    ("BraTS19_TCGA_DU7294_1", "LGG"), ("BraTS19_TCGA_FG6692_1", "HGG")
  ]
  assert sorted(case.fold for case in dataset.cases) == [0, 1]
  for case in dataset.cases:
    stem = real_cases / case.grade / case.name / case.name
    paths = [Path(f"{stem}_{kind}.nii.gz") for kind in ("flair", "t1", "t1ce", "t2", "seg")]
    *images, labels = (np.asarray(nib.load(path).dataobj) for path in paths)
    where = np.nonzero(sum(image != 0 for image in images))
    assert case.cube == tuple((int(w.min()), int(w.max()) + 1) for w in where)
    for channel, image in enumerate(images):
      box = tuple(slice(*side) for side in case.cube)
      np.testing.assert_array_equal(dataset.image(case)[..., channel], image[box])
      assert case.low[channel] == image[image != 0].min()
      assert case.high[channel] == image[image != 0].max()
    assert case.label_counts == {v: int((labels == v).sum()) for v in (0, 1, 2, 4)}
    for path in paths:
      assert case.checksums[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
  assert Dataset.open(out).cases == dataset.cases


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_stored_alike(tmp_path, out, name):
  cases = write_layout(name, tmp_path / "in", 2, (20, 18, 16))
  dataset = preprocess(tmp_path / "in", out, schema="brats2023" if name == "brats2023" else None, folds=2)
  assert [case.name for case in dataset.cases] == cases
  assert dataset.schema.name == name
  for i, case in enumerate(dataset.cases):
    image, truth = phantom_case((0, i), (20, 18, 16))
    box = tuple(slice(*span) for span in case.cube)
    order = [PHANTOM.index(modality) for modality in dataset.schema.modality_names]
    np.testing.assert_array_equal(dataset.image(case), image[box][..., order])
    masks = dataset.schema.region_masks(np.asarray(dataset.labels(case)))
    np.testing.assert_array_equal(masks[..., :3], BRATS2019.region_masks(truth)[box])
  # What is stored answers what the files leave open.
  assert preprocess(tmp_path / "in", out, folds=2) == dataset


def test_channels_that_are_called_otherwise_make_another_data_set(tmp_path, out):
  write_layout("decathlon", tmp_path / "in", 2, (20, 18, 16))
  preprocess(tmp_path / "in", out, folds=2)
  path = tmp_path / "in" / "dataset.json"
  path.write_text(path.read_text().replace("T1w", "?").replace("T2w", "T1w").replace("?", "T2w"))
  with pytest.raises(InputError, match=r"was made of other files of BRATS_001, BRATS_002; give --overwrite"):
    preprocess(tmp_path / "in", out, folds=2)


def test_what_is_strange_is_said_in_a_line_each_and_again_by_a_run_that_goes_on(data_dir, out, capfd, monkeypatch):
  for case in (1, 2):
    rewrite(file_of(data_dir, case, "flair"), lambda v: np.where(v == 0, -3.5, v).astype(np.float32))
  rewrite(file_of(data_dir, 3, "t2"), put((8, 9, 10), np.int16(32767)))
  expected = [
    "warning: the background is not 0 (flair) in 2 of 4 cases: Phantom_0001, Phantom_0002; see inspect",
    "warning: a few voxels rule the range of intensities (t2) in 1 of 4 cases: Phantom_0003; see inspect",
  ]
  monkeypatch.setattr("nas3d_jax.data.dataset.preprocess.assign_folds", lambda *_: 1 / 0)
  for _ in range(2):
    with pytest.raises(ZeroDivisionError):
      preprocess(data_dir, out, folds=2)
    assert [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")] == expected
