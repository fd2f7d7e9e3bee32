"""One step of the search, of the training and of the validation, as pure jitted functions of explicit state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from nas3d_jax.data.patches.batch import Batch
from nas3d_jax.errors import InputError
from nas3d_jax.models.networks import merge, partition
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.runtime.data_parallel import ONE_DEVICE, SPLIT, WHOLE, Replicas
from nas3d_jax.training.losses import deeply_supervised, dice_loss
from nas3d_jax.training.modality_dropout import drop_modalities

Metrics = dict[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Net = nn.Module | PackedNet

WeightsOf = Callable[[Mapping[str, jax.Array], jax.Array, jax.Array], Mapping[str, Any]]
"""(hybrid parameters, random key, number of the step) -> the weights of the operations, as a supernet takes them."""

PARTITIONS = ("hybrid", "kernel")
"""In the order in which a search step updates them."""


class SearchState(flax.struct.PyTreeNode):
  """Everything that a search step depends on.

  Attributes:
    hybrid: hybrid partition of the supernet's variables.
    kernel: kernel partition.
    hybrid_optimizer: optimiser state of the hybrid partition.
    kernel_optimizer: optimiser state of the kernel partition.
    key: random key of the run; the keys of a step follow from it and `step`.
    step: int32, steps done.
  """

  hybrid: Any
  kernel: Any
  hybrid_optimizer: optax.OptState
  kernel_optimizer: optax.OptState
  key: jax.Array
  step: jax.Array

  @classmethod
  def create(
    cls,
    variables: Mapping[str, Any],
    hybrid_optimizer: optax.GradientTransformation,
    kernel_optimizer: optax.GradientTransformation,
    key: jax.Array,
  ) -> SearchState:
    """The state before the first step, from `Supernet.init`'s variables.

    It holds the arrays given, which are gone after the first step.
    """
    hybrid, kernel = partition(_strongly_typed(variables))
    return cls(hybrid, kernel, hybrid_optimizer.init(hybrid), kernel_optimizer.init(kernel), key, jnp.int32(0))

  @property
  def variables(self) -> dict[str, Any]:
    """Both partitions, as `Supernet.apply` takes them."""
    return merge(self.hybrid, self.kernel)


class TrainState(flax.struct.PyTreeNode):
  """Everything that a training step depends on.

  Attributes:
    variables: of the network.
    optimizer: optimiser state.
    key: random key of the run; the key of a step follows from it and `step`.
    step: int32, steps done.
  """

  variables: Any
  optimizer: optax.OptState
  key: jax.Array
  step: jax.Array

  @classmethod
  def create(
    cls, variables: Mapping[str, Any], optimizer: optax.GradientTransformation, key: jax.Array
  ) -> TrainState:
    """The state before the first step; it holds the arrays given, which are gone after the first step."""
    variables = _strongly_typed(variables)
    return cls(variables, optimizer.init(variables), key, jnp.int32(0))


def make_search_step(
  net: Net,
  hybrid_optimizer: optax.GradientTransformation,
  kernel_optimizer: optax.GradientTransformation,
  *,
  loss: Loss = dice_loss,
  logits: bool = False,
  weights: WeightsOf | None = None,
  penalty: Callable[[Mapping[str, jax.Array]], jax.Array] | None = None,
  warmup: int = 0,
  modality_dropout: float = 0.0,
  rolled: bool | None = None,
  replicas: Replicas = ONE_DEVICE,
) -> Callable[[SearchState, Batch, Batch], tuple[SearchState, Metrics]]:
  """A step of Table 2: the hybrid parameters on one batch, then the kernel parameters on another.

  An update whose loss or gradient is not finite is left out: parameters and optimiser state stay as they were.

  Args:
    net: a `Supernet`, the `PackedNet` of one, or anything whose `apply` takes `train` and whose parameters hold
      "hybrid".
    hybrid_optimizer: of the hybrid partition.
    kernel_optimizer: of the kernel partition.
    loss: (probabilities, target) -> scalar.
    logits: whether the loss takes logits in their place, see `losses.make_logit_loss`.
    weights: what the operations are weighted by in the place of the softmax of the hybrid parameters. Each update has a
      key of its own, which is the same on all devices.
    penalty: hybrid parameters -> a scalar that their update lowers together with the loss, which does not hold it.
    warmup: steps at the start that leave the hybrid parameters and their optimiser as they are.
    modality_dropout: probability that a sample lacks a modality, see `modality_dropout.drop_modalities`.
    rolled: whether the two updates are two turns of one loop. That halves the program, and the time to compile it; but
      both turns compute both gradients, of which each uses one. Unrolled, each update differentiates with respect to
      its own partition alone. None means rolled on CPU, where compiling takes longest, and batches of one shape.
    replicas: devices that share a batch, each of which takes its rows of it; state and metrics are the same on all.

  Returns:
    A jitted function (state, hybrid batch, kernel batch) -> (state, metrics). A batch is an image [N, D, H, W, M] and a
    target [N, D, H, W, R], float32. Metrics are the scalars "hybrid_loss" and "kernel_loss", float32, and
    "hybrid_finite" and "kernel_finite", bool: whether the update was done. The state given is donated: its buffers are
    gone after the call.
  """
  given = _wanted(logits)

  def value(hybrid, kernel, batch, key, draw):
    image, target = batch
    image = drop_modalities(key, image, modality_dropout)
    own = {} if weights is None else {"weights": weights(hybrid["params"]["hybrid"], *draw)}
    return loss(net.apply(merge(hybrid, kernel), image, train=True, rngs={"dropout": key}, **given, **own), target)

  def update_hybrid(state: SearchState, gradients: Any, good: jax.Array) -> SearchState:
    if penalty is not None:
      own = jax.grad(penalty)(state.hybrid["params"]["hybrid"])
      gradients = jax.tree.map(jnp.add, gradients, {"params": {"hybrid": own}})
    good = good & (state.step >= warmup) if warmup else good
    hybrid, optimizer = _update(hybrid_optimizer, gradients, state.hybrid_optimizer, state.hybrid, good)
    return state.replace(hybrid=hybrid, hybrid_optimizer=optimizer)

  def update_kernel(state: SearchState, gradients: Any, good: jax.Array) -> SearchState:
    kernel, optimizer = _update(kernel_optimizer, gradients, state.kernel_optimizer, state.kernel, good)
    return state.replace(kernel=kernel, kernel_optimizer=optimizer)

  def turn(state: SearchState, inputs: tuple[jax.Array, Batch, jax.Array, Any]) -> tuple[SearchState, Any]:
    first, batch, key, draw = inputs
    both = jax.value_and_grad(value, argnums=(0, 1))
    current, (of_hybrid, of_kernel) = replicas.mean(both(state.hybrid, state.kernel, batch, key, draw))
    # Each turn is judged by the gradient that it uses.
    good = jnp.where(first, _finite((current, of_hybrid)), _finite((current, of_kernel)))
    state = jax.lax.cond(
      first, lambda: update_hybrid(state, of_hybrid, good), lambda: update_kernel(state, of_kernel, good)
    )
    return state, (current, good)

  def step(state: SearchState, hybrid_batch: Batch, kernel_batch: Batch) -> tuple[SearchState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    keys = jax.random.split(replicas.own_key(key))
    draws = None if weights is None else (jax.random.split(jax.random.fold_in(key, _DRAW)), jnp.stack([state.step] * 2))
    alike = jax.tree.map(jnp.shape, hybrid_batch) == jax.tree.map(jnp.shape, kernel_batch)
    if rolled and not alike:
      raise InputError("rolled=True needs hybrid and kernel batches of one shape; give rolled=None or False")
    if rolled if rolled is not None else alike and jax.default_backend() == "cpu":
      batches = jax.tree.map(lambda *pair: jnp.stack(pair), hybrid_batch, kernel_batch)
      state, (losses, finite) = jax.lax.scan(turn, state, (jnp.array([True, False]), batches, keys, draws))
    else:
      losses, finite = [], []
      for argnums, update, batch in ((0, update_hybrid, hybrid_batch), (1, update_kernel, kernel_batch)):
        gradient_of = jax.value_and_grad(value, argnums=argnums)
        draw = jax.tree.map(lambda array, turn=argnums: array[turn], draws)
        both = replicas.mean(gradient_of(state.hybrid, state.kernel, batch, keys[argnums], draw))
        losses.append(both[0])
        finite.append(_finite(both))
        state = update(state, both[1], finite[-1])
    metrics = {f"{name}_loss": loss for name, loss in zip(PARTITIONS, losses, strict=True)}
    metrics |= {f"{name}_finite": good for name, good in zip(PARTITIONS, finite, strict=True)}
    return state.replace(step=state.step + 1), metrics

  return replicas.jit(step, (WHOLE, SPLIT, SPLIT), WHOLE, donate_argnums=0)


def make_train_step(
  net: Net,
  optimizer: optax.GradientTransformation,
  *,
  loss: Loss = dice_loss,
  logits: bool = False,
  modality_dropout: float = 0.0,
  replicas: Replicas = ONE_DEVICE,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """A step of section 3.5 on one batch; an update that is not finite is left out, see `make_search_step`.

  Args:
    net: a `DerivedNet`, the `PackedNet` of one, or anything whose `apply` takes `train`.
    optimizer: of all its parameters.
    loss: (probabilities, target) -> scalar; of a network whose levels answer for themselves, it is asked for each.
    logits: whether the loss takes logits in their place, see `losses.make_logit_loss`.
    modality_dropout: see `make_search_step`.
    replicas: devices that share a batch, see `make_search_step`.

  Returns:
    A jitted function (state, batch) -> (state, metrics), the scalars "loss" and "finite"; batch, metrics and donation
    as in `make_search_step`.
  """

  given, supervised = _wanted(logits), deeply_supervised(loss)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    image, target = batch
    key = replicas.own_key(jax.random.fold_in(state.key, state.step))
    image = drop_modalities(key, image, modality_dropout)

    def value(variables):
      return supervised(net.apply(variables, image, train=True, rngs={"dropout": key}, **given), target)

    current, gradients = replicas.mean(jax.value_and_grad(value)(state.variables))
    good = _finite((current, gradients))
    variables, optimizer_state = _update(optimizer, gradients, state.optimizer, state.variables, good)
    return TrainState(variables, optimizer_state, state.key, state.step + 1), {"loss": current, "finite": good}

  return replicas.jit(step, (WHOLE, SPLIT), WHOLE, donate_argnums=0)


def make_validation_step(
  net: Net,
  *,
  loss: Loss = dice_loss,
  logits: bool = False,
  weights: Callable[[Mapping[str, jax.Array]], Mapping[str, Any]] | None = None,
  replicas: Replicas = ONE_DEVICE,
) -> Callable[[Any, Batch, jax.Array], jax.Array]:
  """A jitted function (variables, batch, weight [N]) -> sum of the samples' weighted losses, with dropout off.

  Args:
    net: a network, see `make_search_step` and `make_train_step`.
    loss: see there.
    logits: see there.
    weights: of a supernet, hybrid parameters -> what the operations are weighted by in the place of their softmax.
    replicas: see there.
  """
  given = _wanted(logits)

  def step(variables: Any, batch: Batch, weight: jax.Array) -> jax.Array:
    image, target = batch
    own = {} if weights is None else {"weights": weights(variables["params"]["hybrid"])}
    answer = net.apply(variables, image, **given, **own)
    each = jax.vmap(lambda *sample: loss(*(array[None] for array in sample)))(answer, target)
    # A sample that only fills up the batch must not count, whatever its loss is.
    return replicas.sum(jnp.where(weight > 0, weight * each, 0).sum())

  return replicas.jit(step, (WHOLE, SPLIT, SPLIT), WHOLE)


# Apart from what `Replicas.own_key` folds in, the numbers of devices.
_DRAW = 2**31 - 1


def _wanted(logits: bool) -> dict[str, bool]:
  """What to ask a network for; one that knows of no logits is not asked about them."""
  return {"logits": True} if logits else {}


def _strongly_typed(variables):
  """The variables as a step returns them: JAX would compile it twice if the first ones were of a weak type."""
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), variables)


def _finite(tree: Any) -> jax.Array:
  """Whether every number in the tree is finite."""
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _update(optimizer, gradients, state, params, good):
  """Parameters and optimiser state after an update, or as they are where it is not good."""
  updates, new_state = optimizer.update(gradients, state, params)
  new = optax.apply_updates(params, updates), new_state
  return jax.tree.map(lambda after, before: jnp.where(good, after, before), new, (params, state))
