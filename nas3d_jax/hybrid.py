"""A fan: all hybrid modules that read one state, as wide convolutions (section 2.2, Fig. 4)."""

from __future__ import annotations

import flax.linen as nn
import jax

from nas3d_jax import ops, rearrange, wide
from nas3d_jax.config import Variant
from nas3d_jax.genotype import CANDIDATES, Direction


class Fan(nn.Module):
  """The hybrid modules of one state: each edge mixes all candidate operations by its weights.

  Parameters are held by operation, stacked over the edges: `<operation>/<module>/<name>` with the shapes of
  `ops.parameter_shapes`.

  Attributes:
    direction: what the hybrid modules do to the resolution.
    channels: C, channels of the state and of every operation.
    edges: E, hybrid modules that read the state.
    variant: which squeeze-and-excitation operation is meant.
  """

  direction: Direction
  channels: int
  edges: int
  variant: Variant = "paper"

  @nn.compact
  def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
    """Mixes the candidate operations (equation in section 2.2: sum over o of softmax(alpha)_o o(x)).

    Args:
      x: the state, [N, D, H, W, C].
      weights: [E, candidates], positive: the softmax of the hybrid parameters, columns as in `CANDIDATES`.

    Returns:
      [N, D', H', W', E, C].
    """
    names = CANDIDATES[self.direction]
    operations = {
      name: ops.Parameters(name, self.channels, self.edges, self.variant, name=name)() for name in names
    }
    columns = {name: weights[:, index] for index, name in enumerate(names)}
    total = wide.mix(x, operations, self.direction, self.variant, columns)
    return rearrange.depth_to_space(total) if self.direction == "up" else total
