"""Finding out the schema: by file names, dataset.json and labels; what is ambiguous, and what a model can take."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.cases.detect_schema import find_schema, for_model
from nas3d_jax.errors import InputError
from nas3d_jax.schema.builtin import BRATS2019, BRATS2023, BRATS2024, BRATS2024_PED, DECATHLON, SCHEMAS
from nas3d_jax.schema.schema import Modality
from tests.support.layouts import LAYOUTS, PHANTOM, save, write_layout

SHAPE = (16, 16, 16)

def relabel(folder, old, new, cases=None):
  """Changes a label in the segmentations, of all cases or the first few."""
  for path in sorted(p for p in folder.rglob("*seg.nii.gz"))[:cases]:
    data = np.asarray(nib.load(path).dataobj).copy()
    data[data == old] = new
    save(path, data)


@pytest.mark.parametrize("name", ["brats2019", "brats2024", "decathlon", "nnunet"])
def test_is_found_out_and_printed(tmp_path, capsys, name):
  write_layout(name, tmp_path, 2, SHAPE)
  schema = find_schema(tmp_path)
  assert schema == SCHEMAS.get(name, schema)
  assert schema.name == name
  (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("schema ")]
  where = "the file names" if name.startswith("brats") else "dataset.json"
  assert line.startswith(f"schema {name} (found out from {where} and labels 0, 1, 2, ")
  assert f"of {tmp_path}): {', '.join(schema.modality_names)}; labels of WT 1+2+" in line


def test_2023_and_2024_without_a_label_4_are_a_question(tmp_path):
  write_layout("brats2024", tmp_path, 2, SHAPE, cavity=False)
  message = "called as those of brats2023 and brats2024, and no label 4 tells which; give --schema=brats2023 or --sch"
  with pytest.raises(InputError, match=message):
    find_schema(tmp_path)
  # No question where it is answered, or where only images matter.
  assert find_schema(tmp_path, "brats2024") is BRATS2024
  assert find_schema(tmp_path, like=BRATS2024) is BRATS2024
  assert find_schema(tmp_path, like=BRATS2023) is BRATS2023
  assert find_schema(tmp_path, labels=False).modalities == BRATS2024.modalities
  with pytest.raises(InputError, match="no label 4 tells which"):
    find_schema(tmp_path, like=BRATS2019)


def test_one_label_4_is_enough(tmp_path):
  write_layout("brats2023", tmp_path, 3, SHAPE)
  relabel(tmp_path, 1, 4, cases=1)
  assert find_schema(tmp_path, like=BRATS2023) is BRATS2024


def named(folder, old, new):
  """The cases with another challenge in their names."""
  for path in sorted(folder.rglob("*"), reverse=True):
    path.rename(path.with_name(path.name.replace(old, new)))


def test_paediatric_cases_have_labels_of_their_own(tmp_path):
  write_layout("brats2024", tmp_path, 3, SHAPE)
  named(tmp_path, "BraTS-GLI", "BraTS-PED")
  assert find_schema(tmp_path) is BRATS2024_PED
  regions = {region.name: region.labels for region in BRATS2024_PED.regions}
  assert regions == {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,)}


def test_paediatric_cases_without_a_label_4_are_a_question(tmp_path):
  write_layout("brats2023", tmp_path, 3, SHAPE)
  named(tmp_path, "BraTS-GLI", "BraTS-PED")
  with pytest.raises(InputError, match=r"brats2023 and brats2024ped, and no label 4 .* --schema=brats2024ped"):
    find_schema(tmp_path)


def test_a_label_4_of_cases_that_name_no_challenge_is_a_question(tmp_path):
  write_layout("brats2024", tmp_path, 3, SHAPE)
  named(tmp_path, "BraTS-GLI", "Patient")
  with pytest.raises(InputError, match=r"brats2024 and brats2024ped, and nothing tells which"):
    find_schema(tmp_path)


def test_labels_are_named_with_all_their_digits(tmp_path):
  write_layout("brats2019", tmp_path, 1, SHAPE)
  for path in tmp_path.rglob("*seg.nii.gz"):
    data = np.asarray(nib.load(path).dataobj).astype(np.float64)
    data[data == 2] = 2.01
    save(path, data)
  with pytest.raises(InputError, match=r": 2\.01\)"):
    find_schema(tmp_path)


def test_without_segmentations(tmp_path):
  write_layout("brats2023", tmp_path, 1, SHAPE, labels=False)
  assert find_schema(tmp_path, labels=None).modalities == BRATS2023.modalities
  with pytest.raises(InputError, match="nothing tells which"):
    find_schema(tmp_path)


def test_labels_that_go_with_other_names(tmp_path):
  cases = write_layout("brats2019", tmp_path, 7, SHAPE)
  relabel(tmp_path, 4, 3)
  with pytest.raises(InputError) as caught:
    find_schema(tmp_path)
  message = str(caught.value)
  assert message.startswith("the files are called as those of schema brats2019, whose labels are 0, 1, 2, 4, but ")
  # Some phantoms have no rim.
  found = [case for case in cases if f"{case}: 3" in message]
  assert len(found) == 5
  assert message.endswith("describe their labels in a YAML file and give --schema=FILE")


def test_a_label_of_one_case_alone_is_that_cases_fault(tmp_path):
  write_layout("brats2019", tmp_path, 3, SHAPE)
  relabel(tmp_path, 2, 7, cases=1)
  assert find_schema(tmp_path) is BRATS2019


def test_the_schema_of_a_model_is_taken_where_it_fits(tmp_path):
  own = dataclasses.replace(BRATS2019, name="own", modalities=BRATS2019.modalities[::2])
  write_layout("brats2019", tmp_path / "old", 1, SHAPE)
  write_layout("brats2024", tmp_path / "new", 1, SHAPE)
  assert find_schema(tmp_path / "old", like=own) is own
  assert find_schema(tmp_path / "new", like=own) is BRATS2024


def test_a_decathlon_of_ones_own(tmp_path):
  write_layout("decathlon", tmp_path, 1, SHAPE)
  said = json.loads((tmp_path / "dataset.json").read_text())
  said["labels"] = {"0": "background", "1": "a", "2": "b", "3": "c"}
  (tmp_path / "dataset.json").write_text(json.dumps(said))
  assert find_schema(tmp_path).region_names == ("a", "b", "c")
  assert find_schema(tmp_path, "decathlon").region_names == ("a", "b", "c")
  own = dataclasses.replace(DECATHLON, name="own")
  assert find_schema(tmp_path, like=own) is own
  assert find_schema(tmp_path, own) is own


def test_files_of_several_schemas_go_by_the_most(tmp_path):
  write_layout("brats2019", tmp_path, 2, SHAPE)
  write_layout("brats2024", tmp_path, 1, SHAPE)
  assert find_schema(tmp_path, labels=False) is BRATS2019


@pytest.mark.parametrize("name", LAYOUTS)
def test_by_name(tmp_path, name):
  write_layout(name, tmp_path, 1, SHAPE)
  assert find_schema(tmp_path, name).name == name


def test_by_file(tmp_path):
  (tmp_path / "own.yml").write_text("{name: own, modalities: {a: _a}, labels: {1: b}, regions: {b: [1]}}")
  save(tmp_path / "data" / "x" / "x_a.nii.gz", np.ones(SHAPE))
  assert find_schema(tmp_path / "data", str(tmp_path / "own.yml")).modality_names == ("a",)
  assert find_schema(tmp_path / "data", tmp_path / "own.yml").modality_names == ("a",)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ("brats2021", "there is no schema 'brats2021'; give one of .* YAML file; brats2019 is that of 2017 to 2021"),
    ("mine", "there is no schema 'mine'; give one of brats2019, .*, brats2024ped, decathlon, nnunet, or a YAML"),
    ("", "there is no schema ''"),
    ("nnunet", "schema nnunet is made from dataset.json, but there is none in"),
    ("none.yaml", "none.yaml cannot be read"),
  ],
)
def test_schemas_that_are_not_there(tmp_path, given, message):
  with pytest.raises(InputError, match=message):
    find_schema(tmp_path, given)


def test_folders_without_cases(tmp_path):
  with pytest.raises(InputError, match=r"data_dir must be a folder of cases, got .*none'"):
    find_schema(tmp_path / "none")
  with pytest.raises(InputError, match=r"data_dir holds no case, got .*there is no NIfTI file"):
    find_schema(tmp_path)
  save(tmp_path / "a" / "a_dwi.nii.gz", np.ones(SHAPE))
  with pytest.raises(InputError, match=r"there are a_dwi, not <case>_flair \(brats2019\), .* --schema=FILE"):
    find_schema(tmp_path)
  with pytest.raises(InputError, match=r"there are a_dwi, not <case>-t2f \(brats2023\) and their siblings"):
    find_schema(tmp_path, "brats2023")


def test_a_model_takes_its_modalities_by_name():
  turned = dataclasses.replace(DECATHLON, modalities=DECATHLON.modalities[::-1])
  got = for_model(turned, BRATS2019)
  assert got.modality_names == PHANTOM
  assert got == DECATHLON
  two = dataclasses.replace(BRATS2019, modalities=BRATS2019.modalities[2:0:-1])
  assert [m.suffixes for m in for_model(BRATS2023, two).modalities] == [("-t1c",), ("-t1n",)]


def test_a_model_that_needs_more():
  two = dataclasses.replace(DECATHLON, modalities=(DECATHLON.modalities[0], Modality("ADC", ("ADC",))))
  with pytest.raises(InputError) as caught:
    for_model(two, BRATS2019)
  assert str(caught.value).startswith(
    "the model needs flair, t1, t1ce, t2 (schema 'brats2019'), but the cases have flair, ADC (schema 'decathlon'), so "
    "t1, t1ce, t2 is missing"
  )
