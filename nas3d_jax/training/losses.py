"""The losses of search and training: the paper's (section 3.3), and those with cross-entropy that came after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nas3d_jax.models.config import Output
from nas3d_jax.models.output_head import probabilities_of
from nas3d_jax.training.recipe import DiceOver, LossName

EPSILON = 1e-6
# Exponent of the focal loss (Lin et al. 2017).
GAMMA = 2.0


def dice_loss(probabilities: jax.Array, target: jax.Array) -> jax.Array:
  """1 - mean over regions and batch of the soft Dice coefficient.

  A region's coefficient is (eps + 2 sum Y P) / (eps + sum Y + sum P) over its voxels, eps = 1e-6.

  Args:
    probabilities: [N, D, H, W, R] between 0 and 1.
    target: the same shape, 0 or 1, any dtype.

  Returns:
    Scalar, float32.
  """
  return _dice_loss(probabilities, target, (1, 2, 3))


def _dice_loss(probabilities: jax.Array, target: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  p, y = probabilities.astype(jnp.float32), target.astype(jnp.float32)
  overlap = jnp.sum(y * p, axes)
  total = jnp.sum(y, axes) + jnp.sum(p, axes)
  return 1 - jnp.mean((EPSILON + 2 * overlap) / (EPSILON + total))


def make_logit_loss(
  name: LossName, *, over: DiceOver = "sample", output: Output = "sigmoid"
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """A loss of what a network gives before its last activation.

  "dice" is `dice_loss`. "dice_ce" adds the mean cross-entropy over voxels: of a sigmoid for each region, over regions
  too; of a softmax, that of the region that holds or else of the background. "dice_focal" adds it with each term times
  (1 - p)^2, where p is the probability of what is true.

  Args:
    name: which.
    over: the voxels of a coefficient of Dice: those of each sample, or of the whole batch, in which a region that some
      samples lack weighs less.
    output: the activation.

  Returns:
    A function (logits [N, D, H, W, R], target of the same shape, 0 or 1) -> float32 scalar.
  """
  axes = (1, 2, 3) if over == "sample" else (0, 1, 2, 3)

  def loss(logits: jax.Array, target: jax.Array) -> jax.Array:
    logits, target = logits.astype(jnp.float32), target.astype(jnp.float32)
    dice = _dice_loss(probabilities_of(logits, output), target, axes)
    if name == "dice":
      return dice
    entropy = _cross_entropy(logits, target, output)
    if name == "dice_focal":
      entropy = (1 - jnp.exp(-entropy)) ** GAMMA * entropy
    return dice + jnp.mean(entropy)

  return loss


def deeply_supervised(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[Any, jax.Array], jax.Array]:
  """A loss of what several levels answer, each with half the lengths of the one before; else that of the one answer.

  The weight of a level is half that of the one before, and 1 in all; of its target, the middle voxels are taken.
  """

  def supervised(answers: Any, target: jax.Array) -> jax.Array:
    if not isinstance(answers, tuple):
      return loss(answers, target)
    total, weights = 0.0, [0.5**level for level in range(len(answers))]
    for level, (answer, weight) in enumerate(zip(answers, weights, strict=True)):
      step, first = 2**level, 2**level // 2
      part = target[:, first::step, first::step, first::step]
      total += weight / sum(weights) * loss(answer, part)
    return total

  return supervised


def _cross_entropy(logits: jax.Array, target: jax.Array, output: Output) -> jax.Array:
  """-log of the probability of what is true: [N, D, H, W, R] of sigmoids, [N, D, H, W] of a softmax."""
  if output == "sigmoid":
    # log(1 + e^z) - y z, without overflow.
    return jax.nn.softplus(logits) - target * logits
  # The background's logit is 0.
  every = jnp.concatenate([jnp.zeros_like(logits[..., :1]), logits], axis=-1)
  return jax.nn.logsumexp(every, axis=-1) - jnp.sum(target * logits, axis=-1)
