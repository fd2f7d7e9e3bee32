"""Arrays that are no longer those of the manifest are found when the data set is opened."""

import dataclasses
import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import VERIFIED
from nas3d_jax.files.strict_json import write_json


@pytest.fixture
def folder(tmp_path, phantom_dataset):
  return shutil.copytree(phantom_dataset.folder, tmp_path / "dataset")


def array(folder, case=0, name="image.npy"):
  return sorted((folder / "cases").iterdir())[case] / name


def flip(path, *, keep_time=False):
  times = os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)
  if keep_time:
    os.utime(path, ns=times)


def test_the_manifest_holds_the_sum_of_each_file(phantom_dataset):
  for case in phantom_dataset.cases:
    files = (phantom_dataset.folder / "cases" / case.name).iterdir()
    assert case.arrays == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", ["image.npy", "labels.npy"])
def test_a_flipped_bit_is_found(folder, name, phantom_dataset):
  flip(array(folder, 2, name))
  case = phantom_dataset.cases[2].name
  message = rf"dataset is damaged: cases/{case}/{name} changed since preprocess wrote it: .* preprocess --overwrite`"
  for _ in range(2):
    with pytest.raises(InputError, match=message):
      Dataset.open(folder)


def test_an_array_of_the_same_shape_is_found(folder):
  image = np.load(array(folder))
  np.save(array(folder), image[::-1])
  with pytest.raises(InputError, match="changed since preprocess wrote it"):
    Dataset.open(folder)


def test_bytes_behind_the_array_are_found(folder):
  with array(folder).open("ab") as file:
    file.write(b"\0")
  with pytest.raises(InputError, match="changed since preprocess wrote it"):
    Dataset.open(folder)


def test_all_that_changed_are_counted(folder):
  for case in range(4):
    flip(array(folder, case))
    flip(array(folder, case, "labels.npy"))
  with pytest.raises(InputError, match="and 3 more changed"):
    Dataset.open(folder)


def test_a_case_of_another_data_set_is_found(folder):
  first, second = array(folder, 0).parent, array(folder, 1).parent
  shutil.rmtree(second)
  shutil.copytree(first, second)
  with pytest.raises(InputError, match="is damaged"):
    Dataset.open(folder)


def test_a_copy_is_compared_once(folder, capfd):
  for path in folder.rglob("*.npy"):
    os.utime(path)
  Dataset.open(folder)
  assert "check the data set" in capfd.readouterr().err
  Dataset.open(folder)
  assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [None, "", "{", "[]", "null", '{"cases/x": 1}'])
def test_the_note_of_what_was_compared_may_be_anything(folder, content, phantom_dataset):
  (folder / VERIFIED).unlink()
  if content is not None:
    (folder / VERIFIED).write_text(content)
  assert Dataset.open(folder).fingerprint == phantom_dataset.fingerprint
  assert set(json.loads((folder / VERIFIED).read_text())) == {
    f"cases/{case.name}/{name}" for case in phantom_dataset.cases for name in ("image.npy", "labels.npy")
  }


def test_a_note_of_other_sums_vouches_for_nothing(folder):
  notes = json.loads((folder / VERIFIED).read_text())
  flip(array(folder), keep_time=True)
  Dataset.open(folder)
  write_json(folder / VERIFIED, {name: [size, time, "0" * 64] for name, (size, time, _) in notes.items()})
  with pytest.raises(InputError, match="changed since preprocess wrote it"):
    Dataset.open(folder)


def test_a_data_set_from_before_opens_unchecked_with_the_same_fingerprint(folder, phantom_dataset):
  (folder / VERIFIED).unlink()
  cases = tuple(dataclasses.replace(case, arrays=None) for case in phantom_dataset.cases)
  old = dataclasses.replace(phantom_dataset, folder=folder, cases=cases)
  assert "arrays" not in old.manifest()["cases"][0]
  write_json(folder / "manifest.json", old.manifest())
  flip(array(folder))
  assert Dataset.open(folder).fingerprint == phantom_dataset.fingerprint
  assert not (folder / VERIFIED).exists()


@pytest.mark.parametrize(
  "arrays", [{}, None, {"image.npy": "0" * 64}, {"image.npy": "0" * 63, "labels.npy": "0" * 64}, ["image.npy"]]
)
def test_sums_that_are_none_are_refused(folder, arrays):
  manifest = json.loads((folder / "manifest.json").read_text())
  manifest["cases"][0]["arrays"] = arrays
  (folder / "manifest.json").write_text(json.dumps(manifest))
  with pytest.raises(InputError, match="arrays of case 'Phantom_0001' in the manifest is wrong"):
    Dataset.open(folder)


def test_preprocess_again_reads_everything(tmp_path):
  """Also what changed without leaving a trace in its time."""
  write_phantoms(tmp_path / "data", cases=2, seed=0, shape=(16, 16, 16))
  folder = preprocess(tmp_path / "data", tmp_path / "dataset", folds=2).folder
  flip(array(folder), keep_time=True)
  Dataset.open(folder)
  with pytest.raises(InputError, match=r"image.npy changed since preprocess wrote it.*give --overwrite"):
    preprocess(tmp_path / "data", folder, folds=2)
  preprocess(tmp_path / "data", folder, folds=2, overwrite=True)
  preprocess(tmp_path / "data", folder, folds=2)


def test_an_interrupted_preprocess_keeps_no_damaged_case(tmp_path):
  write_phantoms(tmp_path / "data", cases=2, seed=0, shape=(16, 16, 16))
  whole = preprocess(tmp_path / "data", tmp_path / "whole", folds=2)
  partial = tmp_path / ".dataset.partial"
  shutil.copytree(whole.folder / "cases", partial / "cases")
  (partial / "records").mkdir()
  for case in whole.cases:
    write_json(partial / "records" / f"{case.name}.json", dataclasses.replace(case, fold=None).to_dict())
  config = json.loads((whole.folder / "config.json").read_text())
  write_json(partial / "config.json", {name: config[name] for name in ("format", "version", "schema", "geometry")})
  untouched = array(partial, 1).stat().st_mtime_ns
  flip(array(partial, 0))
  dataset = preprocess(tmp_path / "data", tmp_path / "dataset", folds=2)
  assert [case.arrays for case in dataset.cases] == [case.arrays for case in whole.cases]
  assert array(dataset.folder, 0).read_bytes() == array(whole.folder, 0).read_bytes()
  assert array(dataset.folder, 1).stat().st_mtime_ns == untouched
