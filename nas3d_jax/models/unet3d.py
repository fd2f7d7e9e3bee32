"""The hand-designed 3D U-Net that the searched network is compared with.

Isensee et al. 2017, the paper's reference 36: "Brain Tumor Segmentation and Radiomics Survival Prediction: Contribution
to the BRATS 2017 Challenge", arXiv 1802.10508, section 2.3.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nas3d_jax.models import convolutions
from nas3d_jax.models.config import UNET_DROPOUT, UNetConfig
from nas3d_jax.models.dropout import Dropout
from nas3d_jax.models.initialization import declare
from nas3d_jax.models.networks import Network, check_call
from nas3d_jax.models.output_head import probabilities_of
from nas3d_jax.models.ranks import spread

SLOPE = 0.3
EPSILON = 1e-5
DEEP_SUPERVISION = 3  # levels of the upward path that have a segmentation layer, the finest ones

_SPACE = (1, 2, 3)


class UNet3D(Network):
  """The 3D U-Net of Isensee et al. (2017), with the numbers of the paper's comparison.

  Level k of `levels` has f_k = filters 2 ** k channels. Downward, each level has a 3x3x3 convolution, with stride 2
  below the first level, and a context module, whose output is added to its input. Upward, each level has nearest
  upsampling by 2, a 3x3x3 convolution to f_k channels, concatenation with the level's output on the way down, and a
  localisation module. The three finest levels have a segmentation layer each, 1x1x1. From the coarsest on, their
  outputs are upsampled (nearest) and added; the sigmoid of the sum is the probability.

  Where Isensee et al. are silent or differ between text, figure and programs, this holds:

  - Each convolution but the segmentation layers is followed by instance norm with scale and bias, then a leaky ReLU of
    slope 0.3; the text has 0.01, the programs of that name 0.3. This includes the context modules, so they are no
    pre-activation blocks. Nothing follows the addition.
  - A context module is convolution, dropout of whole channels, convolution, both 3x3x3 and of f_k channels.
  - A localisation module takes 2 f_k channels: its 3x3x3 convolution keeps them, its 1x1x1 halves them ("halves the
    number of feature maps"). The finest level has one too, where the figure has a single convolution.
  - Convolutions before a norm have no bias: the norm would take it out again.
  - Strided convolutions are padded by 1 on both sides, as PyTorch does; "SAME" would differ.
  - Initial values are drawn as for all networks here, see `initialization`.
  - With fewer than four levels all upward levels have a segmentation layer.

  Attributes:
    config: size.
    dropout_rate: channels dropped within each context module while training.
    dtype: of the arrays of voxels between the layers, float32 or bfloat16; parameters and statistics are float32.
  """

  config: UNetConfig
  dropout_rate: float = UNET_DROPOUT
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False, logits: bool = False) -> jax.Array:
    """Computes the probability of each region.

    Args:
      x: normalised modalities, [N, D, H, W, in_channels] floating point; lengths are multiples of 2 ** (levels - 1).
      train: whether dropout is on; it then needs `rngs={"dropout": key}`.
      logits: give what `config.output` is applied to instead.

    Returns:
      [N, D, H, W, out_channels] between 0 and 1, float32.

    Raises:
      InputError: a shape that does not fit.
    """
    config = self.config
    check_call(config, x, self.dropout_rate)
    x = x.astype(self.dtype)
    skips: list[jax.Array] = []
    for level in range(config.levels):
      x = Block(config.filters * 2**level, stride=2 if level else 1, name=f"down_{level}")(x)
      x = x + Context(self.dropout_rate, name=f"context_{level}")(x, train=train)
      skips.append(x)
    x, total = skips.pop(), None
    for level in reversed(range(config.levels - 1)):
      channels = config.filters * 2**level
      x = Block(channels, name=f"up_{level}")(upsample(x))
      x = Block(2 * channels, name=f"merge_{level}")(jnp.concatenate([skips.pop(), x], axis=-1))
      x = Block(channels, size=1, name=f"reduce_{level}")(x)
      if level < DEEP_SUPERVISION:
        segmentation = Segmentation(config.out_channels, name=f"segment_{level}")(x)
        total = segmentation if total is None else upsample(total) + segmentation
    return total if logits else probabilities_of(total, config.output)


class Context(nn.Module):
  """The residual branch of a context module; it keeps shape and channels.

  Attributes:
    dropout_rate: channels dropped between its convolutions while training.
  """

  dropout_rate: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, D, H, W, C] -> [N, D, H, W, C]."""
    channels = x.shape[-1]
    x = Block(channels, name="first")(x)
    x = Dropout(self.dropout_rate)(x, train=train)
    return Block(channels, name="second")(x)


class Block(nn.Module):
  """Convolution, instance norm, leaky ReLU.

  Attributes:
    channels: C', of the output.
    size: length of the kernel along each axis, 3 or 1.
    stride: 1 or 2.
    slope: of the leaky ReLU below 0.
  """

  channels: int
  size: int = 3
  stride: int = 1
  slope: float = SLOPE

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, D, H, W, C] -> [N, D / stride, H / stride, W / stride, C']."""
    c_in, norm = x.shape[-1], {"scale": (self.channels,), "bias": (self.channels,)}
    if self.size == 1:
      layers = declare(self, {"project": {"kernel": (c_in, self.channels)}, "norm": norm})
      y = convolutions.project(x, layers["project"]["kernel"])
    else:
      layers = declare(self, {"conv": {"kernel": (3, 3, 3, c_in, self.channels)}, "norm": norm})
      convolve = convolutions.conv if self.stride == 1 else convolutions.conv_down
      y = convolve(x, layers["conv"]["kernel"])
    return jax.nn.leaky_relu(instance_norm(y, **layers["norm"]), jnp.asarray(self.slope, y.dtype))


class Segmentation(nn.Module):
  """A segmentation layer: 1x1x1 convolution with bias, in float32.

  Attributes:
    regions: R.
  """

  regions: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, D, H, W, C] -> float32 [N, D, H, W, R], before the sigmoid."""
    shapes = {"project": {"kernel": (x.shape[-1], self.regions), "bias": (self.regions,)}}
    layer = declare(self, shapes)["project"]
    y = convolutions.project(x.astype(jnp.float32), layer["kernel"])
    return y + spread(layer["bias"], y)


def instance_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
  """Brings each channel of each sample to mean 0 and variance 1 over its voxels (epsilon 1e-5), times scale, plus bias.

  Args:
    x: [N, D, H, W, C].
    scale: [C].
    bias: [C].

  Returns:
    The same shape and dtype; statistics are float32.
  """
  values = x.astype(jnp.float32)
  mean = values.mean(_SPACE, keepdims=True)
  variance = jnp.square(values - mean).mean(_SPACE, keepdims=True)
  return ((values - mean) * (spread(scale, x) * jax.lax.rsqrt(variance + EPSILON)) + spread(bias, x)).astype(x.dtype)


def upsample(x: jax.Array) -> jax.Array:
  """Repeats each voxel twice along each axis: [N, D, H, W, C] -> [N, 2D, 2H, 2W, C]."""
  n, d, h, w, c = x.shape
  repeated = jnp.broadcast_to(x[:, :, None, :, None, :, None], (n, d, 2, h, 2, w, 2, c))
  return repeated.reshape(n, 2 * d, 2 * h, 2 * w, c)
