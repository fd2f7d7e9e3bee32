"""The loss of search and training (section 3.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

EPSILON = 1e-6


def dice_loss(probabilities: jax.Array, target: jax.Array) -> jax.Array:
  """1 - mean over regions and batch of the soft Dice coefficient.

  A region's coefficient is (eps + 2 sum Y P) / (eps + sum Y + sum P) over its voxels, eps = 1e-6.

  Args:
    probabilities: [N, D, H, W, R] between 0 and 1.
    target: the same shape, 0 or 1, any dtype.

  Returns:
    Scalar, float32.
  """
  p, y = probabilities.astype(jnp.float32), target.astype(jnp.float32)
  overlap = jnp.sum(y * p, (1, 2, 3))
  total = jnp.sum(y, (1, 2, 3)) + jnp.sum(p, (1, 2, 3))
  return 1 - jnp.mean((EPSILON + 2 * overlap) / (EPSILON + total))
