"""Orientation and voxel size: what an affine says, and which of many is the most common."""

import itertools
import json

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.schema.geometry import Geometry, most_common

ORIENTATIONS = [
  "".join(codes)
  for order in itertools.permutations(("RL", "AP", "SI"))
  for codes in itertools.product(*order)
]
# A head turned by 20 degrees about the patient's long axis, in voxels of 1 x 2 x 3 mm, axes L, P, S.
OBLIQUE = np.array([
  [-0.9396926, 2 * 0.3420201, 0, 90], [-0.3420201, -2 * 0.9396926, 0, 120], [0, 0, 3, -70], [0, 0, 0, 1]
])  # fmt: skip


def test_there_are_48_orientations_and_no_other_letters():
  assert len({*ORIENTATIONS}) == 48
  for letters in ORIENTATIONS:
    assert Geometry(letters, (1, 1, 1)).orientation == letters


def test_of_an_affine():
  assert Geometry.of(np.diag([-1, -1, 1, 1])) == Geometry("LPS", (1, 1, 1))  # BraTS
  assert Geometry.of(np.diag([2.0, 1, 1, 1])) == Geometry("RAS", (2, 1, 1))
  turned = Geometry.of(OBLIQUE)
  assert turned.orientation == "LPS"
  np.testing.assert_allclose(turned.spacing, (1, 2, 3), rtol=1e-6)
  # First axis to the top, second to the front, third to the left.
  affine = np.array([[0, 0, -3, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
  assert Geometry.of(affine) == Geometry("SAL", (1, 2, 3))
  assert "".join(nib.aff2axcodes(affine)) == "SAL"


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.eye(3), np.diag([1, 1, np.nan, 1]), np.ones((4, 4))])
def test_an_affine_that_is_none(affine):
  with pytest.raises(InputError, match=r"affine .*check the header"):
    Geometry.of(affine)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"orientation": "LPX"}, "orientation must be three letters, one each of R or L, .* got 'LPX'"),
    ({"orientation": "LRS"}, "got 'LRS'"),
    ({"orientation": "lps"}, "got 'lps'; BraTS is LPS"),
    ({"orientation": "LP"}, "got 'LP'"),
    ({"orientation": 3}, "got 3"),
    ({"spacing": (1, 1)}, r"spacing must be three lengths in mm, each above 0, got \(1, 1\)"),
    ({"spacing": (1, 1, 0)}, "each above 0"),
    ({"spacing": (1, 1, float("nan"))}, "each above 0"),
    ({"spacing": (1, 1, "1")}, "each above 0"),
    ({"spacing": (1, 1, True)}, "each above 0"),
    ({"spacing": "111"}, "each above 0"),
    ({"spacing": 1.0}, "each above 0"),
    ({"more": 1}, "geometry must have exactly the fields orientation and spacing"),
  ],
)
def test_what_is_no_geometry(fields, message):
  with pytest.raises(InputError, match=message):
    Geometry.from_dict({"orientation": "LPS", "spacing": [1, 1, 1]} | fields)


def test_plain_values():
  given = Geometry("ASL", (1, 0.9375, 3))
  assert json.loads(json.dumps(given.to_dict())) == {"orientation": "ASL", "spacing": [1.0, 0.9375, 3.0]}
  assert Geometry.from_dict(json.loads(json.dumps(given.to_dict()))) == given
  assert str(given) == "ASL, 1 x 0.9375 x 3 mm"


def test_axes_of_another_name_keep_their_length():
  assert Geometry("LPS", (1, 2, 3)).turned("SRA") == Geometry("SRA", (3, 1, 2))


def test_equal_up_to_a_thousandth():
  brats = Geometry("LPS", (1, 1, 1))
  assert brats.matches(Geometry("LPS", (1.0009, 0.9991, 1)))
  assert not brats.matches(Geometry("LPS", (1.002, 1, 1)))
  assert not brats.matches(Geometry("LAS", (1, 1, 1)))


def test_the_most_common_and_of_equals_the_first():
  one, other, third = Geometry("RAS", (1, 1, 3)), Geometry("LPS", (1, 1, 1)), Geometry("LPS", (1, 1, 2))
  assert most_common([one, other, other, third]) == other
  assert most_common([one, other, third]) == one
  assert most_common([third, other, one, Geometry("LPS", (1.0001, 1, 1))]) == other
  # Single precision in a header, and no more of it than is meant.
  assert most_common([Geometry("LPS", (0.8999999761581421, 1.0000001, 0.46875))]).spacing == (0.9, 1, 0.46875)
