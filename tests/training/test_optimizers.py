"""Learning rates: PyTorch's plateau rule worked out by hand, and an Adam whose rate can be set."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas3d_jax.training.optimizers import Plateau, adam, with_moments, with_rate

NAN = math.nan


@pytest.mark.parametrize(
  ("losses", "expected"),
  [
    ([], Plateau(1.0, math.inf, 0)),
    ([0.5], Plateau(1.0, 0.5, 0)),
    # Ten bad epochs are borne, the 11th halves the rate and the count starts over.
    ([0.5] * 11, Plateau(1.0, 0.5, 10)),
    ([0.5] * 12, Plateau(0.5, 0.5, 0)),
    ([0.5] * 22, Plateau(0.5, 0.5, 10)),
    ([0.5] * 23, Plateau(0.25, 0.5, 0)),
    # Good is below 0.5 * (1 - 1e-4) = 0.49995; what is bad does not move the best, however often it creeps down.
    ([0.5, 0.49996], Plateau(1.0, 0.5, 1)),
    ([0.5, 0.49994], Plateau(1.0, 0.49994, 0)),
    ([0.5, 0.49999, 0.49998, 0.49997], Plateau(1.0, 0.5, 3)),
    # A good epoch forgives the bad ones before it.
    ([0.5] * 11 + [0.4] + [0.5] * 10, Plateau(1.0, 0.4, 10)),
    # After halving, an epoch must still be better than the best of all.
    ([0.5] + [0.6] * 11 + [0.55], Plateau(0.5, 0.5, 1)),
    ([NAN], Plateau(1.0, math.inf, 1)),
    ([0.5] + [NAN] * 11, Plateau(0.5, 0.5, 0)),
  ],
)
def test_plateau(losses, expected):
  schedule = Plateau(1.0)
  for loss in losses:
    schedule = schedule.after(loss)
  assert schedule == expected


PARAMS = {"a": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}, "b": np.float32([1, -1]), "c": np.float32(2)}


def gradients(step):
  return jax.tree.map(lambda leaf: np.cos(leaf + step).astype(np.float32), PARAMS)


def run(optimizer, steps):
  params, state = PARAMS, optimizer.init(PARAMS)
  for step in range(steps):
    updates, state = optimizer.update(gradients(step), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def test_adam_is_that_of_optax_leaf_by_leaf():
  got, _ = run(adam(0.1), 3)
  expected, _ = run(optax.adam(0.1), 3)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


def test_moments_are_all_leaves_one_behind_the_other():
  _, state = run(adam(0.1), 1)
  flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradients(0))])
  moments = state.inner_state[0]
  np.testing.assert_allclose(moments.mu, 0.1 * flat, rtol=1e-6)
  np.testing.assert_allclose(moments.nu, 0.001 * flat**2, rtol=1e-5)


def test_the_rate_that_is_set_is_that_of_the_next_update():
  # Of a constant gradient the moments, without their bias, are the gradient and its square: an update is the rate.
  optimizer, params = adam(0.1), {"a": np.float32([3.0])}
  state, moved = optimizer.init(params), []
  for rate in (0.1, 0.1, 0.05, 0.2):
    state = with_rate(state, rate)
    updates, state = optimizer.update({"a": np.float32([2.0])}, state, params)
    moved.append(float(updates["a"][0]))
  np.testing.assert_allclose(moved, [-0.1, -0.1, -0.05, -0.2], rtol=1e-4)


def test_another_rate_is_no_other_program():
  optimizer, traces = adam(0.1), []

  @jax.jit
  def update(state):
    traces.append(None)
    return optimizer.update(gradients(0), state, PARAMS)[1]

  state = update(optimizer.init(jax.tree.map(jnp.asarray, PARAMS)))
  update(with_rate(update(state), 0.05))
  assert len(traces) == 1


def test_both_moments_are_changed_and_nothing_else():
  _, state = run(adam(0.1), 2)
  before = jax.tree.map(np.array, state)
  got = with_moments(state, lambda vector: 2 * vector[::-1])
  assert jax.tree.structure(got) == jax.tree.structure(state)
  first, old = got.inner_state[0], before.inner_state[0]
  assert not np.array_equal(old.mu, old.nu)
  np.testing.assert_array_equal(first.mu, 2 * old.mu[::-1])
  np.testing.assert_array_equal(first.nu, 2 * old.nu[::-1])
  again = with_moments(got, lambda vector: vector[::-1] / 2)
  jax.tree.map(np.testing.assert_array_equal, again, before)
  jax.tree.map(np.testing.assert_array_equal, state, before)


def test_changed_moments_are_those_of_the_next_update():
  """Forgotten after one step: the second has moments of 0.1 g and 0.001 g^2, over 1 - 0.9^2 and 1 - 0.999^2."""
  optimizer, params, gradient = adam(0.1), {"a": np.float32([3.0])}, {"a": np.float32([2.0])}
  _, state = optimizer.update(gradient, optimizer.init(params), params)
  updates, _ = optimizer.update(gradient, with_moments(state, jnp.zeros_like), params)
  np.testing.assert_allclose(updates["a"], [-0.1 * (0.1 / 0.19) / math.sqrt(0.001 / 0.001999)], rtol=1e-4)
