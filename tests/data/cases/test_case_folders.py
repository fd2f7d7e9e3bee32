"""Which folders are cases: not what this library writes, nor folders that only share a case's name."""

import pytest

from nas3d_jax.data.cases.find_and_read import find_cases
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.phantom import write_phantoms


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cases")
  write_phantoms(folder, cases=2, seed=0, shape=(16, 16, 16))
  return folder


@pytest.fixture
def data(phantoms, tmp_path):
  for path in phantoms.rglob("*.nii.gz"):
    place = tmp_path / path.relative_to(phantoms)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(path)
  return tmp_path


def found(folder):
  cases, faults = find_cases(folder)
  return [case.name for case in cases], [str(fault) for fault in faults]


def test_a_data_set_among_the_cases(data):
  names, _ = found(data)
  preprocess(data, data / "run" / "dataset", folds=2)
  assert found(data) == (names, [])


@pytest.mark.parametrize("record", ["predictions.json", "scores.json"])
def test_what_was_predicted_and_scored_among_the_cases(data, record):
  names, _ = found(data)
  out = data / "out" / names[0]
  out.mkdir(parents=True)
  (out / record).write_text("{}")
  (out / f"{names[0]}.nii.gz").write_bytes(b"")
  assert found(data) == (names, [])


@pytest.mark.parametrize("place", ["logs", "__MACOSX/HGG/{}", "copies/{}"])
def test_a_folder_without_images_hides_no_case(data, place):
  names, _ = found(data)
  folder = data / place.format(names[0])
  folder.mkdir(parents=True)
  (folder / "notes.txt").write_text("")
  assert found(data) == (names, [])


def test_a_case_without_its_images_is_missed(data):
  names, _ = found(data)
  folder = data / "HGG" / "Lost"
  folder.mkdir(parents=True)
  (folder / "Lost_flair.nrrd").write_text("")
  cases, faults = found(data)
  assert cases == names
  assert faults[0].startswith("Lost: no flair image Lost_flair.nii.gz")


def test_a_link_to_nowhere(data):
  names, _ = found(data)
  path = next(data.rglob(f"{names[0]}_t1.nii.gz"))
  path.unlink()
  path.symlink_to(data / "gone.nii.gz")
  _, faults = found(data)
  assert faults == [f"{names[0]}: {names[0]}_t1 is a link to nowhere; copy the file there, or correct the link"]
