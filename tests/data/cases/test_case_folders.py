"""Which folders are cases: not what this library writes, nor folders that only share a case's name."""

import pytest

from nas3d_jax.data.cases.detect_schema import find_schema
from nas3d_jax.data.cases.find_and_read import find_cases, read_case
from nas3d_jax.data.cases.segmentations import find_segmentations
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.inspection.inspect_cases import inspect_cases
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.errors import InputError
from tests.support.layouts import write_layout


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


@pytest.mark.parametrize("run", ["run", "."])
def test_a_second_start_with_the_run_among_the_cases(data, run, capfd):
  names, _ = found(data)
  made = preprocess(data, data / run / "dataset", folds=2)
  assert preprocess(data, data / run / "dataset", folds=2) == made
  assert "reused" in capfd.readouterr().err
  inspection = inspect_cases(data)
  assert inspection.names == tuple(names)
  assert {finding.kind for finding in inspection.findings} <= {"empty_region"}


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
  assert faults[0].startswith(f"Lost: no flair image Lost_flair.nii.gz or .nii in {folder};")


def test_messages_name_the_whole_folder(data):
  names, _ = found(data)
  deep = data / "copies" / "HGG" / "Deep"
  deep.mkdir(parents=True)
  for end in ("_flair.nii", "_flair.nii.gz", "_truth.nii"):
    (deep / f"Deep{end}").write_bytes(b"")
  cases, faults = found(data)
  assert cases == names
  assert f"Deep: flair is there twice: Deep_flair.nii and Deep_flair.nii.gz in {deep};" in faults[0]
  assert f"Deep: no t1 image Deep_t1.nii.gz or .nii in {deep} (" in faults[1]
  assert f"in {deep}, but Deep_truth.nii is there;" in faults[-1]


def test_predicted_and_scored_right_among_the_cases(data):
  names, _ = found(data)
  truths, _ = find_segmentations(data)
  for folder in (data, *{path.parents[1] for path in data.rglob("*_t1.nii.gz")}):
    (folder / "predictions.json").write_text("{}")
    (folder / "probabilities").mkdir(parents=True)
    for name in names:
      for place in (folder, folder / "probabilities"):
        (place / f"{name}.nii.gz").write_bytes(b"")
    (folder / "scores.json").write_text("{}")
  assert found(data) == (names, [])
  assert find_segmentations(data) == (truths, [])


def test_scores_in_a_cases_own_folder_hide_it_not(data):
  names, _ = found(data)
  folder = next(data.rglob(f"{names[0]}_t1.nii.gz")).parent
  (folder / "scores.json").write_text("{}")
  assert found(data) == (names, [])


def test_a_page_of_ones_own_hides_no_cases(data):
  names, _ = found(data)
  (data / "index.html").write_text("<p>my data</p>")
  assert found(data) == (names, [])
  (data / "figures").mkdir()
  assert found(data) == (names, [])


@pytest.mark.parametrize("hidden", [".lock", ".dataset.lock", ".dataset.partial", ".dataset.former"])
def test_a_run_that_was_killed_is_no_case(data, hidden):
  names, _ = found(data)
  (data / "run").mkdir()
  (data / "run" / hidden).write_text("")
  assert found(data) == (names, [])
  (data / "run" / hidden).unlink()
  assert found(data)[1][0].startswith("run: no flair image")


def test_what_was_predicted_is_no_truth(tmp_path):
  names = write_layout("nnunet", tmp_path, 2, (16, 16, 16), labels=False)
  (tmp_path / "labelsTs").mkdir()
  for name in names:
    (tmp_path / "labelsTs" / f"{name}.nii.gz").write_bytes(b"")
  schema = find_schema(tmp_path, labels=False)
  assert find_segmentations(tmp_path, schema)[0].keys() == set(names)
  (tmp_path / "labelsTs" / "predictions.json").write_text("{}")
  assert find_segmentations(tmp_path, schema) == ({}, [])
  cases, faults = find_cases(tmp_path, schema)
  assert [case.segmentation for case in cases] == [None, None]
  assert faults == []


def test_images_and_labels_of_one_name_are_told_apart(tmp_path):
  (name,) = write_layout("decathlon", tmp_path, 1, (16, 16, 16))
  (tmp_path / "labelsTr" / f"{name}.nii.gz").write_bytes(b"")
  schema = find_schema(tmp_path, "decathlon")
  ((case,), _) = find_cases(tmp_path, schema)
  with pytest.raises(InputError, match=rf"^{name}: labelsTr/{name}.nii.gz is truncated"):
    read_case(case, schema)


def test_a_link_to_nowhere(data):
  names, _ = found(data)
  path = next(data.rglob(f"{names[0]}_t1.nii.gz"))
  path.unlink()
  path.symlink_to(data / "gone.nii.gz")
  _, (fault,) = found(data)
  said = f"{names[0]}_t1 in {path.parent} is a link to nowhere; copy the file there, or correct the link"
  assert fault == f"{names[0]}: {said}"


def test_files_without_the_name_of_their_case(data):
  names, _ = found(data)
  truths = find_segmentations(data, find_schema(data))[0]
  for name in names:
    folder = next(path for path in data.rglob(name) if path.is_dir())
    for path in list(folder.iterdir()):
      path.rename(folder / path.name.removeprefix(f"{name}_"))
  assert found(data) == (names, [])
  assert find_schema(data).name == "brats2019"
  assert find_segmentations(data, find_schema(data))[0].keys() == truths.keys()
  (folder / f"{name}_flair.nii.gz").symlink_to(folder / "flair.nii.gz")
  assert "flair is there twice" in found(data)[1][0]
