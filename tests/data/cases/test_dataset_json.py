"""dataset.json: channels and labels of the decathlon and of nnU-Net, and what makes no schema."""

import json

import pytest

from nas3d_jax.data.cases.dataset_json import DatasetJson
from nas3d_jax.errors import InputError
from nas3d_jax.schema.builtin import DECATHLON
from nas3d_jax.schema.schema import Modality, Region

NNUNET = {
  "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "T2-FLAIR"},
  "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
  "regions_class_order": [1, 2, 3],
  "file_ending": ".nii.gz",
}
TASK01 = {
  "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
  "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
}


def read(tmp_path, content):
  path = tmp_path / "dataset.json"
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return DatasetJson.read(path)


def test_regions_of_nnunet(tmp_path):
  schema = read(tmp_path, NNUNET).nnunet_schema()
  assert (schema.name, schema.layout) == ("nnunet", "nnunet")
  assert schema.modalities == (
    Modality("t1", ("T1",)), Modality("t1ce", ("T1ce",)), Modality("t2", ("T2",)), Modality("flair", ("T2-FLAIR",))
  )
  assert schema.regions == (Region("WT", (1, 2, 3), 1), Region("TC", (2, 3), 2), Region("ET", (3,), 3))
  assert schema.labels == ((0, "background"), (1, "label 1"), (2, "label 2"), (3, "enhancing tumor"))


def test_plain_labels_of_nnunet_are_regions_under_their_own_names(tmp_path):
  content = {**NNUNET, "labels": {"background": 0, "oedema": 1, "tumor core": 2}}
  del content["regions_class_order"]
  schema = read(tmp_path, content).nnunet_schema()
  assert schema.regions == (Region("oedema", (1,), 1), Region("tumor core", (2,), 2))


def test_channels_by_name(tmp_path):
  content = {**TASK01, "modality": {"3": "flair", "0": "T2W", "1": "CT", "2": "t1w", "4": "T1GD"}}
  assert read(tmp_path, content).channels_of(DECATHLON) == ("t2", "CT", "t1", "flair", "t1ce")


def test_task01_is_known_by_its_labels(tmp_path):
  assert read(tmp_path, TASK01).own_schema() is DECATHLON
  labels = {"0": "background", "1": "necrosis", "2": "edema", "3": "enhancing tumor"}
  other = read(tmp_path, {**TASK01, "labels": labels, "name": "BRATS, mine"}).own_schema()
  assert (other.name, other.region_names) == ("brats_mine", ("necrosis", "edema", "enhancing tumor"))
  assert other.modality_names == ("flair", "t1", "t1ce", "t2")


def test_another_task_has_a_region_a_label(tmp_path):
  content = {
    "name": "Prostate", "modality": {"0": "T2", "1": "ADC"}, "labels": {"2": "TZ", "0": "background", "1": "PZ"}
  }
  schema = read(tmp_path, content).own_schema()
  assert (schema.name, schema.layout, schema.segmentation) == ("prostate", "decathlon", ("labelsTr",))
  assert schema.modalities == (Modality("t2", ("T2",)), Modality("ADC", ("ADC",)))
  assert schema.labels == ((0, "background"), (1, "PZ"), (2, "TZ"))
  assert schema.regions == (Region("PZ", (1,), 1), Region("TZ", (2,), 2))
  assert schema.exclusive


@pytest.mark.parametrize("labels", [{"0": "background", "1": ""}, {"a": "liver"}, {"0": "background", "1": 2}])
def test_labels_of_a_task_that_are_none(tmp_path, labels):
  with pytest.raises(InputError, match=r'labels in .*dataset.json must be as \{"0": "background", "1": "liver"\}'):
    read(tmp_path, {"modality": {"0": "CT"}, "labels": labels}).own_schema()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"labels": {"background": 0, "a": 1, "ignore": 2}}, "has an ignore label, which is not supported"),
    ({"labels": {"a": 1}}, 'must have "background": 0'),
    ({"labels": {"background": 0, "a": "1"}}, "must be whole numbers or lists of them"),
    ({"labels": {"background": 0, "a": []}}, "must be whole numbers or lists of them"),
    ({"labels": {"background": 0, "a": True}}, "must be whole numbers or lists of them"),
    ({"labels": [0, 1]}, "must have labels, an object"),
    ({"labels": {"background": 0, "a": 300}, "regions_class_order": [300]}, "makes no schema: .* from 0 to 255"),
    ({"regions_class_order": None}, "need regions_class_order"),
    ({"regions_class_order": [1, 2]}, "must be one label for each region"),
    ({"regions_class_order": [3, 2, 1]}, "makes no schema: .*paints"),
    ({"channel_names": {"0": "T1", "2": "T2"}}, "must name the channels"),
    ({"channel_names": {"0": "T1", "1": "t1w"}}, "makes no schema: .*modalities must be given, .*none twice"),
    ({"channel_names": {"0": ""}}, "must name the channels"),
    ({"channel_names": {}}, "must name the channels"),
    ({"file_ending": ".mha"}, "file_ending in .* must be one of .nii.gz, .nii, got '.mha'"),
  ],
)
def test_wrong_ones(tmp_path, change, message):
  with pytest.raises(InputError, match=rf"dataset.json.*{message}|{message}"):
    read(tmp_path, {**NNUNET, **change}).nnunet_schema()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "cannot be read"),
    ("[]", "must hold a JSON object, got list"),
    ("[" * 100_000, "cannot be read"),
    ('{"labels": {"a": 1, "a": 2}}', "an object has .a. twice"),
    ('{"channel_names": {"0": "T1"}, "labels": {"a": ' + "9" * 5000 + "}}", "cannot be read .*limit"),
  ],
  ids=range(5),
)
def test_damaged_files(tmp_path, text, message):
  with pytest.raises(InputError, match=message):
    read(tmp_path, text)


@pytest.mark.parametrize(
  ("names", "message"),
  [
    ({"0": "T2", "1": "ADC"}, "has the channels T2, ADC, which lacks flair, t1, t1ce of schema 'decathlon'"),
    ({"0": "FLAIR", "1": "T1", "2": "T1w", "3": "t1gd", "4": "T2"}, "has t1 twice"),
  ],
)
def test_channels_that_do_not_fit(tmp_path, names, message):
  with pytest.raises(InputError, match=message):
    read(tmp_path, {**TASK01, "modality": names}).channels_of(DECATHLON)


def test_channels_that_are_called_alike(tmp_path):
  content = {"channel_names": {"0": "CT", "1": "T1", "2": "CT"}, "labels": {"background": 0, "organ": 1}}
  (tmp_path / "dataset.json").write_text(json.dumps(content), encoding="utf-8-sig")
  said = DatasetJson.read(tmp_path / "dataset.json")
  assert said.channels == ("CT", "T1", "CT_1")
  assert said.nnunet_schema().modality_names == ("CT", "t1", "CT_1")
