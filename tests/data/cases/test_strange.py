"""What is strange about volumes, by hand, and where nothing is."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.cases.strange import BACKGROUND, HEADER, RANGE, background, header_faults, squeezed, summary


@pytest.mark.parametrize(
  ("value", "share", "expected"), [(-3.5, 1, -3.5), (7, 0.6, 7), (7, 0.4, None), (0, 1, None), (-1024, 0.9, -1024)]
)
def test_background(value, share, expected):
  random = np.random.default_rng(0)
  volume = random.uniform(1, 2, (20, 20, 20)).astype(np.float32)
  volume[random.random(volume.shape) < share] = value
  assert background(volume) == expected


def test_range_by_hand():
  values = np.linspace(200, 899, 1001)
  assert squeezed(values.copy()) is None
  # The ends are left out, one voxel each; 199 lies below.
  core = squeezed(np.append(values, [32767, 199]))
  assert tuple(core) == (200, 899, 199, 32767)
  assert core.share == pytest.approx(699 / 32568)
  # At a tenth of the range nothing is said.
  assert squeezed(np.append(values, [199, 199 + 6989])) is None
  assert squeezed(np.append(values, [199, 199 + 6991])) is not None
  assert squeezed(np.asarray([*range(98), 1e6])) is None  # too few to say so


def header(affine, **changes):
  made = nib.Nifti1Image(np.zeros((240, 240, 155), np.uint8), affine).header
  made.set_qform(affine, 1)
  for name, value in changes.items():
    if name == "pixdim":
      made["pixdim"][1:4] = value
    else:
      getattr(made, f"set_{name}")(*value)
  return made


def turns():
  """Rotations of all sorts, as scanners have them."""
  random = np.random.default_rng(0)
  for signs in itertools.product((1, -1), repeat=3):
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.asarray(signs) * (0.9375, 0.9375, 1.2)
    affine[:3, 3] = random.uniform(-200, 200, 3)
    yield affine
  yield np.diag([-1, -1, 1, 1.0])
  yield np.diag([1, -1, -1, 1.0])


def test_quaternions_that_round_are_no_contradiction():
  for affine in turns():
    assert list(header_faults(header(affine))) == []
  assert list(header_faults(header(np.diag([1, 1, 10.04, 1]), pixdim=(1, 1, 10)))) == []


def test_axes_that_are_not_at_right_angles():
  affine = np.diag([1, 1, 2, 1.0])
  affine[:2, 1] = 0.6, 0.8
  slanted = header(np.diag([1, 1, 2, 1.0]), sform=(affine, 1))
  assert list(header_faults(slanted)) == [
    "two axes of the sform are 53.1 degrees apart, and lengths are taken as of 90"
  ]
  affine[:2, 1] = 0.005, 1
  assert list(header_faults(header(np.diag([1, 1, 2, 1.0]), sform=(affine, 1), qform=(None, 0)))) == []


def test_without_an_sform_the_qform_alone_counts():
  affine = np.diag([1.3, 1.3, 10, 1])
  assert list(header_faults(header(affine, sform=(None, 0)))) == []
  assert list(header_faults(header(np.eye(4), qform=(affine, 0)))) == [
    "the sform has voxels of 1 x 1 x 1 mm, pixdim says 1.3 x 1.3 x 10 mm"
  ]


def test_lines_name_kinds_places_and_few_cases():
  cases = {"a": [(RANGE, "t1")], "b": [], **{f"c{i}": [(BACKGROUND, "flair"), (BACKGROUND, "t1")] for i in range(4)}}
  assert summary(cases) == [
    "warning: the background is not 0 (flair, t1) in 4 of 6 cases: c0, c1, c2, ...; see inspect",
    "warning: a few voxels rule the range of intensities (t1) in 1 of 6 cases: a; see inspect",
  ]
  assert summary({"a": []}) == []
  (line,) = summary({"a": [(HEADER, "x")]})
  assert line == "warning: the header contradicts itself, or has slanted axes (x) in 1 of 1 cases: a; see inspect"
