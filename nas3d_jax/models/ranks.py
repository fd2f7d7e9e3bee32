"""Ranks that are written down, so that networks also run where JAX is told to promote none."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def spread(values: jax.Array, like: jax.Array) -> jax.Array:
  """[...] -> [1, ..., 1, ...] with as many axes as `like`, whose last ones the values go with."""
  return jnp.expand_dims(values, range(like.ndim - values.ndim))
