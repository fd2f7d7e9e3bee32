import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.data.patches.normalize import normalize
from nas3d_jax.errors import InputError

# One modality with range -2..6, one with 5..30 of which a voxel is missing, axes [1, 1, 4, 2].
VOLUME = np.array([[-2, 5], [0, 0], [2, 10], [6, 30]], np.int16).reshape(1, 1, 4, 2)
# 100 (0 / 8 + 0.1), background, 100 (4 / 8 + 0.1), 100 (8 / 8 + 0.1); and over 25.
EXPECTED = np.array([[10, 10], [0, 0], [60, 30], [110, 110]], np.float32).reshape(1, 1, 4, 2)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float16])
def test_by_hand(dtype):
  result = normalize(VOLUME.astype(dtype))
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, EXPECTED, rtol=1e-6)


def test_xi_and_lambda():
  # 2 (4 / 8 + 0.5) = 2
  result = normalize(VOLUME, xi=2.0, lam=0.5)
  np.testing.assert_allclose(result[0, 0, :, 0], [1, 0, 2, 3], rtol=1e-6)


@pytest.mark.parametrize(("mean", "deviation"), [(None, None), (3.0, 0.25), (-700.0, 41.0)])
def test_z_score_cancels(mean, deviation):
  rng = np.random.default_rng(0)
  volume = np.round(rng.normal(300, 150, (7, 6, 5, 3)))
  volume[rng.random((7, 6, 5)) < 0.3] = 0
  present = volume != 0
  expected = np.zeros_like(volume)
  for m in range(3):
    a = volume[..., m][present[..., m]]
    z = (a - (a.mean() if mean is None else mean)) / (a.std() if deviation is None else deviation)
    expected[..., m][present[..., m]] = 100 * ((z - z.min()) / (z.max() - z.min()) + 0.1)
  with jax.enable_x64(True):
    result = np.asarray(normalize(volume))
  assert result.dtype == np.float64
  np.testing.assert_allclose(result, expected, rtol=1e-13, atol=1e-11)


def test_float32_keeps_the_steps_of_int16():
  values = np.arange(-(2**15), 2**15, dtype=np.int16).reshape(16, 16, 256, 1)
  result = np.asarray(normalize(values))
  exact = 100 * ((values.astype(np.float64) + 2**15) / 65535 + 0.1) * (values != 0)
  np.testing.assert_allclose(result, exact, rtol=3e-7)


def test_a_patch_takes_the_range_of_its_case():
  result = normalize(VOLUME[:, :, 1:3], low=[-2, 5], high=[6, 30])
  np.testing.assert_allclose(result, EXPECTED[:, :, 1:3], rtol=1e-6)


def test_each_sample_of_a_batch_has_its_own_range():
  batch = np.stack([VOLUME, 3 * VOLUME])
  np.testing.assert_allclose(normalize(batch), np.stack([EXPECTED, EXPECTED]), rtol=1e-6)
  given = normalize(batch, low=[[-2, 5], [-6, 15]], high=[[6, 30], [18, 90]])
  np.testing.assert_allclose(given, np.stack([EXPECTED, EXPECTED]), rtol=1e-6)


@pytest.mark.parametrize(("fill", "expected"), [(7, 10), (0, 0)])
def test_a_modality_without_range(fill, expected):
  volume = VOLUME.astype(np.float32)
  volume[..., 1] = fill
  np.testing.assert_allclose(normalize(volume)[..., 1], expected)
  gradient = jax.grad(lambda v: normalize(v).sum())(volume)
  assert np.isfinite(gradient).all()


def test_jit_vmap_and_eval_shape():
  np.testing.assert_allclose(jax.jit(normalize)(VOLUME), EXPECTED, rtol=1e-6)
  np.testing.assert_allclose(jax.vmap(normalize)(VOLUME[None]), EXPECTED[None], rtol=1e-6)
  shape = jax.eval_shape(normalize, jax.ShapeDtypeStruct((2, 8, 8, 8, 4), jnp.int16))
  assert (shape.shape, shape.dtype) == ((2, 8, 8, 8, 4), jnp.float32)


def test_gradient_is_the_slope():
  scale = functools.partial(normalize, low=[-2, 5], high=[6, 30])
  gradient = jax.grad(lambda v: scale(v).sum())(VOLUME.astype(np.float32))
  # 100 / 8 and 100 / 25 where there is a voxel.
  np.testing.assert_allclose(gradient, (VOLUME != 0) * np.array([12.5, 4.0]), rtol=1e-6)


def test_too_few_axes():
  with pytest.raises(InputError, match=r"volume must be .* got shape \(4, 4, 4\)"):
    normalize(np.zeros((4, 4, 4)))


def test_a_range_beyond_single_precision():
  most = np.finfo(np.float32).max
  volume = np.full((2, 2, 2, 1), most, np.float32)
  volume[0], volume[1, 0] = -most, most / 2
  low, high = np.float32([-most]), np.float32([most])
  for got in (normalize(volume), normalize(volume, low=low, high=high)):
    np.testing.assert_allclose(got[:, :, 0, 0], [[10, 10], [85, 110]], rtol=1e-6)
