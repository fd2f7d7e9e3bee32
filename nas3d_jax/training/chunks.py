"""Several steps as one program, where the cases are on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nas3d_jax.training.steps import Metrics

# A call on an accelerator; one step takes milliseconds there, and seconds on a CPU.
_STEPS = 32


def steps_per_call() -> int:
  """Steps of one call at most."""
  return 1 if jax.default_backend() == "cpu" else _STEPS


def make_chunk(
  step: Callable[..., tuple[Any, Metrics]],
  draw: Callable[[Any, Any, jax.Array], Sequence[Any]],
  metrics: Sequence[str],
) -> Callable[[Any, Any, Any, int], tuple[Any, Metrics]]:
  """Cutting, normalising, augmenting and updating as one program.

  Args:
    step: (state, *batches) -> (state, metrics); the state has `step`.
    draw: (data, indices of one step, number of the step) -> the batches of that step.
    metrics: names of the metrics.

  Returns:
    A jitted function (state, data, indices, count) -> (state, metrics): `indices` is a tree of arrays [limit, ...], of
    which the first `count` rows are used, one a step; each metric is float32 [limit], of which the first `count` hold.
    The state given is donated. Changing `count` does not recompile.
  """

  def chunk(state, data, indices, count):
    limit = jax.tree.leaves(indices)[0].shape[0]

    def body(index, carry):
      state, taken = carry
      batches = draw(data, jax.tree.map(lambda rows: rows[index], indices), state.step)
      state, current = step(state, *batches)
      return state, {name: taken[name].at[index].set(current[name].astype(jnp.float32)) for name in taken}

    taken = {name: jnp.zeros(limit, jnp.float32) for name in metrics}
    return jax.lax.fori_loop(jnp.int32(0), jnp.asarray(count, jnp.int32), body, (state, taken))

  return jax.jit(chunk, donate_argnums=0)
