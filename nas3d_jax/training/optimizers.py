"""Optimisers whose learning rate lies in their state, rules and schedules for it, and the average of the parameters.

All work on the parameters as one vector: a network has hundreds of arrays, and a kernel for each would take longer to
compile than the network. Their states hold vectors, too: all leaves in the order of the tree, one behind the other.
They compute in float32 also where double precision is turned on, and where types are not promoted, which not all of
Optax does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nas3d_jax.training.recipe import OptimizerName, ScheduleName

FACTOR = 0.5
PATIENCE = 10
THRESHOLD = 1e-4
# Of SGD, and the power of the polynomial schedule: nnU-Net's.
MOMENTUM, POWER = 0.99, 0.9


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


class AverageState(NamedTuple):
  """State of `average_of`.

  Attributes:
    count: int32, updates that were averaged.
    average: exponential moving average of the parameters, float32 [size].
  """

  count: jax.Array
  average: jax.Array


def adam(rate: float) -> optax.GradientTransformationExtraArgs:
  """Adam over all parameters as one vector, with its learning rate in its state, so that `with_rate` can set it."""
  return make_optimizer("adam", rate)


def make_optimizer(
  name: OptimizerName,
  rate: float | Callable[[jax.Array], jax.Array],
  *,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
  ema: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
  """An optimiser over all parameters as one vector.

  Args:
    name: "adam", "adamw", or "sgd" with Nesterov's momentum of 0.99.
    rate: the learning rate, which `with_rate` can set; or a function of the number of updates done, see `scheduled`.
    weight_decay: times the parameters, added to what the rate multiplies, as AdamW does; 0 for none.
    clip_norm: a gradient of a larger norm is scaled down to it; 0 for none.
    ema: the decay of the average of the parameters that is kept beside them, see `average_of`; 0 for none.
  """

  def parts_of(learning_rate: Any) -> optax.GradientTransformation:
    by_moments = optax.trace(MOMENTUM, nesterov=True) if name == "sgd" else _scale_by_adam()
    parts = [by_moments]
    if clip_norm:
      parts.insert(0, _clip(clip_norm))
    if weight_decay:
      parts.append(optax.add_decayed_weights(weight_decay))
    parts.append(optax.scale_by_learning_rate(learning_rate))
    if ema:
      parts.append(_keep_average(ema))
    return optax.chain(*parts)

  return optax.flatten(optax.inject_hyperparams(parts_of, hyperparam_dtype=jnp.float32)(learning_rate=rate))


def scheduled(name: ScheduleName, peak: float, *, steps: int, warmup: float = 0.0) -> Callable[[jax.Array], jax.Array]:
  """A learning rate that rises linearly to its peak and falls to 0.

  Args:
    name: "cosine", peak (1 + cos(pi t)) / 2; or "poly", peak (1 - t)^0.9; t from 0 to 1 after the warm-up.
    peak: the greatest rate.
    steps: updates in all.
    warmup: the part of them in which it rises, below 1.

  Returns:
    A function of the number of updates done, int32 [], to float32 []; beyond `steps` it is 0.
  """
  rise = round(steps * warmup)

  def rate(count: jax.Array) -> jax.Array:
    done = jnp.asarray(count, jnp.float32)
    t = jnp.clip((done - rise) / jnp.float32(max(steps - rise, 1)), 0, 1)
    fall = (1 + jnp.cos(jnp.float32(math.pi) * t)) / 2 if name == "cosine" else (1 - t) ** jnp.float32(POWER)
    rising = (done + 1) / jnp.float32(max(rise, 1))
    return jnp.float32(peak) * jnp.where(done < rise, rising, fall)

  return rate


def _scale_by_adam() -> optax.GradientTransformation:
  """`optax.scale_by_adam` of a vector, its state and its numbers, in float32 whatever the precision turned on."""
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

  return optax.GradientTransformation(optax.scale_by_adam().init, update)


def _clip(norm: float) -> optax.GradientTransformation:
  def update(gradient, state, params=None):
    length = jnp.sqrt(jnp.sum(jnp.square(gradient)))
    return gradient * jnp.minimum(1, norm / jnp.maximum(length, jnp.finfo(jnp.float32).tiny)), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _keep_average(decay: float) -> optax.GradientTransformation:
  """Leaves the updates as they are; its state is the average of the parameters after them.

  Early on, the decay is (1 + t) / (10 + t) after t updates where that is less, so that the start is soon forgotten.
  """

  def init(params):
    return AverageState(jnp.int32(0), jnp.array(params))

  def update(updates, state, params):
    done = state.count.astype(jnp.float32)
    keep = jnp.minimum(jnp.float32(decay), (1 + done) / (10 + done))
    average = keep * state.average + (1 - keep) * (params + updates)
    return updates, AverageState(optax.safe_increment(state.count), average)

  return optax.GradientTransformation(init, update)


def average_of(optimizer_state: Any) -> jax.Array | None:
  """The average of the parameters, float32 [size]; None where none is kept."""
  return next((part.average for part in optimizer_state.inner_state if isinstance(part, AverageState)), None)


def with_average(optimizer_state: Any, average: Any) -> Any:
  """The state with another average."""
  parts = (p._replace(average=average) if isinstance(p, AverageState) else p for p in optimizer_state.inner_state)
  return optimizer_state._replace(inner_state=tuple(parts))


def rate_of(optimizer_state: Any) -> float:
  """The learning rate of the last update; before the first that of the first."""
  return float(optimizer_state.hyperparams["learning_rate"])


def with_rate(optimizer_state: Any, rate: float) -> Any:
  """The state of an optimiser with another learning rate."""
  old = optimizer_state.hyperparams["learning_rate"]
  hyperparams = {**optimizer_state.hyperparams, "learning_rate": jnp.full_like(old, rate)}
  return optimizer_state._replace(hyperparams=hyperparams)


def with_moments(optimizer_state: Any, change: Callable[[Any], Any]) -> Any:
  """The state of an optimiser with all its vectors, moments and average, changed."""

  def changed(part: Any) -> Any:
    names = [name for name in ("mu", "nu", "trace", "average") if name in getattr(part, "_fields", ())]
    return part._replace(**{name: change(getattr(part, name)) for name in names}) if names else part

  return optimizer_state._replace(inner_state=tuple(map(changed, optimizer_state.inner_state)))
