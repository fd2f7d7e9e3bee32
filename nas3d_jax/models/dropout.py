"""Dropout of whole channels, whose mask depends on its key alone."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Dropout(nn.Module):
  """Sets whole channels to zero while training, and divides the others by the part that is kept.

  Flax's own draws in double precision where that is turned on, which gives another mask. This one has its name and its
  mask otherwise, so that keys are derived alike.

  Attributes:
    rate: part of the channels that are dropped, at least 0 and below 1.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, D, H, W, C] -> the same; while training it needs `rngs={"dropout": key}`."""
    if not train or not self.rate:
      return x
    keep = 1.0 - self.rate
    shape, ends = (x.shape[0], 1, 1, 1, x.shape[-1]), (np.float32(0), np.float32(1))
    kept = jax.random.uniform(self.make_rng("dropout"), shape, jnp.float32, *ends) < np.float32(keep)
    return jax.lax.select(jnp.broadcast_to(kept, x.shape), x / keep, jnp.zeros_like(x))
