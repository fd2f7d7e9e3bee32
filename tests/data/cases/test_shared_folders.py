"""The five layouts: the same heads are the same arrays, whatever their files, channels and labels are called."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.cases.case_files import CaseError
from nas3d_jax.data.cases.detect_schema import find_schema, for_model
from nas3d_jax.data.cases.find_and_read import find_cases, read_case
from nas3d_jax.data.cases.segmentations import find_segmentations
from nas3d_jax.data.phantom import phantom_case
from nas3d_jax.errors import InputError
from nas3d_jax.schema.builtin import BRATS2019, DECATHLON, SCHEMAS
from tests.support.layouts import LAYOUTS, PHANTOM, save, write_layout

SHAPE = (20, 18, 16)
SHARED = ("decathlon", "nnunet")


def schema_of(name, folder):
  return SCHEMAS[name] if name in SCHEMAS else find_schema(folder, name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_model_gets_the_same_input_from_each(tmp_path, name):
  cases = write_layout(name, tmp_path, 2, SHAPE)
  schema = for_model(schema_of(name, tmp_path), BRATS2019)
  found, faults = find_cases(tmp_path, schema)
  assert not faults
  assert [files.name for files in found] == cases
  for i, files in enumerate(found):
    image, truth = phantom_case((0, i), SHAPE)
    raw = read_case(files, schema)
    assert raw.image.dtype == np.int16
    np.testing.assert_array_equal(raw.image, image)
    regions = schema.region_masks(raw.labels)
    np.testing.assert_array_equal(regions[..., :3], BRATS2019.region_masks(truth))
    # What is no tumour and yet labelled is the cavity of brats2024, a block of 2^3.
    assert np.count_nonzero(raw.labels) - np.count_nonzero(truth) == (8 if name == "brats2024" else 0)
    assert raw.header.get_data_shape() == SHAPE
    assert raw.spacing == (1, 1, 1)
    assert list(raw.checksums) == list(files.named)
    assert len(raw.checksums) == (2 if name == "decathlon" else 5)


@pytest.mark.parametrize("name", SHARED)
def test_the_order_of_the_channels_does_not_matter(tmp_path, name):
  arrays, keys = [], []
  for i, order in enumerate([PHANTOM, ("t2", "t1ce", "flair", "t1")]):
    write_layout(name, tmp_path / str(i), 1, SHAPE, order=order)
    schema = for_model(schema_of(name, tmp_path / str(i)), BRATS2019)
    raw = read_case(find_cases(tmp_path / str(i), schema)[0][0], schema)
    arrays.append(raw.image)
    keys.append(list(raw.checksums))
  np.testing.assert_array_equal(*arrays)
  # Records of the one do not pass for the other.
  assert keys[0] != keys[1]


def test_of_more_channels_a_model_takes_its_own(tmp_path):
  write_layout("decathlon", tmp_path, 1, SHAPE)
  schema = DECATHLON.from_dict({**DECATHLON.to_dict(), "modalities": DECATHLON.to_dict()["modalities"][2:1:-1]})
  (files,), _ = find_cases(tmp_path, schema)
  np.testing.assert_array_equal(read_case(files, schema).image[..., 0], phantom_case((0, 0), SHAPE)[0][..., 2])


@pytest.mark.parametrize("name", LAYOUTS)
def test_without_labels(tmp_path, name):
  cases = write_layout(name, tmp_path, 1, SHAPE, labels=False)
  folder = tmp_path / "imagesTs" if name in SHARED else tmp_path
  for place in (folder, tmp_path):
    found, faults = find_cases(place, schema_of(name, tmp_path))
    assert ([files.name for files in found], faults) == (cases, [])
    assert read_case(found[0], schema_of(name, tmp_path)).labels is None
  assert find_segmentations(tmp_path, schema_of(name, tmp_path)) == ({}, [])


@pytest.mark.parametrize("name", LAYOUTS)
def test_segmentations_are_found_without_images(tmp_path, name):
  cases = write_layout(name, tmp_path, 2, SHAPE)
  schema = schema_of(name, tmp_path)
  for path in [p for p in tmp_path.rglob("*.nii.gz") if p.parent.name != "labelsTr" and "seg" not in p.name]:
    path.unlink()
  truths, faults = find_segmentations(tmp_path, schema)
  assert (list(truths), faults) == (cases, [])


@pytest.mark.parametrize("name", SHARED)
def test_the_root_stands_for_the_cases_to_train_on(tmp_path, name):
  cases = write_layout(name, tmp_path, 1, SHAPE)
  for path in (tmp_path / "imagesTr").iterdir():
    save(tmp_path / "imagesTs" / f"New_{path.name}", nib.load(path).get_fdata())
  (tmp_path / "imagesTr" / f"._{cases[0]}.nii.gz").write_bytes(b"left by a Mac")
  schema = schema_of(name, tmp_path)
  for place in (tmp_path, tmp_path / "imagesTr", tmp_path / "labelsTr"):
    (files,), _ = find_cases(place, schema)
    assert (files.name, files.segmentation.parent.name) == (cases[0], "labelsTr")
  (files,), _ = find_cases(tmp_path / "imagesTs", schema)
  assert (files.name, files.segmentation) == (f"New_{cases[0]}", None)
  (tmp_path / "dataset.json").unlink()
  with pytest.raises(InputError, match=r"there is no dataset.json in .*give the folder that has it, or imagesTr or"):
    find_cases(tmp_path / "imagesTs", schema)


def faults_of(folder, schema):
  """Everything that is wrong, found by name or by reading."""
  cases, faults = find_cases(folder, schema)
  for files in cases:
    try:
      read_case(files, schema)
    except CaseError as error:
      faults.extend(error.faults)
  return sorted(f"{fault.case}: {fault.reason}" for fault in faults)


def test_what_is_wrong_with_files_of_nnunet(tmp_path):
  write_layout("nnunet", tmp_path, 3, SHAPE)
  images = tmp_path / "imagesTr"
  (images / "BraTS_0001_0002.nii.gz").unlink()
  (images / "BraTS_0002_0003.nii.gz").rename(images / "BraTS_0002_0004.nii.gz")
  for path in images.glob("BraTS_0003*"):
    path.unlink()
  save(images / "stray.nii.gz", np.zeros(SHAPE))
  assert faults_of(tmp_path, schema_of("nnunet", tmp_path)) == [
    f"BraTS_0001: no t2 image BraTS_0001_0002.nii.gz in {images}",
    f"BraTS_0002: BraTS_0002_0004.nii.gz is of channel 4, but {tmp_path / 'dataset.json'} has 4 channels",
    f"BraTS_0002: no flair image BraTS_0002_0003.nii.gz in {images}",
    "BraTS_0003: labelsTr has its segmentation, but imagesTr no image",
    "stray: stray.nii.gz has no number of a channel, as stray_0000.nii.gz has",
  ]


def test_what_is_wrong_with_files_of_the_decathlon(tmp_path):
  write_layout("decathlon", tmp_path, 3, SHAPE)
  first, second, third = sorted((tmp_path / "imagesTr").iterdir())
  data = nib.load(first).get_fdata()
  save(first, data[..., :3])
  save(second, data[..., 0])
  data[3, 3, 3, 2] = np.nan
  save(third, data)
  assert faults_of(tmp_path, DECATHLON) == [
    "BRATS_001: imagesTr/BRATS_001.nii.gz has 3 channels, but dataset.json 4 (flair, t1, t1ce, t2)",
    "BRATS_002: imagesTr/BRATS_002.nii.gz has 1 channels, but dataset.json 4 (flair, t1, t1ce, t2)",
    "BRATS_003: t1ce has 1 voxel that is NaN",
  ]


def test_a_header_that_claims_more_than_there_is(tmp_path):
  write_layout("decathlon", tmp_path, 1, SHAPE)
  path = tmp_path / "imagesTr" / "BRATS_001.nii.gz"
  raw = bytearray(gzip.decompress(path.read_bytes()))
  raw[42:50] = np.asarray([32767] * 3 + [4], "<i2").tobytes()
  path.write_bytes(gzip.compress(bytes(raw)))
  (fault,) = faults_of(tmp_path, DECATHLON)
  assert fault.startswith("BRATS_001: imagesTr/BRATS_001.nii.gz has 140724603846652 voxels, 536870912 are read at most")


def test_files_of_nnunet_that_a_decathlons_dataset_json_describes(tmp_path):
  write_layout("nnunet", tmp_path, 1, SHAPE)
  said = json.loads((tmp_path / "dataset.json").read_text())
  (tmp_path / "dataset.json").write_text(json.dumps({"modality": said["channel_names"], "labels": {}}))
  with pytest.raises(InputError, match=r"imagesTr has a file a channel, as nnU-Net's, but .* no channel_names"):
    find_cases(tmp_path, DECATHLON)


def test_another_layout_than_the_schemas(tmp_path):
  write_layout("nnunet", tmp_path, 1, SHAPE)
  with pytest.raises(InputError, match="is of layout 'nnunet', but schema 'decathlon' of 'decathlon'"):
    find_cases(tmp_path, DECATHLON)


def test_images_whose_number_is_that_of_the_case(tmp_path):
  first, second = write_layout("nnunet", tmp_path, 2, SHAPE)
  images = tmp_path / "imagesTr"
  for name, number in ((first, "0000"), (second, "0017")):
    (images / f"{name}_0000.nii.gz").rename(images / f"scan_{number}.nii.gz")
    (tmp_path / "labelsTr" / f"{name}.nii.gz").rename(tmp_path / "labelsTr" / f"scan_{number}.nii.gz")
    for path in images.glob(f"{name}_*"):
      path.unlink()
  schema = find_schema(tmp_path, labels=False)
  with pytest.raises(InputError) as error:
    find_cases(tmp_path, schema)
  assert str(error.value) == (
    f"the images in {images} have no number of a channel: scan_0017.nii.gz is called as its segmentation; call it "
    "scan_0017_0000.nii.gz, and the others alike"
  )
  # Without labels, as for a prediction, the name alone tells.
  faults = [str(fault) for fault in find_cases(tmp_path, schema, labels=False)[1]]
  assert f"scan: scan_0017.nii.gz is of channel 17, but {tmp_path / 'dataset.json'} has 4 channels; correct " \
    "dataset.json, or move the file away; if that is the number of the case, call it scan_0017_0000.nii.gz" in faults


def test_a_segmentation_that_carries_the_number_of_a_channel(tmp_path):
  first, *_ = write_layout("nnunet", tmp_path, 2, SHAPE)
  path = tmp_path / "labelsTr" / f"{first}.nii.gz"
  path.rename(path.with_name(f"{first}_0000.nii.gz"))
  _, faults = find_cases(tmp_path, find_schema(tmp_path, labels=False))
  assert [str(fault) for fault in faults] == [
    f"{first}_0000: labelsTr/{first}_0000.nii.gz carries the number of a channel, as only images do; call it "
    f"{first}.nii.gz"
  ]
