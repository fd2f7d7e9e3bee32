"""The end of a network: logits of the regions, and their probabilities."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from nas3d_jax.models import convolutions
from nas3d_jax.models.config import Output
from nas3d_jax.models.initialization import declare
from nas3d_jax.models.ranks import spread


def probabilities_of(logits: jax.Array, output: Output) -> jax.Array:
  """The probability of each region: float32 [..., R] -> [..., R] between 0 and 1.

  Of "sigmoid" each by itself. Of "softmax" the regions exclude each other and the background, whose logit is 0.
  """
  if output == "sigmoid":
    return jax.nn.sigmoid(logits)
  every = jnp.concatenate([jnp.zeros_like(logits[..., :1]), logits], axis=-1)
  return jax.nn.softmax(every, axis=-1)[..., 1:]


class OutputHead(nn.Module):
  """The last 1x1x1 convolution: logits of the regions, in float32.

  Attributes:
    regions: number of regions.
  """

  regions: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., C] -> [..., regions], float32."""
    shapes = {"project": {"kernel": (x.shape[-1], self.regions), "bias": (self.regions,)}}
    layer = declare(self, shapes)["project"]
    y = convolutions.project(x, layer["kernel"]).astype(jnp.float32)
    return y + spread(layer["bias"], y)
