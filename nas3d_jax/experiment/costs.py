"""What a network costs: parameters, floating-point operations, memory and time."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.inference.config import PAPER, InferenceChoices
from nas3d_jax.inference.ensemble import restore_ensemble
from nas3d_jax.models.flops import forward_flops
from nas3d_jax.models.networks import Network
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.models.search_space import CustomOperation
from nas3d_jax.runtime import devices
from nas3d_jax.runtime.compiling import compiling
from nas3d_jax.training.optimizers import adam
from nas3d_jax.training.setup import key_of
from nas3d_jax.training.steps import TrainState, make_train_step
from nas3d_jax.validation import PatchSize, axis_lengths

_STEPS, _SECONDS = 20, 60.0
"""Training steps that are timed, and after how many seconds fewer are enough, of which there are at least 3."""


@dataclasses.dataclass(frozen=True)
class Costs:
  """Costs of a network; `costs.json` holds one of each network.

  Attributes:
    parameters: number of parameters.
    flops: floating-point operations of the forward pass of one patch, see `forward_flops`.
    patch_size: length of a patch in voxels; one, or one an axis.
    peak_bytes: memory of a training step, as compiled: arguments, results and what lies between them; None where the
      compiler does not say.
    step_ms: median time of a training step, with its input on the device.
    case_s: median time of the probabilities of a case that is in memory; None without cases.
    device: the device's name.
  """

  parameters: int
  flops: float
  patch_size: PatchSize
  peak_bytes: int | None
  step_ms: float
  case_s: float | None
  device: str

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON."""
    return dataclasses.asdict(self)


def measure_costs(
  run: str | Path,
  images: Sequence[np.ndarray] = (),
  *,
  batch_size: int = 1,
  choices: InferenceChoices = PAPER,
  operations: Sequence[CustomOperation] = (),
) -> Costs:
  """Measures the network of a training on the device at hand; takes a compilation and some dozens of passes.

  Args:
    run: run directory of a training, or a checkpoint.
    images: [D, H, W, M] raw intensities of whole cases, predicted for `case_s`; the first once more before.
    batch_size: patches of a training step.
    choices: how the cases are predicted.
    operations: of the user's own, where the network has some.

  Raises:
    InputError: the checkpoint cannot be restored, or is a search's.
  """
  net, variables, metadata = restore(run, operations=operations)
  flops = forward_flops(net, metadata.patch_size)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
  peak_bytes, step_ms = _training_step(net, variables, (batch_size, *axis_lengths(metadata.patch_size)))
  ensemble, seconds = restore_ensemble([run], operations=operations), []
  for image in [*images[:1], *images]:
    began = time.monotonic()
    ensemble.predict(image, choices=choices)
    seconds.append(time.monotonic() - began)
  case_s = statistics.median(seconds[1:]) if images else None
  return Costs(parameters, flops, metadata.patch_size, peak_bytes, step_ms, case_s, devices.select().kind)


def _training_step(net: Network, variables: Any, shape: tuple[int, ...]) -> tuple[int | None, float]:
  """Memory in bytes and median time in ms of a training step on random patches [N, D, H, W]."""
  optimizer = adam(1e-4)
  image = jax.random.uniform(key_of(0), (*shape, net.config.in_channels), minval=10.0, maxval=110.0)
  target = jnp.zeros((*shape, net.config.out_channels), jnp.float32).at[:, ::2].set(1)
  # As a training computes it.
  packed = PackedNet(net, variables)
  state = TrainState.create(packed.pack(variables), optimizer, key_of(1))
  with compiling("the training step"):
    step = make_train_step(packed, optimizer).lower(state, (image, target)).compile()
  state, losses = step(state, (image, target))
  jax.block_until_ready(losses)
  times, began = [], time.monotonic()
  while len(times) < _STEPS and (len(times) < 3 or time.monotonic() - began < _SECONDS):
    start = time.monotonic()
    state, losses = step(state, (image, target))
    jax.block_until_ready((state, losses))
    times.append(1000 * (time.monotonic() - start))
  return _peak_bytes(step), statistics.median(times)


def _peak_bytes(step: Any) -> int | None:
  stats = step.memory_analysis()
  if stats is None:
    return None
  held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
  return held + stats.temp_size_in_bytes
