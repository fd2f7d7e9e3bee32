"""One operation an edge instead of a mixture: paths of the supernet (Dong and Yang 2019, "GDAS").

A path says which candidate operation each edge computes. It is sampled from the hybrid parameters by the Gumbel-max
trick: of log p + g, with p the softmax weights and g standard Gumbel noise, the largest wins, so that operation o wins
with probability p_o. Forward the choice is hard. Backward it counts as the softmax of (log p + g) / temperature, of
which the weight of the winner alone has a gradient, because nothing else was computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Path(NamedTuple):
  """The operations of some edges.

  Attributes:
    choice: int32 [edges], the column of each edge's operation.
    weight: float32 [edges], all 1; the gradient reaches the hybrid parameters through it.
  """

  choice: jax.Array
  weight: jax.Array


def sampled_paths(hybrid: Mapping[str, jax.Array], key: jax.Array, temperature: jax.Array | float) -> dict[str, Path]:
  """Paths at random, with the gradient of a softmax.

  Args:
    hybrid: hybrid parameters by name, float32 [edges, candidates].
    key: a random key.
    temperature: above 0; the lower, the nearer is the softmax to the choice, and the larger its gradient's variance.

  Returns:
    A path for each name.
  """
  keys = dict(zip(hybrid, jax.random.split(key, len(hybrid)), strict=True))
  return {name: _sampled(alpha, keys[name], temperature) for name, alpha in hybrid.items()}


def strongest_paths(hybrid: Mapping[str, jax.Array]) -> dict[str, Path]:
  """The operation with the largest weight on each edge, of equals the first: what sampling becomes at temperature 0."""
  return {
    name: Path(jnp.argmax(alpha, -1).astype(jnp.int32), jnp.ones(alpha.shape[0], jnp.float32))
    for name, alpha in hybrid.items()
  }


def _sampled(alpha: jax.Array, key: jax.Array, temperature: jax.Array | float) -> Path:
  noisy = jax.nn.log_softmax(alpha) + jax.random.gumbel(key, alpha.shape, jnp.float32)
  choice = jnp.argmax(noisy, -1).astype(jnp.int32)
  soft = jnp.take_along_axis(jax.nn.softmax(noisy / temperature), choice[:, None], -1)[:, 0]
  return Path(choice, 1 + soft - jax.lax.stop_gradient(soft))
