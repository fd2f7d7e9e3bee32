"""Names that are not UTF-8, as disks of older systems have them: refused by name before anything is written of them."""

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from launch.__main__ import main
from nas3d_jax.data.cases.case_files import Fault
from nas3d_jax.data.cases.find_and_read import find_cases
from nas3d_jax.data.cases.segmentations import find_segmentations
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.schema.builtin import DECATHLON

ODD = os.fsdecode(b"caf\xe9")
FAULT = r"caf\xe9: its name is not UTF-8, as those in records must be; rename it, folder and files"


def renamed(folder, name):
  """The folder of a case with another name, of which its files bear the name too."""
  for path in list(folder.iterdir()):
    path.rename(folder / path.name.replace(folder.name, name))
  return folder.rename(folder.with_name(name))


@pytest.fixture
def cases(tmp_path):
  """A folder of two cases, one of them with such a name."""
  first, *_ = write_phantoms(tmp_path / "data", cases=2, seed=0, shape=(16, 16, 16))
  renamed(first, ODD)
  return tmp_path / "data"


def test_such_a_case_is_refused_where_cases_are_found(cases):
  found, faults = find_cases(cases)
  assert ([case.name for case in found], [str(fault) for fault in faults]) == (["Phantom_0002"], [FAULT])


def test_in_a_folder_of_files_as_well(tmp_path):
  (tmp_path / "imagesTr").mkdir()
  content = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, "labels": {}}
  (tmp_path / "dataset.json").write_text(json.dumps(content))
  nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 4), np.int16), np.eye(4)), tmp_path / "imagesTr" / "case.nii.gz")
  shutil.copy(tmp_path / "imagesTr" / "case.nii.gz", tmp_path / "imagesTr" / f"{ODD}.nii.gz")
  found, faults = find_cases(tmp_path, DECATHLON)
  assert ([case.name for case in found], [str(fault) for fault in faults]) == (["case"], [FAULT])


def test_commands_say_so_and_write_nothing_of_it(cases, tmp_path, capsys):
  # Another case that cannot be read is not reached.
  for path in cases.rglob("Phantom_0002_t1.nii.gz"):
    path.write_bytes(b"")
  assert main(["preprocess", f"--data_dir={cases}", f"--workdir={tmp_path / 'run'}", "--folds=2"]) == 2
  said = capsys.readouterr().err
  assert f"1 of the cases in data_dir cannot be used, so nothing was written:\n  {FAULT}\n" in said
  assert "Phantom_0002" not in said
  assert not (tmp_path / "run").exists()
  assert main(["inspect", f"--data_dir={cases}", f"--json={tmp_path / 'found.json'}"]) == 1
  # What is written can be read again, by any reader.
  found = json.loads((tmp_path / "found.json").read_text("utf-8"))
  assert r"caf\xe9" in [finding["case"] for finding in found["findings"]]
  assert r"caf\xe9" in capsys.readouterr().out


def test_a_file_of_such_a_name_in_a_case_may_be_named_in_a_fault(tmp_path):
  (folder,) = write_phantoms(tmp_path / "data", cases=1, seed=0, shape=(16, 16, 16))
  (truth,) = folder.glob("*_seg.nii.gz")
  truth.rename(folder / f"{ODD}.nii.gz")
  (fault,) = find_cases(tmp_path / "data")[1]
  assert r"but caf\xe9.nii.gz is there" in fault.reason
  assert str(find_segmentations(tmp_path / "data")[1][0]).encode("utf-8")


def test_predictions_of_such_a_case_are_not_scored(cases, tmp_path, capsys):
  (truth,) = cases.glob(f"*/{ODD}/*_seg.nii.gz")
  (tmp_path / "predictions").mkdir()
  shutil.copy(truth, tmp_path / "predictions" / f"{ODD}.nii.gz")
  where = [f"--predictions={tmp_path / 'predictions'}", f"--data_dir={cases}", f"--out={tmp_path / 'scores'}"]
  assert main(["evaluate", *where]) == 2
  assert FAULT in capsys.readouterr().err
  assert not (tmp_path / "scores").exists()


def test_a_folder_of_such_a_name_above_the_cases_is_no_matter(tmp_path):
  write_phantoms(tmp_path / ODD / "data", cases=1, seed=0, shape=(16, 16, 16))
  found, faults = find_cases(tmp_path)
  assert ([case.name for case in found], faults) == (["Phantom_0001"], [])


def test_a_fault_is_a_text_that_any_file_can_hold():
  fault = Fault(ODD, f"of {ODD}", "rename é")
  assert str(fault) == r"caf\xe9: of caf\xe9; rename é"
