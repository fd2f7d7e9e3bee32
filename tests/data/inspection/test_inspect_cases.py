"""Inspection: every fault, planted alone among good cases, is found, named with its case, and nothing else is."""

import dataclasses
import functools
import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from launch.__main__ import main
from nas3d_jax.data.cases.find_and_read import find_cases
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.inspection import examine_case
from nas3d_jax.data.inspection.compare_cases import intensity_limits
from nas3d_jax.data.inspection.examine_case import examine
from nas3d_jax.data.inspection.inspect_cases import KINDS, inspect_cases
from nas3d_jax.data.inspection.table import render
from nas3d_jax.errors import InputError
from nas3d_jax.schema.builtin import BRATS2019
from tests.support.layouts import LAYOUTS, save, write_layout

SHAPE = (24, 24, 24)
SEED = 2  # six phantoms that all have an enhancing tumour
NAMES = [f"BraTS19_P_{i + 1}" for i in range(6)]
FILES = ("flair", "t1", "t1ce", "t2", "seg")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  """Six cases with which nothing is wrong."""
  folder = tmp_path_factory.mktemp("good")
  assert write_layout("brats2019", folder, 6, SHAPE, seed=SEED) == NAMES
  return folder


@pytest.fixture
def data(tmp_path, good):
  """A copy of them, to plant a fault in."""
  return shutil.copytree(good, tmp_path / "data")


def path(data, case, file):
  return data / NAMES[case] / f"{NAMES[case]}_{file}.nii.gz"


def edit(data, case, file, change=lambda voxels: voxels, affine=None, slope=None):
  """Stores a volume again with other voxels, another affine, or scale factors."""
  image = nib.load(path(data, case, file))
  affine = image.affine if affine is None else image.affine @ affine
  changed = nib.Nifti1Image(change(np.asarray(image.dataobj).copy()), affine)
  if slope is not None:
    changed.header.set_slope_inter(slope, 0)
  nib.save(changed, path(data, case, file))


def put(values, where=(slice(10, 12), 10, 10), kind=None):
  """Puts a value at a place, which is inside the brain unless another is named."""
  def change(voxels):
    voxels = voxels if kind is None else voxels.astype(kind)
    voxels[where] = values
    return voxels

  return change


def all_of(case, affine):
  def plant(data):
    for file in FILES:
      edit(data, case, file, affine=affine)

  return plant


def crop(data):
  for file in FILES:
    edit(data, 2, file, lambda voxels: voxels[:, :, 2:])


def turned(degrees):
  angle = np.deg2rad(degrees)
  matrix = np.eye(4)
  matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  return matrix


def corner_of_the_brain(data, case):
  """A corner of its box, which lies outside."""
  images = [np.asarray(nib.load(path(data, case, file)).dataobj) for file in FILES[:-1]]
  brain = np.any([image != 0 for image in images], axis=0)
  corner = tuple(int(found.min()) for found in np.nonzero(brain))
  assert not brain[corner]
  return corner


def rewrite_headers(data, case, files=FILES, *, pixdim=None, qform=None, unit=None):
  """Stores volumes again whose sform stays while other fields of the header change."""
  for file in files:
    image = nib.load(path(data, case, file))
    header, voxels = image.header, np.asarray(image.dataobj).tobytes(order="F")
    if pixdim is not None:
      header["pixdim"][1:4] = pixdim
    if qform is not None:
      header.set_qform(qform, 1)
    if unit is not None:
      header.set_xyzt_units(unit)
    header["vox_offset"] = 352
    # nibabel's own writer would put sform and pixdim right.
    path(data, case, file).write_bytes(gzip.compress(header.binaryblock + bytes(4) + voxels))


CORNER = (0, 0, slice(0, 3))
FLIP = np.diag([-1.0, 1, 1, 1])
THICK = np.diag([1.0, 1, 2, 1])
MOVED = np.eye(4) + np.pad([[3.0], [0], [0]], ((0, 1), (3, 0)))


