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
  # Adam's other constants stay Python numbers: as float32 arrays of the state, 1 - b2 alone would be off by 1e-5.
  adam_of_rate = optax.inject_hyperparams(optax.adam, static_args=("b1", "b2", "eps", "eps_root"))
  return optax.flatten(adam_of_rate(learning_rate=rate))


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
