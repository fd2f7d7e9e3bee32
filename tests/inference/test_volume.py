"""Whole volumes: what is constant stays constant, patches go back where they came from, checkpoints are averaged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.inference.volume import make_predict_step, predict_mean, predict_volume
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet

CONFIG = NetworkConfig(in_channels=2, out_channels=3, kernels=2, nodes=1, depth=2)
GENOTYPE = Genotype(down=(("max_pool", 0), ("avg_pool", 1)), up=(("identity", 0), ("up_conv", 1)))
NET = DerivedNet(CONFIG, GENOTYPE)
PATCH = 8
STEP = make_predict_step(NET)
APPLY = jax.jit(NET.apply)


@pytest.fixture(scope="module")
def drawn():
  """Variables as the network draws them."""
  return NET.init(jax.random.key(0), jax.ShapeDtypeStruct((1, PATCH, PATCH, PATCH, 2), jnp.float32))


@pytest.fixture
def constant(drawn):
  """Variables with which every voxel has the confidences given: the last convolution sees nothing but its bias."""

  def make(confidences):
    confidences = np.asarray(confidences, np.float32)
    head = {"project": {"kernel": jnp.zeros((2, 3)), "bias": jnp.log(confidences / (1 - confidences))}}
    return {"params": {**drawn["params"], "head": head}}

  return make


def volume_of(shape, start, cube, seed=0):
  """Zeros but for a box of intensities from 1 to 9."""
  volume = np.zeros((*shape, 2), np.int16)
  box = tuple(slice(a, a + n) for a, n in zip(start, cube, strict=True))
  volume[box] = np.random.default_rng(seed).integers(1, 10, (*cube, 2))
  return volume


def test_constant_confidences_in_the_brain_and_none_outside(constant):
  volume = volume_of((14, 12, 11), (1, 2, 0), (11, 8, 9))
  volume[5, 5, 5] = 0  # a hole within the brain's box
  volume[6, 6, 6] = (0, 3)  # one modality is enough to be brain
  got = predict_volume(NET, constant([0.25, 0.5, 0.875]), volume, patch_size=PATCH, step=STEP)
  brain = np.zeros((14, 12, 11), bool)
  brain[1:12, 2:10, 0:9] = True
  brain[5, 5, 5] = False
  assert (got.shape, got.dtype) == ((14, 12, 11, 3), np.float32)
  np.testing.assert_array_equal(got[~brain], 0)
  np.testing.assert_allclose(got[brain], np.broadcast_to([0.25, 0.5, 0.875], (brain.sum(), 3)), rtol=1e-6)


def test_probabilities_of_checkpoints_are_averaged(constant):
  # Not their logits: sigmoid(mean(logit(0.2), logit(0.9))) would be 0.6.
  trees = [constant([0.2, 0.5, 0.1]), constant([0.9, 0.5, 0.4])]
  volume = volume_of((8, 8, 8), (0, 0, 0), (8, 8, 8))
  got = predict_volume(NET, trees, volume, patch_size=PATCH, step=STEP)
  np.testing.assert_allclose(got, np.broadcast_to([0.55, 0.5, 0.25], got.shape), rtol=1e-6)


def test_a_brain_of_one_patch_is_the_network_itself(drawn):
  """Equation 2 by hand, the network applied to the box, nothing else."""
  volume = volume_of((12, 10, 9), (3, 0, 1), (8, 8, 8))
  cube = volume[3:11, 0:8, 1:9].astype(np.float64)
  low, high = cube.min((0, 1, 2)), cube.max((0, 1, 2))
  image = 100 * ((cube - low) / (high - low) + 0.1)
  want = APPLY(drawn, jnp.asarray(image[None], jnp.float32))[0]
  got = predict_volume(NET, drawn, volume, patch_size=PATCH, step=STEP)
  assert np.ptp(want) > 0.01
  np.testing.assert_allclose(got[3:11, 0:8, 1:9], want, atol=2e-5)


@pytest.mark.parametrize(("limits", "want"), [({}, [10, 35, 110]), ({"xi": 2.0, "lam": 3.0}, [6, 6.5, 8])])
def test_the_step_normalises_by_the_bounds_it_is_given(limits, want):
  """Equation 2 by hand: 4, 6 and 12 between 4 and 12 are 0, 1/4 and 1 of the range; zero stays zero."""

  class Echo:
    def apply(self, variables, x):
      return variables * x

  patch = np.zeros((4, 4, 4, 1), np.float32)
  patch[0, 0, :3, 0] = [4, 6, 12]
  step = make_predict_step(Echo(), **limits)
  got = step(np.float32(1), patch, np.float32([4]), np.float32([12]))
  assert got.shape == (4, 4, 4, 1)
  np.testing.assert_allclose(got[0, 0, :, 0], [*want, 0], rtol=1e-6)


@pytest.mark.parametrize("cube", [(5, 8, 20), (9, 16, 13), (1, 2, 3)])
def test_patches_go_back_where_they_came_from(cube):
  """A network that answers with its input gives the volume back, however the patches overlap."""
  volume = volume_of((22, 18, 21), (2, 1, 0), cube)

  def answer(variables, patch, low, high):
    return patch[..., :1] / 16

  got = predict_mean([(answer, None)], volume, patch_size=PATCH, regions=1)
  np.testing.assert_array_equal(got, volume[..., :1] / np.float32(16))


def test_overlaps_are_averaged():
  # 12 voxels in patches of 8: they start at 0 and 4 and share the voxels 4 to 7.
  answers = iter([0.25, 0.75])
  seen = []

  def answer(variables, patch, low, high):
    return np.full((8, 8, 8, 1), next(answers), np.float32)

  volume = np.ones((8, 12, 8, 1), np.float32)
  got = predict_mean([(answer, None)], volume, patch_size=8, regions=1, on_patch=lambda *n: seen.append(n))
  np.testing.assert_array_equal(got[0, :, 0, 0], [0.25] * 4 + [0.5] * 4 + [0.75] * 4)
  assert seen == [(1, 2), (2, 2)]


def test_low_and_high_are_the_whole_cases():
  volume = volume_of((8, 20, 8), (0, 0, 0), (8, 20, 8))
  volume[0, 0, 0], volume[0, 19, 0] = (-7, 50), (90, -3)
  bounds = []

  def answer(variables, patch, low, high):
    bounds.append((low.tolist(), high.tolist()))
    return patch[..., :1] * 0

  predict_mean([(answer, None)], volume, patch_size=8, regions=1)
  assert bounds == [([-7, -3], [90, 50])] * 3


def test_one_compilation_serves_all_patches_cases_and_types(drawn):
  for shape, dtype in (((8, 8, 8), np.int16), ((9, 17, 10), np.float32), ((4, 30, 5), np.float64)):
    volume = volume_of(shape, (0, 0, 0), shape).astype(dtype)
    predict_volume(NET, drawn, volume, patch_size=PATCH, step=STEP)
  assert STEP._cache_size() == 1


ONES = np.ones((8, 8, 8, 2), np.float32)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"volume": ONES[..., :1]}, r"volume must be real numbers \[D, H, W, 2\], got float32 of shape \(8, 8, 8, 1\)"),
    ({"volume": ONES[0]}, r"volume must be real numbers \[D, H, W, 2\]"),
    ({"volume": ONES + 1j}, "got complex64"),
    ({"volume": np.where(np.arange(8)[:, None, None, None] == 3, np.nan, ONES)}, "volume must be finite"),
    ({"volume": ONES * np.inf}, "volume must be finite"),
    ({"volume": ONES * 0}, "must not be zero everywhere"),
    ({"patch_size": 12}, "patch_size must be a multiple of 8 .* got 12; use 8 or 16"),
    ({"patch_size": 0}, "patch_size must be a multiple of 8"),
    ({"variables": []}, "variables must be at least one tree"),
  ],
)
def test_wrong_inputs(drawn, change, message):
  arguments = {"variables": drawn, "volume": ONES, "patch_size": 8} | change
  with pytest.raises(InputError, match=message):
    predict_volume(NET, step=STEP, **arguments)


def test_a_network_that_diverged_is_refused(constant):
  with pytest.raises(InputError, match="not finite: its training diverged"):
    predict_volume(NET, constant([0.5, np.nan, 0.5]), ONES, patch_size=8, step=STEP)
