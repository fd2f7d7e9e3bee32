"""What keeps XLA's CPU compiler from computing the same array many times."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def materialize(x: jax.Array) -> jax.Array:
  """x, computed once and kept.

  XLA's CPU compiler computes cheap producers anew in each of their consumers: a state of a cell in each of the taps
  that are gathered from it, and again in the gradients, down to the convolutions it came from. It does not do so with a
  division. The divisor is one, but known only at run time.
  """
  if jax.default_backend() != "cpu":
    return x
  first = jax.lax.stop_gradient(x[(0,) * x.ndim])
  return x / jnp.where(jnp.isnan(first), first, 1)
