"""The folder of predictions: geometry to the bit, what is done stays done, other settings and files are refused."""

import dataclasses
import errno
import gzip
import json
import os
import struct

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.cases.case_files import CaseError, CaseFiles
from nas3d_jax.data.cases.find_and_read import RawCase
from nas3d_jax.errors import InputError
from nas3d_jax.inference import prediction_folder
from nas3d_jax.inference.prediction_folder import DiskError, PredictionFolder, write_volume

SETTINGS = {"schema": {"name": "s"}, "patch_size": 16, "checkpoints": {"aa": "runs/a"}, "probabilities": False}
OBLIQUE = np.array([[-0.8, 0.3, 0.1, 90.5], [0.2, 1.1, -0.4, -126.25], [0.1, 0.5, 2.5, -72], [0, 0, 0, 1]])


def header_of(shape, *, affine=OBLIQUE, codes=(1, 1), units=("mm", "sec"), endian="<", scale=(2.0, -5.0)):
  """A header such as scanners write: scaled int16, a text, a display range, an intent."""
  header = nib.Nifti1Header(endianness=endian)
  header.set_data_shape(shape)
  header.set_data_dtype(np.int16)
  header.set_qform(affine, code=codes[0], strip_shears=True)
  header.set_sform(affine, code=codes[1])
  header.set_xyzt_units(*units)
  header.set_slope_inter(*scale)
  header.set_intent("t test", (7,), name="contrast")
  header["vox_offset"], header["pixdim"][4] = 1024, 2.5  # as behind extensions, and of a file with a fourth axis
  header["cal_max"], header["descrip"] = 900, b"made by a scanner"
  return header


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"codes": (0, 4)},
    {"codes": (2, 0), "units": ("micron", "msec")},
    {"codes": (0, 0)},
    {"endian": ">"},
    {"scale": (0.5, 1024)},
    {"scale": (None, None)},
    {"affine": np.diag([-1.0, -1, 1, 1])},
  ],
)
def test_geometry_is_the_inputs_to_the_bit(tmp_path, changes, channels):
  shape = (5, 4, 3)
  like = header_of(shape, **changes)
  dtype = np.float32 if channels else np.uint8
  values = np.random.default_rng(0).integers(0, 5, shape + channels).astype(dtype)
  write_volume(tmp_path / "x.nii.gz", values, like)
  got = nib.load(tmp_path / "x.nii.gz")
  assert got.shape == shape + channels
  assert got.get_data_dtype().newbyteorder("=") == dtype
  np.testing.assert_array_equal(np.asarray(got.dataobj), values)
  np.testing.assert_array_equal(got.affine, like.get_best_affine())
  for field in ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
                "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units", "descrip"):
    assert got.header[field].tobytes() == like[field].tobytes(), field
  raw = gzip.decompress((tmp_path / "x.nii.gz").read_bytes())
  assert struct.unpack(changes.get("endian", "<") + "2f", raw[112:120]) == (1.0, 0.0)  # slope and intercept
  # What the input says of its own values does not hold for labels.
  assert got.header.get_intent() == ("none", (), "")
  assert [float(got.header[name]) for name in ("cal_min", "cal_max")] == [0, 0]
  assert like["cal_max"] == 900  # the input's header is left alone
  assert like.get_intent()[0] == "t test"
  assert [path.name for path in tmp_path.iterdir()] == ["x.nii.gz"]


def test_equal_arrays_give_equal_files(tmp_path):
  values = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
  for name in "ab":
    write_volume(tmp_path / f"{name}.nii.gz", values, header_of((5, 4, 3)))
  assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.fixture
