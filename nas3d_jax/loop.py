"""What search and training share: one epoch of steps, with its mean losses, progress and checkpoints in between."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nas3d_jax.errors import InputError

# Losses are fetched from the device so many steps late, so that it never waits for the host.
_LAG = 8


@dataclasses.dataclass
class EpochSums:
  """Sums over the steps of an epoch that is under way; numbers only, so that they are part of a checkpoint.

  Attributes:
    losses: sum of each loss, by name.
    steps: steps in the sums.
    seconds: spent in these steps.
  """

  losses: dict[str, float]
  steps: int = 0
  seconds: float = 0.0

  @classmethod
  def zero(cls, names: tuple[str, ...]) -> EpochSums:
    """Before the first step."""
    return cls(dict.fromkeys(names, 0.0))

  def means(self) -> dict[str, float]:
    """Mean of each loss."""
    return {name: total / self.steps for name, total in self.losses.items()}


def run_epoch(
  what: str,
  steps: int,
  sums: EpochSums,
  advance: Callable[[], Mapping[str, jax.Array]],
  save: Callable[[], None],
  *,
  save_minutes: float,
) -> None:
  """Runs the steps of an epoch that are left.

  Args:
    what: shown beside the progress bar.
    steps: of the whole epoch.
    sums: of the steps done; updated in place.
    advance: takes one step and returns its losses, as scalars that may still be in the making.
    save: writes a checkpoint.
    save_minutes: minutes between checkpoints within an epoch.

  Raises:
    InputError: a loss is not finite.
  """
  pending: list[Mapping[str, jax.Array]] = []
  started = saved = time.monotonic()

  def settle(keep: int) -> None:
    nonlocal started
    while len(pending) > keep:
      _add(sums, pending.pop(0))
    now = time.monotonic()
    sums.seconds += now - started
    started = now

  with _progress() as progress:
    task = progress.add_task(f"{what} (compiling)", total=steps, completed=sums.steps)
    while sums.steps + len(pending) < steps:
      pending.append(advance())
      settle(_LAG if jax.default_backend() != "cpu" else 0)
      progress.update(task, completed=sums.steps, description=what)
      if time.monotonic() - saved > 60 * save_minutes and sums.steps + len(pending) < steps:
        settle(0)
        save()
        saved = time.monotonic()
    settle(0)
    progress.update(task, completed=sums.steps)


def mean_loss(what: str, batches: Iterator[Any], total: int, loss: Callable[[Any], jax.Array]) -> float:
  """Mean of a loss over batches, weighted by their sizes.

  Args:
    what: shown beside the progress bar.
    batches: (image, target) pairs, of which the image's first axis is the batch's size.
    total: number of batches.
    loss: of a batch, a scalar.
  """
  weighted, count = 0.0, 0
  with _progress() as progress:
    for image, target in progress.track(batches, total=total, description=what):
      weighted += float(loss((image, target))) * image.shape[0]
      count += image.shape[0]
  return weighted / count


def key_of(seed: int) -> jax.Array:
  """The typed random key of a seed.

  Threefry whatever JAX's default is, so that a run depends on its seed alone.
  """
  return jax.random.key(seed, impl="threefry2x32")


def batch_spec(batch_size: int, patch_size: int, channels: int) -> jax.ShapeDtypeStruct:
  """Shape of a batch of patches, to draw a network's variables for."""
  return jax.ShapeDtypeStruct((batch_size, *(patch_size,) * 3, channels), jnp.float32)


def say(text: str) -> None:
  """One line for the user, beside the progress bars."""
  Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def _add(sums: EpochSums, losses: Mapping[str, jax.Array]) -> None:
  for name, value in losses.items():
    number = float(value)
    if not math.isfinite(number):
      raise InputError(
        f"{name} is {number} in step {sums.steps + 1} of the epoch; lower the learning rate or check the data. The last "
        "checkpoint is kept: run again to go on from it"
      )
    sums.losses[name] += number
  sums.steps += 1


def _progress() -> Progress:
  columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
  return Progress(*columns, console=Console(stderr=True))