# What is planted, and the finding: case, kind, words.
FAULTS = {
  "missing": (lambda d: path(d, 1, "t1").unlink(), 1, "files", "no t1 image BraTS19_P_2_t1.nii.gz"),
  "doubled": (
    lambda d: path(d, 1, "t1").with_suffix("").write_bytes(b""),
    1, "files", "t1 is there twice: .*t1.nii and .*t1.nii.gz",
  ),
  "renamed": (
    lambda d: path(d, 1, "seg").rename(path(d, 1, "truth")),
    1, "files", "no segmentation .*, but .*_truth.nii.gz is there",
  ),
  "truncated": (
    lambda d: path(d, 2, "t2").write_bytes(path(d, 2, "t2").read_bytes()[:-50]),
    2, "unreadable", "t2.nii.gz is truncated",
  ),
  "empty file": (lambda d: path(d, 2, "seg").write_bytes(b""), 2, "unreadable", "seg.nii.gz is truncated"),
  "no volume": (lambda d: path(d, 2, "t2").write_bytes(b"x" * 400), 2, "unreadable", "t2.nii.gz is not compressed"),
  "four axes": (
    lambda d: edit(d, 2, "t2", lambda v: np.stack([v, v], -1)), 2, "unreadable", r"three axes .* \(24, 24, 24, 2\)"
  ),
  "shape within": (
    lambda d: edit(d, 3, "t2", lambda v: v[1:]), 3, "geometry", "t2 has 23 x 24 x 24 voxels, flair 24 x 24 x 24"
  ),
  "spacing within": (
    lambda d: edit(d, 3, "t1", affine=THICK), 3, "geometry", "t1 has voxels of 1 x 1 x 2 mm, flair of 1 x 1 x 1 mm"
  ),
  "orientation within": (
    lambda d: edit(d, 3, "seg", affine=FLIP),
    3, "geometry", "segmentation has orientation RPS, flair LPS",
  ),
  "place within": (
    lambda d: edit(d, 3, "t2", affine=MOVED),
    3, "geometry", r"t2 lies elsewhere than flair: .* \(-3, 23, 0\) mm, not \(-?0, 23",
  ),
  "turned within": (lambda d: edit(d, 3, "t2", affine=turned(20)), 3, "geometry", "t2 is turned against flair"),
  "NaN": (lambda d: edit(d, 4, "t1", put(np.nan, kind=np.float32)), 4, "not_finite", "t1 has 2 voxels that are NaN"),
  "infinite": (
    lambda d: edit(d, 4, "t1", put(-np.inf, (10, 10, 10), np.float32)),
    4, "not_finite", "t1 has 1 voxel that is infinite$",
  ),
  "both": (
    lambda d: edit(d, 4, "t1", put([np.inf, np.nan], kind=np.float64)),
    4, "not_finite", "t1 has 2 voxels that are NaN or infinite$",
  ),
  "too large": (
    lambda d: edit(d, 4, "t1", put(3e38, kind=np.float32)), 4, "not_finite", r"2 voxels that are beyond 1e\+18$"
  ),
  "beyond single precision": (
    lambda d: edit(d, 4, "t1", put(-1e39, kind=np.float64)), 4, "not_finite", r"2 voxels that are beyond 1e\+18$"
  ),
  "no range": (
    lambda d: edit(d, 4, "t1", lambda v: np.where(v, 1e9 + 0.01 * v, 0)),
    4, "constant", r"t1 is from 100000000\d\.\d+ to 100000000\d\.\d+, between which single precision has nothing",
  ),
  "zero": (lambda d: edit(d, 5, "t1ce", lambda v: v * 0), 5, "constant", "t1ce is 0 in every voxel"),
  "constant": (lambda d: edit(d, 5, "t1ce", lambda v: v * 0 + 7), 5, "constant", "t1ce is 7 in every voxel"),
  "mask": (
    lambda d: edit(d, 5, "t1ce", lambda v: (v > 0).astype(np.int16)),
    5, "constant", "t1ce is 1 in every voxel that is not zero",
  ),
  "label": (
    lambda d: edit(d, 0, "seg", put([3, 7])),
    0, "labels", r"2 voxels with labels \(3, 7\) that schema brats2019 .* \(0, 1, 2, 4\)",
  ),
  "label of a resampling": (
    lambda d: edit(d, 0, "seg", put([0.5, -1], kind=np.float32)), 0, "labels", r"2 voxels with labels \(-1, 0.5\)"
  ),
  "probabilities": (
    lambda d: edit(d, 0, "seg", put(np.linspace(0.1, 0.9, 50).reshape(10, 5), np.s_[10, 8:18, 8:13], np.float32)),
    0, "labels", r"50 voxels with labels \(0\.1\d*, .*, \.\.\.\)",
  ),
  "label NaN": (
    lambda d: edit(d, 0, "seg", put(np.nan, kind=np.float32)),
    0, "labels", r"2 voxels with labels \(nan\)",
  ),
  "outside": (
    lambda d: edit(d, 1, "seg", put(2, CORNER)),
    1, "outside_box", "^3 voxels with a label outside the box of the brain$",
  ),
  "in a hole": (
    lambda d: edit(d, 1, "seg", put(2, corner_of_the_brain(d, 1))),
    1, "outside_brain", "^1 voxel with a label outside the brain, where all modalities are 0$",
  ),
  "no ET": (lambda d: edit(d, 1, "seg", lambda v: np.where(v == 4, 1, v)), 1, "empty_region", "region ET is empty"),
  "no tumour": (lambda d: edit(d, 1, "seg", lambda v: v * 0), 1, "empty_region", "regions WT, TC, ET are empty"),
  "unlabelled": (lambda d: path(d, 4, "seg").unlink(), 4, "unlabelled", "no segmentation, which 5 of 6 cases have"),
  "scaled": (
    lambda d: edit(d, 3, "t1", slope=1.125),
    3, "scale", "t1.nii.gz has scale factors, slope 1.125 and intercept 0",
  ),
  "put_right": (
    lambda d: edit(d, 3, "seg", lambda voxels: voxels * np.float32(1.0001)),
    3, "put_right", "labels of .*seg.nii.gz are whole numbers but for rounding",
  ),
  "shape": (crop, 2, "shape", "shape 24 x 24 x 22, but 24 x 24 x 24 in 5 of 6 cases"),
  "spacing": (all_of(2, THICK), 2, "spacing", "voxel size 1 x 1 x 2 mm, but 1 x 1 x 1 mm in 5 of 6 cases"),
  "orientation": (all_of(2, FLIP), 2, "orientation", "orientation RPS, but LPS in 5 of 6 cases"),
  "place": (all_of(2, MOVED), 2, "affine", r"first voxel is at \(-3, 23, 0\) mm, but at \(-?0, 23, 0\) in 5 of 6"),
  "turned": (all_of(2, turned(20)), 2, "affine", "the axes are turned against those of 5 of 6 cases"),
  "twice in a case": (
    lambda d: shutil.copy(path(d, 3, "t1"), path(d, 3, "t2")),
    3, "duplicate", "P_4_t2.nii.gz is .*P_4_t1.nii.gz, byte for byte",
  ),
  "twice": (
    lambda d: shutil.copy(path(d, 1, "t1"), path(d, 3, "t1")),
    3, "duplicate", "P_4_t1.nii.gz is .*P_2_t1.nii.gz of BraTS19_P_2",
  ),
  "bright": (
    lambda d: edit(d, 5, "t1", lambda v: v * 12),
    5, "intensity", "intensities of t1 .*median .*, 99th percentile",
  ),
  "background": (
    lambda d: edit(d, 5, "t1", lambda v: np.where(v == 0, 654, v)),
    5, "background", "^the background is not 0, but 654 in t1$",
  ),
  "one bright voxel": (
    lambda d: edit(d, 5, "t1", put(32767, (10, 10, 10))),
    5, "range", r"^a few voxels rule the range of t1, \d+ to 32767: nearly all lie from 268 to 664, 1.2% of it$",
  ),
  "one dark voxel": (lambda d: edit(d, 5, "t1", put(-32000, (10, 10, 10))), 5, "range", "range of t1, -32000 to"),
  "sform and pixdim": (
    lambda d: rewrite_headers(d, 4, pixdim=(1.3, 1.3, 10)),
    4, "header",
    "header of flair, t1, t1ce, t2, segmentation: the sform has voxels of 1 x 1 x 1 mm, pixdim says 1.3 x 1.3 x 10 mm",
  ),
  "sform and qform": (
    lambda d: rewrite_headers(d, 4, FILES[:1], qform=np.diag([-1.0, -1, 1, 1])),
    4, "header", "header of flair: sform and qform place voxels up to 23 mm apart",
  ),
  "mirrored qform": (
    lambda d: rewrite_headers(d, 4, qform=np.diag([1.0, -1, 1, 1])), 4, "header", "orientation LPS, the qform RPS"
  ),
  "micrometres": (
    lambda d: rewrite_headers(d, 4, unit="micron"), 4, "header", "lengths are said to be micrometres, and taken as mm"
  ),
  "negative": (
    lambda d: edit(d, 5, "t1", lambda v: np.where(v > 0, v - 2000, 0).astype(np.int16)), 5, "intensity", "t1 .*median -"
  ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named_and_nothing_else(data, tmp_path, fault):
  plant, case, kind, words = FAULTS[fault]
  plant(data)
  inspection = inspect_cases(data, workers=1)
  (finding,) = inspection.findings
  assert (finding.case, finding.kind) == (NAMES[case], kind)
  assert finding.severity == KINDS[kind].split(":")[0]
  with pytest.raises(InputError, match=words):
    raise InputError(finding.reason)
  assert finding.remedy
  assert inspection.names == tuple(NAMES)
  # An error is what preprocessing refuses, a warning is what it takes.
  if finding.severity == "error":
    assert inspection.summary["usable"] == 5
    with pytest.raises(InputError, match=NAMES[case]):
      preprocess(data, tmp_path / "out", schema=BRATS2019, folds=2, workers=1)
  else:
    assert len(preprocess(data, tmp_path / "out", schema=BRATS2019, folds=2, workers=1).cases) == 6


def test_every_kind_was_planted():
  assert {kind for _, _, kind, _ in FAULTS.values()} == set(KINDS)


def test_many_faults_at_once_do_not_hide_each_other(data):
  path(data, 0, "t2").write_bytes(b"")
  edit(data, 0, "t1", lambda voxels: voxels * 0)
  edit(data, 0, "seg", put(9))
  path(data, 1, "flair").unlink()
  edit(data, 2, "t1", slope=1.125)
  findings = {(finding.case, finding.kind) for finding in inspect_cases(data).findings}
  first, second, third = NAMES[:3]
  assert findings == {
    (first, "unreadable"), (first, "constant"), (first, "labels"), (second, "files"), (third, "scale")
  }


def test_cases_with_a_segmentation_are_counted_whatever_else_is_wrong(data):
  path(data, 0, "flair").unlink()
  path(data, 1, "seg").unlink()
  path(data, 2, "seg").rename(path(data, 2, "truth"))
  path(data, 3, "seg").write_bytes(b"")
  shutil.copy(path(data, 4, "seg"), path(data, 4, "seg").with_suffix(""))
  inspection = inspect_cases(data)
  # The first lacks an image, the fourth cannot be read, the fifth has two; the second and third have none.
  assert inspection.labelled == {NAMES[i] for i in (0, 3, 4, 5)}
  assert inspection.summary["labelled"] == 4
  assert "6 cases in" in (text := shown(inspection, 200))
  assert "4 with a segmentation" in text


def test_what_is_in_a_good_folder(good):
  inspection = inspect_cases(good)
  assert inspection.ok
  assert inspection.others == ()
  summary = inspection.to_dict()["summary"]
  truths = [np.asarray(nib.load(path(good, i, "seg")).dataobj) for i in range(6)]
  assert summary | {"labels": None} == {
    "cases": 6, "usable": 6, "labelled": 6, "shapes": {"24 x 24 x 24": 6}, "spacings": {"1 x 1 x 1 mm": 6},
    "orientations": {"LPS": 6}, "labels": None, "findings": {},
  }
  assert {value: entry["voxels"] for value, entry in summary["labels"].items()} == {
    str(value): sum(int((truth == value).sum()) for truth in truths) for value in (0, 1, 2, 4)
  }
  first = inspection.to_dict()["cases"][NAMES[0]]
  values = np.asarray(nib.load(path(good, 0, "t2")).dataobj)
  values = np.sort(values[values != 0])
  assert first["intensities"]["t2"] == {
    "low": values[0], "high": values[-1],
    "median": np.percentile(values, 50, method="lower"), "percentile99": np.percentile(values, 99, method="lower"),
  }
  assert first["shape"] == [24, 24, 24]
  assert first["orientation"] == "LPS"
  assert len(first["checksums"]) == 5


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(tmp_path, capsys, layout, labels):
  names = write_layout(layout, tmp_path / "data", 6, SHAPE, seed=SEED, labels=labels)
  inspection = inspect_cases(tmp_path / "data")
  assert inspection.findings == ()
  assert inspection.schema.name == ("brats2023" if layout == "brats2024" and not labels else layout)
  assert inspection.names == tuple(names)
  assert inspection.summary["labelled"] == 6 * labels
  assert f"schema {inspection.schema.name}" in capsys.readouterr().err


@pytest.mark.parametrize("layout", LAYOUTS)
def test_faults_in_every_layout(tmp_path, layout):
  names = write_layout(layout, tmp_path, 6, SHAPE, seed=SEED)
  (truth,) = [p for p in tmp_path.rglob(f"{names[2]}*.nii.gz") if "labels" in str(p) or "seg" in p.name]
  (image, *_) = [p for p in sorted(tmp_path.rglob(f"{names[4]}*.nii.gz")) if "labels" not in str(p)]
  save(truth, put(9)(np.asarray(nib.load(truth).dataobj).copy()))
  image.write_bytes(image.read_bytes()[:-30])
  findings = [(finding.case, finding.kind) for finding in inspect_cases(tmp_path).findings]
  assert findings == [(names[2], "labels"), (names[4], "unreadable")]


def test_2023_and_2024_are_told_by_label_4_and_by_hand(tmp_path):
  write_layout("brats2024", tmp_path, 3, SHAPE, seed=SEED, cavity=False)
  inspection = inspect_cases(tmp_path)
  assert (inspection.schema.name, [schema.name for schema in inspection.others]) == ("brats2023", ["brats2024"])
  assert inspection.ok
  given = inspect_cases(tmp_path, schema="brats2024")
  assert given.others == ()
  assert [(f.kind, f.reason) for f in given.findings] == [("empty_region", "region RC is empty")] * 3


def test_a_wrong_number_of_channels_is_an_error(tmp_path):
  names = write_layout("decathlon", tmp_path, 2, SHAPE, seed=SEED)
  image = tmp_path / "imagesTr" / f"{names[0]}.nii.gz"
  save(image, np.asarray(nib.load(image).dataobj)[..., :3])
  (finding,) = inspect_cases(tmp_path).findings
  assert (finding.case, finding.kind) == (names[0], "unreadable")
  assert "has 3 channels instead of flair, t1, t1ce, t2" in finding.reason


def test_cases_that_all_differ_are_said_once(tmp_path):
  for i, depth in enumerate((24, 26, 28, 30)):
    write_layout("brats2019", tmp_path / str(i), 1, (24, 24, depth), seed=SEED)
    (tmp_path / str(i) / NAMES[0]).rename(tmp_path / f"c{i}")
    for file in (tmp_path / f"c{i}").iterdir():
      file.rename(file.with_name(file.name.replace(NAMES[0], f"c{i}")))
    (tmp_path / str(i)).rmdir()
  (finding,) = [f for f in inspect_cases(tmp_path).findings if f.kind not in ("affine", "empty_region")]
  assert (finding.case, finding.kind) == (None, "shape")
  assert finding.reason == (
    "the cases differ in shape: 24 x 24 x 24 in 1; 24 x 24 x 26 in 1; 24 x 24 x 28 in 1; and 1 others"
  )


def test_a_case_that_is_too_large_for_memory_stops_nothing(good, monkeypatch):
  read = examine_case.read_volume

  def limited(file, axes):
    if NAMES[1] in file.name:
      raise MemoryError
    return read(file, axes)

  monkeypatch.setattr(examine_case, "read_volume", limited)
  monkeypatch.setattr(examine_case, "read_labels", functools.partial(limited, axes=3))
  findings = inspect_cases(good, workers=2).findings
  assert {finding.case for finding in findings} == {NAMES[1]}
  assert len(findings) == 5
  assert "does not fit into memory" in findings[0].reason


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64, ">i2", ">f8"])
def test_each_type_of_voxels_is_counted_alike(tmp_path, good, kind):
  files = find_cases(good)[0][0]
  expected = examine(files, BRATS2019)
  shutil.copytree(files.folder, tmp_path / files.name)
  truth = tmp_path / files.name / files.segmentation.name
  image = nib.load(truth)
  nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(kind), image.affine), truth)
  got = examine(find_cases(tmp_path)[0][0], BRATS2019)
  assert got.labels == expected.labels
  assert list(got.labels) == [0, 1, 2, 4]
  assert got.findings == ()


