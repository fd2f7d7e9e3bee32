"""What search and training share: one epoch of steps, with its mean losses, progress and checkpoints in between."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nas3d_jax.errors import InputError
from nas3d_jax.stopping import Stop

# Losses are fetched from the device so many calls late, so that it never waits for the host.
_LAG = 8

Losses = tuple[int, Mapping[str, jax.Array]]


@dataclasses.dataclass
class EpochSums:
  """Sums over the steps of an epoch that is under way; numbers only, so that they are part of a checkpoint.

  Attributes:
    losses: sum of each loss, by name.
    steps: steps in the sums.
    seconds: spent in these steps, with compiling and saving in between.
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

  def speed(self, patches: int) -> dict[str, float]:
    """Seconds and patches a second, as they are recorded; `patches` is their number in a step."""
    rate = patches * self.steps / max(self.seconds, 1e-9)
    return {"seconds": round(self.seconds, 3), "patches_per_second": round(rate, 3)}


def run_epoch(
  what: str,
  steps: int,
  sums: EpochSums,
  advance: Callable[[int], Losses],
  save: Callable[[], None],
  *,
  save_minutes: float,
  stop: Stop | None = None,
) -> None:
  """Runs the steps of an epoch that are left.

  Args:
    what: shown beside the progress bar.
    steps: of the whole epoch.
    sums: of the steps done; updated in place.
    advance: takes steps, as many as it is told at most and one at least; returns their number, and of each loss a
      scalar or an array that begins with these steps' values; it may still be in the making.
    save: writes a checkpoint.
    save_minutes: minutes between checkpoints within an epoch.
    stop: asked after each call but the last, when `save` has been called.

  Raises:
    InputError: a loss is not finite.
    Stopped: a stop was asked for.
  """
  stop = stop or Stop()
  pending: list[Losses] = []
  lag = 0 if jax.default_backend() == "cpu" else _LAG
  started = saved = time.monotonic()

  def settle(keep: int) -> None:
    nonlocal started
    while len(pending) > keep:
      _add(sums, *pending.pop(0))
    now = time.monotonic()
    sums.seconds += now - started
    started = now

  def save_all() -> None:
    settle(0)
    save()

  with _progress() as progress:
    task = progress.add_task(f"{what}, first step", total=steps, completed=sums.steps)
    left = steps - sums.steps
    while left:
      pending.append(advance(left))
      stop.hold()
      left -= pending[-1][0]
      settle(lag)
      progress.update(task, completed=sums.steps, description=what)
      if left:
        stop.check(save_all)
        if time.monotonic() - saved > 60 * save_minutes:
          save_all()
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

  Raises:
    InputError: a loss is not finite.
  """
  weighted, count = 0.0, 0
  with _progress() as progress:
    for image, target in progress.track(batches, total=total, description=what):
      weighted += _finite("loss", loss((image, target)), what) * image.shape[0]
      count += image.shape[0]
  return weighted / count


def say(text: str) -> None:
  """One line for the user, beside the progress bars."""
  Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def _add(sums: EpochSums, count: int, losses: Mapping[str, jax.Array]) -> None:
  values = {name: np.asarray(value).reshape(-1) for name, value in losses.items()}
  for step in range(count):
    for name, own in values.items():
      sums.losses[name] += _finite(name, own[step], f"step {sums.steps + 1} of the epoch")
    sums.steps += 1


def _finite(name: str, value: jax.Array, where: str) -> float:
  number = float(value)
  if not math.isfinite(number):
    raise InputError(
      f"{name} is {number} in {where}: the parameters have diverged; start anew with a lower learning rate and "
      "--overwrite"
    )
  return number


def _progress() -> Progress:
  times = TimeElapsedColumn(), TimeRemainingColumn()
  return Progress(
    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times, console=Console(stderr=True)
  )
