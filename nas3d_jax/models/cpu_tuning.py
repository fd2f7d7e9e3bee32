"""What keeps XLA's CPU compiler from computing the same array many times; on other devices nothing changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def materialize(x: jax.Array) -> jax.Array:
  """Returns x, computed once and kept; values, dtype and gradient are those of x (all NaN where its first value is).

  XLA's CPU compiler computes cheap producers anew in each of their consumers. A state of a cell is read by 27 taps, and
  again in the gradients; without this each of them repeats the norm, the ReLU and the sum that the state came from. The
  compiler does not repeat a division. So x is divided by a 1 that is known at run time only: 1
  unless the first value of x is NaN.

  Args:
    x: a floating-point array with at least one element.
  """
  if jax.default_backend() != "cpu":
    return x
  first = jax.lax.stop_gradient(x[(0,) * x.ndim])
  return x / jnp.where(jnp.isnan(first), first, 1)
