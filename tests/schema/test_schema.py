"""The schema: masks and painting against tables worked out by hand; wrong fields refused."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.schema.builtin import BRATS2019, SCHEMAS
from nas3d_jax.schema.schema import Modality, Region, Schema

# label -> (WT, TC, ET), from the definition of the BraTS regions.
MEMBERS = {0: (0, 0, 0), 1: (1, 1, 0), 2: (1, 0, 0), 4: (1, 1, 1)}


def test_names_and_order():
  assert BRATS2019.modality_names == ("flair", "t1", "t1ce", "t2")
  assert BRATS2019.region_names == ("WT", "TC", "ET")
  assert BRATS2019.label_values == (0, 1, 2, 4)
  assert SCHEMAS["brats2019"] is BRATS2019


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_region_masks(convert, dtype):
  labels = convert(np.asarray([[0, 1], [2, 4]], dtype))
  masks = BRATS2019.region_masks(labels)
  assert isinstance(masks, type(labels))
  assert masks.dtype == bool
  np.testing.assert_array_equal(masks, [[MEMBERS[0], MEMBERS[1]], [MEMBERS[2], MEMBERS[4]]])


def test_region_masks_under_jit():
  masks = jax.jit(BRATS2019.region_masks)(jnp.asarray([4, 2], jnp.uint8))
  np.testing.assert_array_equal(masks, [MEMBERS[4], MEMBERS[2]])


@pytest.mark.parametrize(
  ("confidence", "label"),
  [
    ((0.0, 0.0, 0.0), 0),
    ((0.5, 0.0, 0.0), 2),
    ((0.499, 0.0, 0.0), 0),
    ((0.9, 0.5, 0.1), 1),
    ((0.9, 0.9, 0.9), 4),
    ((0.1, 0.9, 0.1), 1),
    ((0.1, 0.1, 0.9), 4),
  ],
)
def test_decode_paints_in_order(confidence, label):
  labels = BRATS2019.decode(np.asarray([[confidence]], np.float32))
  assert labels.dtype == np.uint8
  assert labels.tolist() == [[label]]


def test_decode_gives_back_every_label():
  labels = np.asarray([0, 1, 2, 4], np.uint8)
  np.testing.assert_array_equal(BRATS2019.decode(BRATS2019.region_masks(labels)), labels)


def test_decode_takes_a_threshold():
  assert BRATS2019.decode(np.asarray([0.3, 0.1, 0.1]), threshold=0.25) == 2


@pytest.mark.parametrize("shape", [(), (3, 2), (4,)])
def test_decode_refuses_other_channels(shape):
  with pytest.raises(InputError, match=r"confidence must have 3 channels last \(WT, TC, ET\)"):
    BRATS2019.decode(np.zeros(shape))


def test_json_gives_back_the_schema():
  assert Schema.from_dict(json.loads(json.dumps(BRATS2019.to_dict()))) == BRATS2019


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    (("name",), 3, "name must be of type str"),
    (("modalities",), "flair", "modalities must be a list"),
    (("modalities", 0), {"name": "flair"}, "modality must have exactly the fields"),
    (("modalities", 0, "suffixes"), [1], "suffixes of a modality must be of type str"),
    (("modalities", 0, "suffixes"), [], "each modality needs a file suffix"),
    (("modalities", 0, "name"), "t1", "modalities must be given, none empty and none twice"),
    (("modalities", 0, "suffixes"), ["_t1"], "file suffixes must be given"),
    (("labels", 1), [1], "a label must be"),
    (("labels", 1, 0), True, "label must be of type int"),
    (("labels", 1, 0), 300, "labels must be values from 0 to 255"),
    (("labels", 0, 0), 3, "labels must be values from 0 to 255, 0"),
    (("labels", 1, 0), 2, "labels must be given, none empty and none twice"),
    (("regions", 0, "labels"), [1, 2, 3], r"region 'WT' has labels \[3\]"),
    (("regions", 0, "labels"), [0, 1, 2, 4], r"region 'WT' has labels \[0\]"),
    (("regions", 0, "labels"), [], "region 'WT': labels must be given"),
    (("regions", 1, "paint"), 2, "region 'TC' paints 2, which is none of its labels"),
    (("regions", 0, "paint"), 1, "label 2 lies in regions"),
    (("regions", 0, "paint"), "2", "paint of a region must be of type int"),
    (("regions",), [], "regions must be given"),
    (("segmentation",), "_seg", "segmentation must be a list"),
    (("segmentation",), ["_t1"], "file suffixes must be given, none empty and none twice"),
  ],
)
def test_from_dict_refuses(path, value, message):
  fields = copy.deepcopy(BRATS2019.to_dict())
  entry = fields
  for key in path[:-1]:
    entry = entry[key]
  entry[path[-1]] = value
  with pytest.raises(InputError, match=message):
    Schema.from_dict(fields)


@pytest.mark.parametrize("fields", [None, [], {}, {**BRATS2019.to_dict(), "more": 1}])
def test_from_dict_refuses_other_fields(fields):
  with pytest.raises(InputError, match="schema must have exactly the fields"):
    Schema.from_dict(fields)


@pytest.mark.parametrize("layout", ["flat", None, 3])
def test_layouts_that_there_are_not(layout):
  with pytest.raises(InputError, match=r"layout must be one of folders, decathlon|layout must be of type str"):
    Schema.from_dict({**BRATS2019.to_dict(), "layout": layout})


def test_of_regions_apart_the_last_is_the_innermost():
  apart = Schema(
    name="apart", modalities=(Modality("flair", ("_f",)),), labels=((0, "background"), (1, "a"), (2, "b")),
    regions=(Region("A", (1,), 1), Region("B", (2,), 2)),
  )
  assert (BRATS2019.innermost, apart.innermost) == (2, 1)


def test_other_data_sets_fit():
  decathlon = Schema(
    name="decathlon",
    modalities=(Modality("flair", ("_f",)),),
    labels=((0, "background"), (1, "oedema"), (2, "non-enhancing"), (3, "enhancing")),
    regions=(Region("WT", (1, 2, 3), 1), Region("TC", (2, 3), 2), Region("ET", (3,), 3)),
  )
  labels = np.arange(4)
  np.testing.assert_array_equal(decathlon.decode(decathlon.region_masks(labels)), labels)
