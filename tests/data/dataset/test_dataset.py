"""A data set on disk: folds, memory maps, and every damage refused when it is opened."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.dataset.folds import assign_folds
from nas3d_jax.errors import InputError
from nas3d_jax.files.strict_json import write_json
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.schema.geometry import Geometry

CUBE = ((1, 3), (0, 3), (2, 6))


def make_case(name, fold):
  return Case(
    name=name,
    grade="HGG" if fold else None,
    fold=fold,
    shape=(4, 4, 8),
    cube=CUBE,
    low=(1.0, 2.0, -3.0, 0.5),
    high=(9.0, 9.0, 9.0, 9.0),
    label_counts=None if fold is None else {0: 126, 1: 1, 2: 0, 4: 1},
    affine=((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
    spacing=(1.0, 1.0, 1.0),
    checksums={f"{name}_t1.nii": "0" * 64},
  )


@pytest.fixture
def folder(tmp_path):
  """Four cases: two in fold 0, one in fold 1, one without labels."""
  cases = tuple(make_case(n, f) for n, f in (("a", 0), ("b", 1), ("c", 0), ("d", None)))
  dataset = Dataset(tmp_path, BRATS2019, cases, 2, 3, {"numpy": "2"})
  for index, case in enumerate(cases):
    path = tmp_path / "cases" / case.name
    path.mkdir(parents=True)
    np.save(path / "image.npy", np.full((2, 3, 4, 4), index, np.int16))
    if case.label_counts:
      np.save(path / "labels.npy", np.full((2, 3, 4), index, np.uint8))
  write_json(tmp_path / "manifest.json", dataset.manifest())
  return tmp_path


def names(cases):
  return "".join(case.name for case in cases)


def test_open(folder):
  dataset = Dataset.open(folder)
  assert names(dataset.cases) == "abcd"
  assert (dataset.folds, dataset.seed, dataset.schema) == (2, 3, BRATS2019)
  assert dataset.cases[1] == make_case("b", 1)
  assert dataset.cases[1].cube_shape == (2, 3, 4)
  assert len({*dataset.cases}) == 4


def test_arrays_are_memory_maps(folder):
  dataset = Dataset.open(folder)
  image, labels = dataset.image(dataset.cases[2]), dataset.labels(dataset.cases[2])
  assert isinstance(image, np.memmap)
  assert isinstance(labels, np.memmap)
  assert (image.shape, image.dtype, image[1, 2, 3, 3]) == ((2, 3, 4, 4), np.int16, 2)
  assert (labels.shape, labels.dtype, labels[1, 2, 3]) == ((2, 3, 4), np.uint8, 2)
  assert not image.flags.writeable
  assert dataset.labels(dataset.cases[3]) is None


@pytest.mark.parametrize(("fold", "inside", "others"), [(0, "ac", "b"), (1, "b", "ac")])
def test_folds_hold_labelled_cases_only(folder, fold, inside, others):
  dataset = Dataset.open(folder)
  assert names(dataset.fold_cases(fold)) == inside
  assert names(dataset.other_cases(fold)) == others


@pytest.mark.parametrize("fold", [-1, 2, "0", True])
@pytest.mark.parametrize("ask", [Dataset.fold_cases, Dataset.other_cases])
def test_fold_out_of_range(folder, fold, ask):
  with pytest.raises(InputError, match="fold must be from 0 to 1, got"):
    ask(Dataset.open(folder), fold)


def test_fingerprint_is_that_of_the_content(folder):
  manifest = json.loads((folder / "manifest.json").read_text())
  fingerprint = manifest.pop("fingerprint")
  del manifest["versions"]
  expected = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
  assert Dataset.open(folder).fingerprint == fingerprint == expected


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    (("format",), "other", "must hold a data set of format nas3d_jax.dataset version 1, got other"),
    (("version",), 2, "got nas3d_jax.dataset version 2"),
    (("folds",), 0, "folds of the manifest is wrong: 0"),
    (("seed",), "0", "seed of the manifest is wrong: '0'"),
    (("cases",), [], "cases of the manifest is wrong"),
    (("schema", "name"), 1, "name must be of type str"),
    (("seed",), 4, "fingerprint does not fit"),
    (("more",), 1, "manifest must have exactly the fields"),
    (("geometry",), {"orientation": "RAS"}, "geometry must have exactly the fields orientation and spacing"),
    (("geometry",), {"orientation": "RAS", "spacing": [1, 1, 2]}, "are not of the voxel size of the manifest, RAS"),
    (("geometry",), {"orientation": "RAS", "spacing": [1, 1, 1]}, "fingerprint does not fit"),
    (("cases", 0, "name"), "../a", "must have the fields"),
    (("cases", 0, "name"), "e", "not sorted by name"),
    (("cases", 0, "name"), "b", "not sorted by name, or one is doubled"),
    (("cases", 0, "grade"), "IV", "grade of case 'a' in the manifest is wrong: 'IV'"),
    (("cases", 0, "fold"), 2, r"cases \['a'\] are in none of the 2 folds"),
    (("cases", 0, "fold"), None, r"cases \['a'\] are in none of the 2 folds"),
    (("cases", 3, "fold"), 0, "fold of case 'd'"),
    (("cases", 0, "shape"), [4, 4], "shape of case 'a'"),
    (("cases", 0, "shape"), [4, 4, 8.0], "shape of case 'a'"),
    (("cases", 0, "cube"), [[1, 3], [0, 3], [2, 9]], "cube of case 'a'"),
    (("cases", 0, "cube"), [[1, 1], [0, 3], [2, 6]], "cube of case 'a'"),
    (("cases", 0, "low"), [1, 2, 3], "low of case 'a'"),
    (("cases", 0, "low"), [1, 2, 3, float("nan")], "a number in it is not finite"),
    (("cases", 0, "high"), [1, 9, 9, 9], "high of case 'a'"),
    (("cases", 0, "label_counts"), {"0": 1}, "label_counts of case 'a'"),
    (("cases", 0, "affine"), [[1, 0, 0, 0]] * 3, "affine of case 'a'"),
    (("cases", 0, "spacing"), [1, 1, 0], "spacing of case 'a'"),
    (("cases", 0, "checksums"), {"x": "12"}, "checksums of case 'a'"),
    (("cases", 0, "more"), 1, "case 'a' of the manifest must have the fields"),
  ],
)
def test_open_refuses_a_wrong_manifest(folder, path, value, message):
  manifest = json.loads((folder / "manifest.json").read_text())
  entry = manifest
  for key in path[:-1]:
    entry = entry[key]
  entry[path[-1]] = value
  (folder / "manifest.json").write_text(json.dumps(manifest))
  with pytest.raises(InputError, match=message) as caught:
    Dataset.open(folder)
  assert "--overwrite" in str(caught.value)


def test_a_data_set_from_before_there_was_a_geometry(folder):
  """It has that of its cases, where they have one, and its fingerprint stays what it was."""
  dataset = Dataset.open(folder)
  assert "geometry" not in dataset.manifest()
  assert (dataset.stored_geometry, dataset.geometry) == (None, Geometry("RAS", (1, 1, 1)))
  turned = dataclasses.replace(dataset.cases[0], affine=(*dataset.cases[0].affine[:2], (0, 0, -1.0, 0), (0, 0, 0, 1.0)))
  assert dataclasses.replace(dataset, cases=(turned, *dataset.cases[1:])).geometry is None


def test_a_geometry_is_stored_and_told_apart(folder):
  former = Dataset.open(folder)
  write_json(folder / "manifest.json", dataclasses.replace(former, stored_geometry=former.geometry).manifest())
  dataset = Dataset.open(folder)
  assert dataset.stored_geometry == dataset.geometry == former.geometry
  assert dataset.fingerprint != former.fingerprint


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
def test_open_refuses_what_is_no_json_object(folder, text):
  (folder / "manifest.json").write_bytes(text.encode("latin1"))
  with pytest.raises(InputError, match=r"manifest\.json (is no JSON|must hold a JSON object)"):
    Dataset.open(folder)


def test_open_refuses_another_folder(tmp_path):
  with pytest.raises(InputError, match=r"manifest\.json is missing; run preprocess"):
    Dataset.open(tmp_path)


@pytest.mark.parametrize(
  ("name", "array", "message"),
  [
    ("image", None, "cannot be opened"),
    ("image", np.zeros((2, 3, 4, 3), np.int16), r"int16 or float32 of shape \(2, 3, 4, 4\), got"),
    ("image", np.zeros((2, 3, 4, 4)), "got float64"),
    ("labels", None, "cannot be opened"),
    ("labels", np.zeros((2, 3, 4), np.int16), r"must be uint8 of shape \(2, 3, 4\), got int16"),
    ("labels", np.asarray([{}]), "cannot be opened"),
  ],
)
def test_open_refuses_wrong_arrays(folder, name, array, message):
  path = folder / "cases" / "b" / f"{name}.npy"
  path.unlink()
  if array is not None:
    np.save(path, array, allow_pickle=True)
  with pytest.raises(InputError, match=message) as caught:
    Dataset.open(folder)
  assert str(path) in str(caught.value)


def test_open_refuses_a_truncated_array(folder):
  path = folder / "cases" / "a" / "image.npy"
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(InputError, match=r"is damaged: .*image\.npy cannot be opened"):
    Dataset.open(folder)


@given(
  grades=st.lists(st.sampled_from(["HGG", "LGG", None]), min_size=4, max_size=60),
  folds=st.integers(2, 4),
  seed=st.integers(0, 9),
)
def test_folds_are_even_in_all_and_in_each_grade(grades, folds, seed):
  dealt = assign_folds(grades, [True] * len(grades), folds, seed)
  for grade in ("all", *set(grades)):
    sizes = [
      sum(f == fold and grade in ("all", g) for f, g in zip(dealt, grades, strict=True))
      for fold in range(folds)
    ]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == (len(grades) if grade == "all" else grades.count(grade))


def test_folds_leave_out_unlabelled_cases():
  dealt = assign_folds(["HGG"] * 5, [True, False, True, True, False], 3, 0)
  assert [f is None for f in dealt] == [False, True, False, False, True]
  assert {dealt[0], dealt[2], dealt[3]} == {0, 1, 2}


def test_folds_depend_on_the_seed_alone():
  grades = ["HGG", "LGG"] * 20
  deals = [assign_folds(grades, [True] * 40, 5, seed) for seed in (0, 0, 1)]
  assert deals[0] == deals[1] != deals[2]


@pytest.mark.parametrize(
  ("labelled", "folds", "message"),
  [
    (4, 5, r"number of cases with a segmentation \(4\), got 5; use --folds=4"),
    (1, 2, r"segmentation \(1\), got 2; add cases with a segmentation, or use --folds=1"),
    (1, True, "folds must be a whole number"),
    (0, 1, "folds must be a whole number of at least 2, got 1"),
    (4, 1, "folds must be a whole number of at least 2, got 1"),
    (4, True, "folds must be a whole number"),
  ],
)
def test_folds_refused(labelled, folds, message):
  with pytest.raises(InputError, match=message):
    assign_folds([None] * 6, [i < labelled for i in range(6)], folds, 0)


@pytest.mark.parametrize("name", ["image.npy", "labels.npy"])
def test_an_array_that_was_exchanged_is_not_read(folder, name):
  """Of the same shape and type, as when other images of the same names are made a data set."""
  dataset = Dataset.open(folder)
  case, path = dataset.cases[0], folder / "cases" / "a" / name
  read = dataset.image if name == "image.npy" else dataset.labels
  held = read(case)
  before = np.array(held)
  path.rename(folder / "former")
  with pytest.raises(InputError, match=rf"a/{name} is not what it was when the data set was opened: .* --overwrite"):
    read(case)
  np.save(path, before + 1)
  with pytest.raises(InputError, match=rf"a/{name} is not what it was"):
    read(case)
  np.testing.assert_array_equal(held, before)
  assert read(dataset.cases[1]) is not None
  assert Dataset.open(folder).image(case)[0, 0, 0, 0] == (name == "image.npy")


def test_an_array_that_was_made_anew_from_the_same_is_read(workdir):
  dataset = Dataset.open(workdir / "dataset")
  case = dataset.cases[0]
  path = workdir / "dataset" / "cases" / case.name / "image.npy"
  path.write_bytes(path.read_bytes())
  os.utime(path, (1, 1))
  for _ in range(2):
    assert dataset.image(case).shape[:3] == case.cube_shape
