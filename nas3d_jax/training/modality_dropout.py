"""Modalities that a patch lacks while training, so that the network stands a case without them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Apart from what the network draws with the same key.
_OWN = 2**31 - 2


def drop_modalities(key: jax.Array, image: jax.Array, rate: float) -> jax.Array:
  """Takes modalities out of samples: they become 0, as outside the foreground, which is what prediction puts there.

  Args:
    key: typed random key.
    image: normalised, [N, D, H, W, M].
    rate: probability that a sample lacks a modality, each by itself; one of those that would lack all, chosen alike
      often, keeps it. 0 changes nothing.

  Returns:
    An array of the same shape and dtype.
  """
  if not rate:
    return image
  of_each, of_last = jax.random.split(jax.random.fold_in(key, _OWN))
  samples, modalities = image.shape[0], image.shape[-1]
  kept = jax.random.bernoulli(of_each, 1 - rate, (samples, modalities))
  last = jax.nn.one_hot(jax.random.randint(of_last, (samples,), 0, modalities), modalities, dtype=bool)
  kept = jnp.where(kept.any(axis=-1, keepdims=True), kept, last)
  return jnp.where(kept[:, None, None, None], image, 0)