def case(tmp_path):
  """A case of one modality, as it is read."""
  path = tmp_path / "data" / "c_flair.nii"
  path.parent.mkdir()
  path.write_bytes(b"abc")
  files = CaseFiles("c", None, path.parent, (path,), None)
  # Of printf abc | sha256sum.
  sums = {path.name: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
  return RawCase(files, np.zeros((5, 4, 3, 1)), None, OBLIQUE, header_of((5, 4, 3)), (1.0, 1.0, 1.0), sums)


LABELS = np.ones((5, 4, 3), np.uint8)


def open_(tmp_path, *, cases=("c",), overwrite=False, **changes):
  return PredictionFolder(tmp_path / "out", settings=SETTINGS | changes, cases=cases, overwrite=overwrite)


def test_done_once_written_and_known_the_next_time(tmp_path, case):
  folder = open_(tmp_path, cases=("c", "d"))
  assert not folder.is_done(case.files)
  folder.write(case, LABELS, None)
  assert folder.is_done(case.files)
  again = open_(tmp_path, checkpoints={"aa": "moved/a"})  # the same checkpoint in another place
  assert again.is_done(case.files)
  record = json.loads((tmp_path / "out" / "predictions.json").read_text())
  assert record["settings"] == SETTINGS | {"checkpoints": {"aa": "moved/a"}}
  assert record["cases"] == {"c": case.checksums, "d": None}
  (tmp_path / "out" / "c.nii.gz").unlink()
  assert not open_(tmp_path).is_done(case.files)


def test_probabilities_lie_in_a_folder_of_their_own(tmp_path, case):
  folder = open_(tmp_path, probabilities=True)
  folder.write(case, LABELS, np.full((5, 4, 3, 2), 0.25, np.float32))
  assert sorted(path.name for path in (tmp_path / "out").glob("*.nii*")) == ["c.nii.gz"]
  stored = nib.load(tmp_path / "out" / "probabilities" / "c.nii.gz")
  np.testing.assert_array_equal(stored.get_fdata(), np.full((5, 4, 3, 2), 0.25))
  (tmp_path / "out" / "probabilities" / "c.nii.gz").unlink()
  assert not folder.is_done(case.files)


def test_probabilities_are_not_written_through_a_link(tmp_path):
  (tmp_path / "theirs").mkdir()
  (tmp_path / "theirs" / "c.nii.gz").write_text("keep me")
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "probabilities").symlink_to(tmp_path / "theirs")
  for overwrite in (False, True):
    with pytest.raises(InputError, match=r"probabilities is a link to .*theirs; nothing is written through it"):
      open_(tmp_path, overwrite=overwrite, probabilities=True)
  assert (tmp_path / "theirs" / "c.nii.gz").read_text() == "keep me"


def test_other_images_are_refused(tmp_path, case):
  open_(tmp_path).write(case, LABELS, None)
  case.files.images[0].write_bytes(b"abd")
  with pytest.raises(CaseError, match=r"c: it was predicted in .* from other images; give --overwrite"):
    open_(tmp_path).is_done(case.files)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"patch_size": 32}, "was predicted with patch_size=16, got 32; give --overwrite to predict anew, or another"),
    ({"probabilities": True}, "was predicted with probabilities=False, got True"),
    ({"checkpoints": {"aa": "runs/a", "bb": "runs/b"}}, "was predicted with checkpoints=.*runs/a.*runs/b"),
    ({"schema": {"name": "t"}}, "was predicted with schema="),
    ({"geometry": {"orientation": "LPS"}}, "was predicted with geometry=None, got {'orientation': 'LPS'}"),
  ],
)
def test_other_settings_are_refused_unless_overwritten(tmp_path, case, changes, message):
  open_(tmp_path).write(case, LABELS, None)
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(InputError, match=message):
    open_(tmp_path, **changes)
  assert sorted(tmp_path.rglob("*")) == before
  folder = open_(tmp_path, cases=("d",), overwrite=True, **changes)
  assert not (folder.folder / "c.nii.gz").exists()  # else predictions of two kinds would lie side by side
  assert json.loads((folder.folder / "predictions.json").read_text())["cases"] == {"d": None}


