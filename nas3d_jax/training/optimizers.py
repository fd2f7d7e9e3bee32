"""Halving a learning rate when a loss no longer falls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

FACTOR = 0.5
PATIENCE = 10
THRESHOLD = 1e-4


class Plateau(NamedTuple):
  """PyTorch's rule: the 11th bad epoch in a row halves the rate; bad is one whose loss is not below best * (1 - 1e-4).

  Attributes:
    rate: the learning rate.
    best: lowest loss that counted as an improvement.
    bad: bad epochs since then, or since the rate was halved.
  """

  rate: float
  best: float = math.inf
  bad: int = 0

  def after(self, loss: float) -> Plateau:
    """The schedule after an epoch with that loss; a loss that is not a number is bad."""
    if loss < self.best * (1 - THRESHOLD):
      return Plateau(self.rate, loss, 0)
    if self.bad < PATIENCE:
      return Plateau(self.rate, self.best, self.bad + 1)
    return Plateau(self.rate * FACTOR, self.best, 0)


def adam(rate: float) -> optax.GradientTransformationExtraArgs:
  """Adam over all parameters as one vector, with its learning rate in its state, so that `with_rate` can set it.

  As a vector because a network has hundreds of arrays: a kernel for each would take longer to compile than the network.
  The moments in the state, too, are vectors: all leaves in the order of the tree, one behind the other.
  """
  return optax.flatten(optax.inject_hyperparams(_adam_of, hyperparam_dtype=jnp.float32)(learning_rate=rate))


def _adam_of(learning_rate: Any) -> optax.GradientTransformation:
  """`optax.adam` of a vector, its state and its numbers, in float32 also where double precision is turned on.

  That of Optax computes the powers of its constants in the precision that is turned on, and not at all where types are
  not promoted.
  """
  # These stay Python numbers where they can: in float32, 1 - b2 alone would be off by 1e-5.
  b1, b2, epsilon = 0.9, 0.999, 1e-8

  def corrected(moment, decay, count):
    return moment / (1 - jnp.power(jnp.float32(decay), count.astype(jnp.float32)))

  def update(gradient, state, params=None):
    count = optax.safe_increment(state.count)
    mu = (1 - b1) * gradient + b1 * state.mu
    nu = (1 - b2) * jnp.square(gradient) + b2 * state.nu
    step = corrected(mu, b1, count) / (jnp.sqrt(corrected(nu, b2, count)) + epsilon)
    return step, optax.ScaleByAdamState(count, mu, nu)

  by_moments = optax.GradientTransformation(optax.scale_by_adam().init, update)
  return optax.chain(by_moments, optax.scale_by_learning_rate(learning_rate))


def with_rate(optimizer_state: Any, rate: float) -> Any:
  """The state of an `adam` with another learning rate."""
  old = optimizer_state.hyperparams["learning_rate"]
  hyperparams = {**optimizer_state.hyperparams, "learning_rate": jnp.full_like(old, rate)}
  return optimizer_state._replace(hyperparams=hyperparams)


def with_moments(optimizer_state: Any, change: Callable[[Any], Any]) -> Any:
  """The state of an `adam` with both moments, vectors, changed."""
  first, *rest = optimizer_state.inner_state
  first = first._replace(mu=change(first.mu), nu=change(first.nu))
  return optimizer_state._replace(inner_state=(first, *rest))