@pytest.mark.parametrize(
  ("values", "limits"),
  [
    # Alike: a tenth is the least deviation, five of them e ** 0.5.
    ([100] * 5, (100 / np.exp(0.5), 100 * np.exp(0.5))),
    # Logarithms 0, 1, 2, 3, 4 around 2: their median absolute deviation is 1.
    (np.exp([0, 1, 2, 3, 4]), tuple(np.exp(2 + 5 * 1.4826 * side) for side in (-1, 1))),
    ([100] * 4, None),
    ([100] * 4 + [-3], None),
    ([100] * 5 + [-3, 0], (100 / np.exp(0.5), 100 * np.exp(0.5))),
    ([100] * 5 + [-1] * 6, None),
    ([1e-38] * 5 + [1e38] * 5, (1e0 / np.exp(500), np.exp(500))),
  ],
)
def test_limits_of_intensities_by_hand(values, limits):
  got = intensity_limits(np.asarray(values, float))
  assert got == (None if limits is None else pytest.approx(limits))


# The command


def test_the_command_in_a_good_folder(good, capsys):
  assert main(["inspect", f"--data_dir={good}"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) < 10
  assert lines[-1] == "nothing is wrong or strange"


@pytest.mark.parametrize("fault", ["NaN", "no ET"])
def test_the_command_says_what_it_found_and_writes_nothing_else(data, tmp_path, capsys, fault):
  FAULTS[fault][0](data)
  before = sorted(tmp_path.rglob("*"))
  assert main(["inspect", f"--data_dir={data}", "--workers=1", "--json=-"]) == 1
  shown = json.loads(capsys.readouterr().out)
  assert sorted(tmp_path.rglob("*")) == before
  assert main(["inspect", f"--data_dir={data}", f"--json={tmp_path / 'found.json'}"]) == 1
  assert NAMES[FAULTS[fault][1]] in capsys.readouterr().out
  assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "found.json"])
  content = json.loads((tmp_path / "found.json").read_text())
  assert content == shown
  assert not content["ok"]
  assert [entry["case"] for entry in content["findings"]] == [NAMES[FAULTS[fault][1]]]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--data_dir={tmp}/none"], "data_dir must be a folder of cases"),
    (["--data_dir={tmp}"], "holds no case"),
    (["--data_dir={data}", "--schema=brats2003"], "there is no schema 'brats2003'"),
    (["--data_dir={data}", "--workers=0"], "workers"),
    (["--data_dir={data}", "--json={tmp}/none/x.json"], "--json must name a file in a folder that is there"),
    (["--data_dir={data}", "--json={tmp}"], "--json must name a file"),
    (["--data_dir={data}", "--json="], "flag --json=: it is empty; give a path"),
    (["--data_dir={data}", "--json={tmp}/" + "x" * 300], "a name may have 230 bytes"),
    ([], "--data_dir is missing"),
  ],
)
def test_wrong_flags(good, tmp_path, capsys, flags, message):
  (tmp_path / "sub").mkdir()
  given = [flag.format(tmp=tmp_path, data=good) for flag in flags]
  assert main(["inspect", *given]) == 2
  assert message in capsys.readouterr().err


# The table


def shown(inspection, width):
  console = Console(width=width, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
  console.print(render(inspection))
  return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_a_finding_that_many_cases_share_has_one_row(data, width):
  for case in range(5):
    edit(data, case, "seg", lambda voxels: np.where(voxels == 4, 1, voxels))
  edit(data, 5, "t1", slope=1.125)
  text = shown(inspect_cases(data), width)
  assert max(map(len, text.splitlines())) <= width
  assert " ".join(text.split()).count("region ET is empty") == 1
  assert f"{NAMES[0]}, {NAMES[1]}, {NAMES[2]}, ...: region" in " ".join(text.split())
  assert "5 cases" in text
  assert "6 warnings in 6 cases; 6 of 6 cases can be used" in text


def test_names_of_files_cannot_command_the_terminal(good, tmp_path):
  inspection = inspect_cases(good)
  bad = dataclasses.replace(
    inspection,
    findings=(examine_case.Finding("a\x1b[31m[bold]\udce9\n", "error", "files", "[red]x[/]\x07", "y"),),
  )
  text = shown(bad, 80)
  assert r"a\x1b[31m[bold]\udce9\n" in text
  assert r"[red]x[/]\x07; y" in text