def test_settings_that_are_no_more_are_other_settings(tmp_path, case):
  open_(tmp_path, folds={"c": 0}).write(case, LABELS, None)
  with pytest.raises(InputError, match=r"was predicted with folds={'c': 0}, got None; give --overwrite"):
    open_(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_volumes_of_others_are_never_touched(tmp_path, case, overwrite, recorded):
  if recorded:
    open_(tmp_path).write(case, LABELS, None)
  (tmp_path / "out").mkdir(exist_ok=True)
  (tmp_path / "out" / "d.nii.gz").write_bytes(b"drawn by hand")
  with pytest.raises(InputError, match=r"holds d.nii.gz, predicted by no run; move it away"):
    open_(tmp_path, cases=("c", "d"), overwrite=overwrite)
  assert (tmp_path / "out" / "d.nii.gz").read_bytes() == b"drawn by hand"


def test_what_a_killed_run_left_is_predicted_again(tmp_path, case):
  folder = open_(tmp_path)
  write_volume(folder.folder / "c.nii.gz", LABELS, case.header)  # killed before it was recorded
  (folder.folder / ".c.nii.gz.partial").write_bytes(b"half")
  again = open_(tmp_path)
  assert not again.is_done(case.files)
  again.write(case, LABELS, None)
  assert again.is_done(case.files)
  assert sorted(path.name for path in folder.folder.iterdir()) == ["c.nii.gz", "predictions.json"]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "predictions.json cannot be read"),
    ("[]", "predictions.json is no record of predictions"),
    ('{"format": "other"}', "predictions.json is no record of predictions"),
    (
      '{"format": "nas3d_jax.predictions", "version": 9, "settings": {}, "cases": {}}',
      "predictions.json has version 9, this nas3d_jax reads 1",
    ),
  ],
)
def test_a_record_that_is_none(tmp_path, text, message):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "predictions.json").write_text(text)
  with pytest.raises(InputError, match=message):
    open_(tmp_path)


@pytest.mark.parametrize("name", ["c.nii.gz", ".c.nii.gz.partial"])
def test_what_is_in_the_way_of_a_file_is_said_of_that_case(tmp_path, case, name):
  folder = open_(tmp_path)
  (folder.folder / name).mkdir()
  message = rf"c: its prediction cannot be written to .*{name} \(Is a directory\); move away"
  with pytest.raises(CaseError, match=message):
    folder.write(case, LABELS, None)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("call", ["write", "fsync", "replace", "record"])
def test_a_full_disk_leaves_what_is_done_and_nothing_half(tmp_path, case, monkeypatch, call, probabilities):
  """Wherever in the writing of a case it fails: room made, the next run goes on."""
  folder = open_(tmp_path, cases=("c", "d"), probabilities=probabilities)
  values = np.zeros((5, 4, 3, 2), np.float32) if probabilities else None
  folder.write(case, LABELS, values)
  before = {path: path.read_bytes() for path in folder.folder.rglob("c.nii.gz")}
  record = (folder.folder / "predictions.json").read_bytes()
  other = dataclasses.replace(case, files=dataclasses.replace(case.files, name="d"))

  def full(*arguments, **more):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    if call == "write":
      patch.setattr(gzip.GzipFile, "write", full)
    elif call == "record":
      patch.setattr(prediction_folder, "write_json", full)
    else:
      patch.setattr(os, call, full)
    with pytest.raises(DiskError, match=r"the prediction of d cannot be written to .*No space left.*; make room"):
      folder.write(other, LABELS, values)
  assert not [*folder.folder.rglob("*.partial")]
  assert {path: path.read_bytes() for path in folder.folder.rglob("c.nii.gz")} == before
  assert (folder.folder / "predictions.json").read_bytes() == record
  again = open_(tmp_path, cases=("c", "d"), probabilities=probabilities)
  assert again.is_done(case.files)
  assert not again.is_done(other.files)
  again.write(other, LABELS, values)
  assert again.is_done(other.files)


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match=r"file.* cannot be (read|written to) \(.*Not a directory"):
    PredictionFolder(tmp_path / "file" / "out", settings=SETTINGS, cases=("c",))


def test_a_run_that_predicted_nothing_binds_nobody(tmp_path):
  PredictionFolder(tmp_path / "out", settings=SETTINGS, cases=["A"])
  other = {**SETTINGS, "patch_size": 32}
  PredictionFolder(tmp_path / "out", settings=other, cases=["B"])
  record = json.loads((tmp_path / "out" / "predictions.json").read_text())
  assert (record["settings"], record["cases"]) == (other, {"B": None})
  # A volume that a killed run left, not recorded yet, was made with these settings.
  (tmp_path / "out" / "B.nii.gz").write_bytes(b"")
  with pytest.raises(InputError, match=r"was predicted with patch_size=32, got 16; give --overwrite"):
    PredictionFolder(tmp_path / "out", settings=SETTINGS, cases=["A"])
