"""The U-Net that nnU-Net plans: its shape, its levels' answers, and the same numbers as PyTorch's layers."""

import itertools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.models.config import PlainUNetConfig
from nas3d_jax.models.flops import forward_flops
from nas3d_jax.models.plain_unet import Expand, PlainUNet
from nas3d_jax.training.losses import deeply_supervised, dice_loss

CONFIG = PlainUNetConfig(in_channels=2, out_channels=3, filters=2, levels=4)
NET = PlainUNet(CONFIG)


@pytest.fixture(scope="module")
def variables():
  return jax.jit(NET.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 16, 2)))


@pytest.fixture(scope="module")
def image():
  return jax.random.normal(jax.random.key(1), (2, 8, 8, 16, 2))


def test_parameters_are_those_that_nnunet_plans(variables):
  sizes = {"/".join(path): leaf.size for path, leaf in flax.traverse_util.flatten_dict(variables["params"]).items()}
  channels = [2, 4, 8, 16]
  expected, before = 0, 2
  for own in channels:
    expected += 27 * before * own + 27 * own * own + 4 * own
    before = own
  for own, below in itertools.pairwise(channels):
    expected += 8 * below * own + own  # transposed convolution
    expected += 27 * 2 * own * own + 27 * own * own + 4 * own
  expected += sum(3 * own + 3 for own in channels[:2])  # an answer of each level but the coarsest two
  assert sum(sizes.values()) == expected
  assert PlainUNet(PlainUNetConfig(filters=64, levels=5)).config.multiple == 16


def test_levels_answer_while_training_alone(variables, image):
  one = NET.apply(variables, image)
  assert one.shape == (2, 8, 8, 16, 3)
  assert float(one.min()) >= 0
  assert float(one.max()) <= 1
  answers = NET.apply(variables, image, train=True, logits=True)
  assert [answer.shape[1:4] for answer in answers] == [(8, 8, 16), (4, 4, 8)]
  np.testing.assert_allclose(jax.nn.sigmoid(answers[0]), one, atol=1e-6)


def test_the_loss_of_levels_by_hand(image):
  answers = tuple(jax.nn.sigmoid(image[:, ::step, ::step, ::step]) for step in (1, 2, 4))
  target = (image > 0.3).astype(jnp.float32)
  parts = [dice_loss(answers[0], target), dice_loss(answers[1], target[:, 1::2, 1::2, 1::2])]
  parts.append(dice_loss(answers[2], target[:, 2::4, 2::4, 2::4]))
  expected = np.dot(parts, [4, 2, 1]) / 7
  np.testing.assert_allclose(deeply_supervised(dice_loss)(answers, target), expected, rtol=1e-6)
  np.testing.assert_allclose(deeply_supervised(dice_loss)(answers[0], target), parts[0], rtol=1e-6)


def test_a_transposed_convolution_by_hand():
  x = np.random.default_rng(0).normal(size=(1, 2, 1, 3, 2)).astype(np.float32)
  net = Expand(4)
  variables = net.init(jax.random.key(0), x)
  kernel = np.asarray(variables["params"]["project"]["kernel"]).reshape(2, 2, 2, 2, 4)
  expected = np.zeros((1, 4, 2, 6, 4))
  for d, h, w in np.ndindex(2, 1, 3):
    for a, b, c in np.ndindex(2, 2, 2):
      expected[0, 2 * d + a, 2 * h + b, 2 * w + c] = x[0, d, h, w] @ kernel[:, a, b, c]
  expected += np.asarray(variables["params"]["project"]["bias"])
  np.testing.assert_allclose(net.apply(variables, x), expected, atol=1e-5)


def test_flops_are_those_of_its_layers():
  voxels = [16**3 // 8**level for level in range(4)]
  channels, total, before = [2, 4, 8, 16], 0, 2
  for own, count in zip(channels, voxels, strict=True):
    total += 27 * before * own * count + 27 * own * own * count
    before = own
  for level in range(3):
    own, below = channels[level], channels[level + 1]
    total += 8 * below * own * voxels[level + 1] + 27 * 3 * own * own * voxels[level]
    total += 3 * own * voxels[level] if level < 2 else 0
  assert forward_flops(NET, 16) == 2 * total
