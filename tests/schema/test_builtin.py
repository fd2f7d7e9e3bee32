"""The built-in schemas: labels and regions as the data sets' own documents say, one set of names for all of them."""

import numpy as np
import pytest

from nas3d_jax.schema.builtin import BRATS2019, BRATS2023, BRATS2024, DECATHLON, SCHEMAS, modality_name, region_name
from nas3d_jax.schema.schema import Schema

# Necrosis or non-enhancing core, oedema, enhancing tumour; then other labels.
NUMBERS = {"brats2019": (1, 2, 4), "brats2023": (1, 2, 3), "brats2024": (1, 2, 3), "decathlon": (2, 1, 3)}


@pytest.mark.parametrize("name", NUMBERS)
def test_regions_hold_the_tissues_whatever_their_numbers(name):
  schema = SCHEMAS[name]
  assert schema.name == name
  masks = schema.region_masks(np.asarray(NUMBERS[name], np.uint8))
  assert schema.region_names[:3] == ("WT", "TC", "ET")
  np.testing.assert_array_equal(masks[:, :3], [(1, 1, 0), (1, 0, 0), (1, 1, 1)])
  np.testing.assert_array_equal(schema.decode(masks), NUMBERS[name])
  assert set(schema.label_values) == {0, *NUMBERS[name], *([4] if name == "brats2024" else [])}
  assert schema.modality_names == ("flair", "t1", "t1ce", "t2")
  assert schema.region_names[schema.innermost] == "ET"
  assert Schema.from_dict(schema.to_dict()) == schema


def test_the_cavity_is_a_region_of_its_own():
  assert BRATS2024.region_names == ("WT", "TC", "ET", "RC")
  np.testing.assert_array_equal(BRATS2024.region_masks(np.asarray([4, 3])), [(0, 0, 0, 1), (1, 1, 1, 0)])
  assert BRATS2024.decode(np.asarray([[0, 0, 0, 0.9], [0.9, 0.9, 0.9, 0.1]])).tolist() == [4, 3]


def test_file_names():
  assert [m.suffixes for m in BRATS2023.modalities] == [("-t2f",), ("-t1n",), ("-t1c",), ("-t2w",)]
  assert BRATS2023.modalities == BRATS2024.modalities
  assert [m.suffixes[0] for m in DECATHLON.modalities] == ["FLAIR", "T1w", "t1gd", "T2w"]


def test_old_schemas_are_stored_as_before():
  assert set(BRATS2019.to_dict()) == {"name", "modalities", "labels", "regions", "segmentation"}
  assert DECATHLON.to_dict()["layout"] == "decathlon"


@pytest.mark.parametrize(
  ("text", "name"),
  [("T2-FLAIR", "flair"), ("t2f", "flair"), ("T1w", "t1"), ("T1n", "t1"), ("T1Gd", "t1ce"), ("t1c", "t1ce"),
   ("T2w", "t2"), ("T2", "t2"), ("ADC", "ADC"), ("noNorm", "noNorm")],
)
def test_known_channels(text, name):
  assert modality_name(text) == name


@pytest.mark.parametrize(
  ("text", "name"),
  [("whole tumor", "WT"), ("Tumour Core", "TC"), ("enhancing_tumor", "ET"), ("et", "ET"), ("oedema", "oedema")],
)
def test_known_regions(text, name):
  assert region_name(text) == name
