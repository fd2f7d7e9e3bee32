"""Several steps in one call: with the data on the device, the host has nothing to do between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# A call on an accelerator; one step takes milliseconds there, and seconds on a CPU.
_STEPS = 32


def steps_per_call() -> int:
  """Steps of one call at most."""
  return 1 if jax.default_backend() == "cpu" else _STEPS


def make_chunk(
  step: Callable[..., tuple[Any, dict[str, jax.Array]]],
  draw: Callable[[Any, Any, jax.Array], tuple[Any, ...]],
  losses: tuple[str, ...],
) -> Callable[[Any, Any, Any, int], tuple[Any, dict[str, jax.Array]]]:
  """Cutting, normalising, augmenting and updating as one program.

  Args:
    step: (state, *batches) -> (state, losses); the state has `step`.
    draw: (data, order of one step, number of the step) -> the batches of that step.
    losses: names of the losses.

  Returns:
    A jitted function (state, data, order, count) -> (state, losses): `order` is a tree of arrays [limit, ...], of which
    the first `count` rows are used, one a step; losses are [limit] float32, of which the first `count` count. The state
    given is donated. Another count is no other program.
  """

  def chunk(state, data, order, count):
    limit = jax.tree.leaves(order)[0].shape[0]

    def body(index, carry):
      state, sums = carry
      batches = draw(data, jax.tree.map(lambda rows: rows[index], order), state.step)
      state, current = step(state, *batches)
      return state, {name: sums[name].at[index].set(current[name]) for name in sums}

    return jax.lax.fori_loop(0, count, body, (state, {name: jnp.zeros(limit) for name in losses}))

  return jax.jit(chunk, donate_argnums=0)
