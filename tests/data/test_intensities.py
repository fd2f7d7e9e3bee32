"""Foreground and normalisation against NumPy, on values."""

import numpy as np
import pytest

from nas3d_jax.data.brain import brain_cube, intensity_range
from nas3d_jax.data.intensities import (
  PAPER_INTENSITIES,
  Intensities,
  Window,
  border_value,
  find_foreground,
  foreground_of,
)
from nas3d_jax.data.patches.normalize import normalize
from nas3d_jax.errors import InputError

RNG = np.random.default_rng(0)
SHAPE = (9, 8, 7)
INNER = (slice(2, 7), slice(1, 6), slice(2, 6))


def brain(background=0.0, values=None):
  """A box of intensities in a constant background."""
  image = np.full(SHAPE, background, np.float32)
  image[INNER] = RNG.normal(50, 9, (5, 5, 4)) if values is None else values
  return image


def scaled(intensities, image):
  """What a network gets of a case: prepared, then scaled by equation 2 with its bounds."""
  prepared = intensities.prepare(image)
  low, high = intensities.bounds(prepared)
  return np.asarray(normalize(prepared, low=low, high=high))


def test_the_papers_are_left_to_the_device():
  image = np.stack([brain(), brain()], -1)
  assert PAPER_INTENSITIES.prepare(image) is image
  np.testing.assert_array_equal(PAPER_INTENSITIES.bounds(image), intensity_range(image))
  assert Intensities(kinds=("range", "range")).is_paper
  assert not Intensities("all", ("range",)).is_paper


@pytest.mark.parametrize("background", [0, -3.6, 12])
def test_a_constant_background_is_found_in_each_case_and_modality(background):
  image = np.stack([brain(background), brain(0)], -1)
  intensities = Intensities("constant", ("zscore", "zscore"))
  got = scaled(intensities, image)
  for channel in range(2):
    own = image[INNER][..., channel].astype(np.float64)
    np.testing.assert_allclose(got[INNER][..., channel], (own - own.mean()) / own.std(), rtol=1e-4, atol=1e-5)
  outside = np.ones(SHAPE, bool)
  outside[INNER] = False
  assert not got[outside].any()
  assert brain_cube(intensities.prepare(image)) == ((2, 7), (1, 6), (2, 6))


def test_everything_is_foreground_of_a_ct():
  image = RNG.integers(-1024, 1500, (*SHAPE, 1)).astype(np.int16)
  image[4, 4, 4] = 0
  got = scaled(Intensities("all", ("zscore",)), image)
  own = image.astype(np.float64)
  np.testing.assert_allclose(got, (own - own.mean()) / own.std(), rtol=1e-4, atol=1e-5)
  assert brain_cube(Intensities("all", ("zscore",)).prepare(image)) == ((0, 9), (0, 8), (0, 7))


def test_a_voxel_of_the_foreground_is_never_zero():
  values = np.resize([40.0, 50.0, 60.0], (5, 5, 4))
  prepared = Intensities("constant", ("zscore",)).prepare(brain(7, values)[..., None])
  assert (prepared[INNER] != 0).all()


def test_percentile_clips_and_then_standardises():
  values = RNG.normal(100, 10, (5, 5, 4))
  values[0, 0, 0], values[1, 1, 1] = 32767, -9000
  image = brain(0, values)[..., None]
  own = image[INNER].astype(np.float64)
  clipped = own.clip(*np.percentile(own, [0.5, 99.5]))
  got = scaled(Intensities("nonzero", ("percentile",)), image)[INNER]
  np.testing.assert_allclose(got, (clipped - clipped.mean()) / clipped.std(), rtol=1e-4, atol=1e-5)


def test_windows():
  image = RNG.integers(-1000, 1000, (*SHAPE, 1)).astype(np.int16)
  given = Intensities("all", ("window",), (Window.between(-160, 240),))
  np.testing.assert_allclose(scaled(given, image), (image.clip(-160, 240) - 40) / 200, rtol=1e-5, atol=1e-5)
  values = RNG.normal(0, 100, 5000)
  low, high = np.percentile(values, [0.5, 99.5])
  clipped = values.clip(low, high)
  np.testing.assert_allclose(Window.of_values(values), [low, high, clipped.mean(), clipped.std()])


def test_the_range_over_another_foreground_is_the_papers():
  image = brain(-3)[..., None]
  own = image[INNER].astype(np.float64)
  expected = 100 * ((own - own.min()) / np.ptp(own) + 0.1)
  np.testing.assert_allclose(scaled(Intensities("constant", ("range",)), image)[INNER], expected, rtol=1e-5)


def test_each_modality_its_own():
  image = np.stack([brain(), brain(), brain()], -1)
  got = scaled(Intensities("nonzero", ("range", "zscore", "none")), image)[INNER]
  assert (got[..., 0].min(), got[..., 0].max()) == pytest.approx((10, 110))
  assert (got[..., 1].mean(), got[..., 1].std()) == pytest.approx((0, 1), abs=1e-4)
  np.testing.assert_allclose(got[..., 2], image[INNER][..., 2], rtol=1e-5)


def test_what_was_prepared_is_taken_as_it_is():
  image = np.stack([brain(-2), brain(5)], -1)
  intensities = Intensities("constant", ("zscore", "percentile"))
  prepared = intensities.prepare(image)
  np.testing.assert_array_equal(intensities.prepared.prepare(prepared), prepared)


def test_border_values():
  assert border_value(brain(-3.5)) == -3.5
  assert border_value(RNG.normal(size=SHAPE)) is None
  np.testing.assert_array_equal(foreground_of(brain(4), "constant"), brain(4) != 4)
  assert foreground_of(RNG.normal(size=SHAPE), "constant").all()


@pytest.mark.parametrize(
  ("image", "expected"),
  [
    (brain(0), "nonzero"),
    (brain(-3.6), "constant"),
    (RNG.integers(-1024, 100, SHAPE), "all"),
    # A brain that was cut out closely: its faces lie in it, but a good part is 0.
    (np.where(RNG.random(SHAPE) < 0.3, 0, RNG.integers(1, 99, SHAPE)), "nonzero"),
    (RNG.integers(1, 99, SHAPE), "all"),
  ],
)
def test_the_foreground_that_volumes_have(image, expected):
  assert find_foreground([image[..., None]]) == expected


def test_plain_values_and_back():
  intensities = Intensities("all", ("window", "zscore"), (Window(-1.0, 2.0, 0.5, 1.5), None))
  assert Intensities.from_dict(intensities.to_dict()) == intensities
  assert intensities.said(("ct", "pet")) == "foreground: all voxels; normalization: ct window from -1 to 2, pet zscore"


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"foreground": "brain", "kinds": [], "windows": []}, "foreground must be one of nonzero, constant, all"),
    ({"foreground": "all", "kinds": ["log"], "windows": []}, "normalization must be one of range.*got 'log'"),
    ({"foreground": "all", "kinds": ["window"], "windows": []}, "each modality with a window must have one"),
    ({"foreground": "all", "kinds": ["window"], "windows": [[1, 2]]}, "a window must be four numbers"),
    ({"foreground": "all"}, "intensities must have the fields"),
  ],
)
def test_what_is_refused(fields, message):
  with pytest.raises(InputError, match=message):
    Intensities.from_dict(fields)


def test_a_modality_without_contrast_is_refused():
  with pytest.raises(InputError, match="modality 0 has one value alone, 5"):
    Intensities("constant", ("zscore",)).prepare(brain(0, 5.0)[..., None])
