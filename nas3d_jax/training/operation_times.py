"""What each candidate operation takes on the device at hand, as the cost of a search (`cost="time"`).

Times are measured once. They stand in the settings of the run, in `config.json`, from where a search that goes on takes
them: other times would be another objective.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import CONFIG
from nas3d_jax.models.cells import HybridModules
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.flops import coarse_level
from nas3d_jax.models.hybrid_parameters import hybrid_shapes
from nas3d_jax.models.precision import activation_dtype
from nas3d_jax.models.search_space import Direction
from nas3d_jax.runtime.distributed import is_silent
from nas3d_jax.runtime.progress_bar import ProgressBar
from nas3d_jax.training.config import OPERATION_TIMES
from nas3d_jax.training.run_directory import has_checkpoint, settings_of
from nas3d_jax.training.setup import RunSetup
from nas3d_jax.validation import PatchSize, axis_lengths

_REPEATS, _SECONDS = 3, 0.02
"""Measurements of each operation, of which the median counts, and what one takes at least."""


def operation_times(setup: RunSetup, folder: Path) -> dict[str, list[float]]:
  """The times that a search counts with: those that its run holds, measured where it has not begun.

  Args:
    setup: network, patch size and precision of the search.
    folder: its run directory, which need not be there yet.

  Returns:
    Seconds of each candidate in all cells of a kind, by name of the hybrid parameters, see `measured_times`.

  Raises:
    InputError: the run has begun and does not hold the times of this search space.
  """
  config, shapes = setup.config, hybrid_shapes(setup.network)
  if not has_checkpoint(folder) or config.overwrite:
    return measured_times(setup.network, config.patch_size, activation_dtype(config.precision))
  known = settings_of(folder).get(OPERATION_TIMES)
  if not _fits(known, shapes):
    raise InputError(
      f"{folder / CONFIG} does not hold the {OPERATION_TIMES} of this search; put back the file as it was, or give "
      "--overwrite to start anew"
    )
  return known


def _fits(times: Any, shapes: Mapping[str, tuple[int, int]]) -> bool:
  """Whether what was read is a positive number for each candidate."""
  if not isinstance(times, dict) or times.keys() != shapes.keys():
    return False
  return all(
    isinstance(row, list) and len(row) == shapes[name][1] and all(isinstance(t, float) and t > 0 for t in row)
    for name, row in times.items()
  )


def measured_times(config: NetworkConfig, patch_size: PatchSize, dtype: jnp.dtype) -> dict[str, list[float]]:
  """Measures a forward pass of each candidate on a patch, the sum over the cells of a kind; takes a minute or two.

  Each operation is compiled alone. What the compiler would gain from its neighbours in a derived network does not
  count; neither does what starting a program takes.

  Args:
    config: of the supernet.
    patch_size: length of the patch in voxels; one, or one an axis.
    dtype: of the arrays of voxels.

  Returns:
    Seconds by name of the hybrid parameters, one for each candidate; those of the first process in all of them.
  """
  times = {name: [0.0] * candidates for name, (_, candidates) in hybrid_shapes(config).items()}
  places = [
    (name, f"{kind}_{level}", column)
    for name, row in times.items()
    for kind in [name.split("_")[0]]
    for level in range(config.depth + (kind == "up"))
    for column in range(len(row))
  ]
  with ProgressBar("measuring operations", len(places), silent=is_silent()) as bar:
    for name, cell, column in bar.track(places):
      kind, coarse = coarse_level(cell, config)
      direction = name.split("_")[1]
      reads_fine = (kind, direction) in (("down", "down"), ("up", "normal"))
      lengths = [length >> (coarse - reads_fine) for length in axis_lengths(patch_size)]
      operation = config.space.candidates[direction][column]
      net = _Operation(operation, config.cell_channels(cell), direction, config)
      times[name][column] += _seconds(net, (1, *lengths, net.channels), dtype)
  if jax.process_count() == 1:
    return times
  flat = multihost_utils.broadcast_one_to_all(np.concatenate(list(times.values())))
  rows = iter(np.asarray(flat, np.float64).tolist())
  return {name: [next(rows) for _ in row] for name, row in times.items()}


class _Operation(nn.Module):
  """One candidate on one edge, a hybrid module without a choice: [N, D, H, W, C] -> [N, D', H', W', C]."""

  operation: str
  channels: int
  direction: Direction
  config: NetworkConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    space = dataclasses.replace(self.config.space, **{self.direction: (self.operation,)})
    module = HybridModules(self.direction, self.channels, 1, self.config.variant, space)
    return module(x, jnp.ones((1, 1), jnp.float32))[..., 0, :]


def _seconds(net: _Operation, shape: tuple[int, ...], dtype: jnp.dtype) -> float:
  """Of one pass, on the way of a loop inside one program, whose start would otherwise be most of a short one."""
  x = jax.random.normal(jax.random.key(0), shape, dtype)
  variables = jax.jit(net.init)(jax.random.key(1), x)

  @jax.jit
  def passes(variables: Any, x: jax.Array, count: jax.Array) -> jax.Array:
    # Its input is new each time, so that nothing can be left out; the addition is read with it.
    first = jnp.zeros_like(net.apply(variables, x))
    return jax.lax.fori_loop(0, count, lambda step, _: net.apply(variables, x + step.astype(x.dtype)), first)

  def timed(count: int) -> float:
    began = time.perf_counter()
    jax.block_until_ready(passes(variables, x, count))
    return time.perf_counter() - began

  timed(1)
  count = 1
  while (once := timed(count)) < _SECONDS and count < 2**20:
    count *= max(2, min(16, int(_SECONDS / max(once, 1e-9))))
  return statistics.median(timed(count) for _ in range(_REPEATS)) / count
