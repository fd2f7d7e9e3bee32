"""The U-Net that nnU-Net plans, the hand-designed network of today.

Isensee et al. 2021, "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation".
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nas3d_jax.models import convolutions
from nas3d_jax.models.config import PlainUNetConfig
from nas3d_jax.models.dropout import Dropout
from nas3d_jax.models.initialization import declare
from nas3d_jax.models.networks import Network, check_call
from nas3d_jax.models.output_head import probabilities_of
from nas3d_jax.models.ranks import spread
from nas3d_jax.models.unet3d import Block, Segmentation

SLOPE = 0.01
MOST_FILTERS = 320

Answers = jax.Array | tuple[jax.Array, ...]


class PlainUNet(Network):
  """Two 3x3x3 convolutions a level, each with instance norm and leaky ReLU (slope 0.01), and deep supervision.

  Level k of `levels` has min(filters 2 ** k, 320) channels; the first convolution below the first level has stride 2.
  Upward, a transposed convolution of 2x2x2 doubles the lengths, and the level's output on the way down is concatenated.
  While training, each level of the way up but the coarsest two, and at least the finest, answers for itself. Weights
  before a norm have no bias, which the norm would take out; initial values are drawn as for all networks here.

  Attributes:
    config: size.
    dropout_rate: channels dropped before the segmentation layers while training; nnU-Net has none.
    dtype: of the arrays of voxels between the layers, float32 or bfloat16; parameters and statistics are float32.
  """

  config: PlainUNetConfig
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False, logits: bool = False) -> Answers:
    """Computes the probability of each region.

    Args:
      x: normalised modalities, [N, D, H, W, in_channels] floating point; lengths are multiples of 2 ** (levels - 1).
      train: whether each level answers for itself, and dropout is on; that needs `rngs={"dropout": key}`.
      logits: give what `config.output` is applied to instead.

    Returns:
      [N, D, H, W, out_channels] between 0 and 1, float32; while training a tuple, each with half the lengths of the
      one before.

    Raises:
      InputError: a shape that does not fit.
    """
    config = self.config
    check_call(config, x, self.dropout_rate)
    x = x.astype(self.dtype)
    skips: list[jax.Array] = []
    for level in range(config.levels):
      x = self._two(x, level, "down", stride=2 if level else 1)
      skips.append(x)
    x, answers = skips.pop(), []
    for level in reversed(range(config.levels - 1)):
      x = Expand(_channels(config, level), name=f"expand_{level + 1}")(x)
      x = self._two(jnp.concatenate([skips.pop(), x], axis=-1), level, "up")
      supervised = train or self.is_initializing()
      if level == 0 or (supervised and level < config.levels - 2):
        features = Dropout(self.dropout_rate, name=f"dropout_{level}")(x, train=train)
        answers.append(Segmentation(config.out_channels, name=f"segment_{level}")(features))
    answers = answers[::-1] if logits else [probabilities_of(answer, config.output) for answer in answers[::-1]]
    return tuple(answers) if train else answers[0]

  def _two(self, x: jax.Array, level: int, way: str, stride: int = 1) -> jax.Array:
    channels = _channels(self.config, level)
    x = Block(channels, stride=stride, slope=SLOPE, name=f"{way}_{level}_first")(x)
    return Block(channels, slope=SLOPE, name=f"{way}_{level}_second")(x)


class Expand(nn.Module):
  """A transposed convolution of 2x2x2 with stride 2, whose blocks do not overlap.

  Attributes:
    channels: C', of the output.
  """

  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, D, H, W, C] -> [N, 2D, 2H, 2W, C']."""
    n, d, h, w, c = x.shape
    shapes = {"project": {"kernel": (c, 8 * self.channels), "bias": (self.channels,)}}
    layer = declare(self, shapes)["project"]
    blocks = convolutions.project(x, layer["kernel"]).reshape(n, d, h, w, 2, 2, 2, self.channels)
    y = blocks.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, 2 * d, 2 * h, 2 * w, self.channels)
    return y + spread(layer["bias"].astype(y.dtype), y)


def _channels(config: PlainUNetConfig, level: int) -> int:
  return min(config.filters * 2**level, MOST_FILTERS)
