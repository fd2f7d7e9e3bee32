"""One epoch of steps, with its mean losses, progress and checkpoints in between; search and training share it.

Of several processes that share a run, the first alone shows progress.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nas3d_jax.data.patches.host_source import ValidationBatch
from nas3d_jax.data.patches.patch_order import PatchOrder
from nas3d_jax.errors import InputError
from nas3d_jax.runtime.distributed import first_says, is_silent
from nas3d_jax.runtime.progress_bar import ProgressBar
from nas3d_jax.runtime.stopping import Stop
from nas3d_jax.training.nonfinite import Skips

# Steps after which several processes agree on whether it is time for a checkpoint, because their clocks differ.
_AGREE = 8

# Losses are fetched from the device so many calls late, so that it never waits for the host.
_LAG = 8

Taken = tuple[int, Mapping[str, jax.Array]]


class SavedSums(NamedTuple):
  """What a checkpoint holds of `EpochSums` among its arrays; `skipped` is not one of them."""

  losses: dict[str, float]
  seconds: float
  steps: int


@dataclasses.dataclass
class EpochSums:
  """Sums over the steps of an epoch that is under way; numbers only, so that they are part of a checkpoint.

  Attributes:
    losses: sum of each loss over the steps that were not left out, by name.
    steps: steps of the epoch.
    seconds: spent in these steps, with compiling and saving in between.
    skipped: steps that were left out, because a loss or gradient was not finite.
  """

  losses: dict[str, float]
  steps: int = 0
  seconds: float = 0.0
  skipped: int = 0

  @classmethod
  def zero(cls, names: tuple[str, ...]) -> EpochSums:
    """Before the first step."""
    return cls(dict.fromkeys(names, 0.0))

  def means(self) -> dict[str, float]:
    """Mean of each loss.

    Raises:
      InputError: every step was left out.
    """
    if self.steps == self.skipped:
      raise InputError(f"none of {self.steps} steps had finite losses and gradients; lower the learning rate")
    return self.so_far()

  def so_far(self) -> dict[str, float]:
    """Mean of each loss over the steps until now that were not left out; without any, nothing."""
    count = self.steps - self.skipped
    return {name: total / count for name, total in self.losses.items()} if count else {}

  def saved(self) -> SavedSums:
    """What a checkpoint holds of it among its arrays."""
    return SavedSums(self.losses, self.seconds, self.steps)

  def speed(self, patches: int) -> dict[str, float]:
    """Seconds and patches a second, as they are recorded; `patches` is their number in a step."""
    rate = patches * self.steps / max(self.seconds, 1e-9)
    return {"seconds": round(self.seconds, 3), "patches_per_second": round(rate, 3)}


def run_epoch(
  what: str,
  steps: int,
  sums: EpochSums,
  advance: Callable[[int], Taken],
  save: Callable[[], None],
  *,
  patches: int = 0,
  save_minutes: float,
  skip: Callable[[int, Mapping[str, float]], None],
  stop: Stop | None = None,
) -> None:
  """Runs the steps of an epoch that are left.

  Args:
    what: shown beside the progress bar.
    steps: of the whole epoch.
    sums: of the steps done; updated in place.
    advance: takes steps, as many as its argument at most and one at least; returns their number, and of each metric a
      scalar or an array that begins with these steps' values; it may still be in the making. Metrics are the losses of
      `sums`, and others whose names end in "finite", which say whether an update was done.
    save: writes a checkpoint.
    patches: of a step, for their number a second; 0 shows none.
    save_minutes: minutes between checkpoints within an epoch.
    skip: called for each step that was left out, with the number of steps taken since and its metrics; raises where
      that is not to be tolerated.
    stop: asked after each call but the last; where it says so, `save` is called, and that is the end.

  Raises:
    Stopped: a stop was asked for.
  """
  stop = stop or Stop()
  pending: list[Taken] = []
  lag = 0 if jax.default_backend() == "cpu" else _LAG
  started = saved = time.monotonic()

  def settle(keep: int) -> None:
    nonlocal started
    while len(pending) > keep:
      count, metrics = pending.pop(0)
      values = {name: np.asarray(value).reshape(-1).tolist() for name, value in metrics.items()}
      later = sum(count for count, _ in pending)
      for step in range(count):
        own = {name: value[step] for name, value in values.items()}
        _add(sums, own, functools.partial(skip, later + count - step - 1, own))
    now = time.monotonic()
    sums.seconds += now - started
    started = now

  def save_all() -> None:
    settle(0)
    save()

  shown = dict(unit="step", first=", first step", patches=patches, elapsed=True, silent=is_silent())
  with ProgressBar(what, steps, done=sums.steps, **shown) as bar:
    left = steps - sums.steps
    while left:
      pending.append(advance(left))
      stop.hold()
      left -= pending[-1][0]
      settle(lag)
      bar.update(sums.steps, **sums.so_far())
      if left:
        stop.check(save_all)
        due = time.monotonic() - saved > 60 * save_minutes
        if (sums.steps % _AGREE == 0 if jax.process_count() > 1 else due) and first_says(due):
          save_all()
          saved = time.monotonic()
    settle(0)
    bar.update(sums.steps, **sums.so_far())


def mean_loss(
  what: str, batches: Iterable[ValidationBatch], total: int, loss: Callable[[Any, Any], jax.Array]
) -> float:
  """Mean of a loss over the patches of a pass.

  Args:
    what: shown beside the progress bar.
    batches: of the pass.
    total: number of batches.
    loss: of a batch and its weights, the weighted sum of the losses of its samples, a scalar.

  Raises:
    InputError: a loss is not finite.
  """
  weighted, count = 0.0, 0
  with ProgressBar(what, total, unit="batch", elapsed=True, silent=is_silent()) as bar:
    for item in bar.track(batches):
      number = float(loss(item.batch, item.weight))
      if not math.isfinite(number):
        raise InputError(
          f"loss is {number} in {what} ({item.where}): look at that case; if it is sound, the parameters have "
          "diverged: start anew with a lower learning rate and --overwrite"
        )
      weighted += number
      count += item.count
  return weighted / count


def _add(sums: EpochSums, metrics: Mapping[str, float], skip: Callable[[], None]) -> None:
  """Counts a step, unless `skip` of one that was left out raises."""
  if all(value for name, value in metrics.items() if name.endswith("finite")):
    for name in sums.losses:
      sums.losses[name] += metrics[name]
  else:
    skip()
    sums.skipped += 1
  sums.steps += 1


class EpochProgress:
  """Epochs, steps and patches of a run.

  Attributes:
    epoch: epochs that are over.
    sums: of the epoch under way.
    skips: of the steps that were left out.
  """

  def __init__(self, losses: Sequence[str], order: PatchOrder, skips: Skips):
    """Before the first step.

    Args:
      losses: their names.
      order: one pass over its patches makes an epoch.
      skips: counts the steps that are left out.
    """
    self._losses, self._order, self.skips = tuple(losses), order, skips
    self.epoch = 0
    self._begin()

  def _begin(self) -> None:
    self.sums = EpochSums.zero(self._losses)
    # Patches of the epoch under way beyond those that its steps take with the present number of devices.
    self._beyond = 0

  @property
  def steps(self) -> int:
    """Steps of the epoch under way; one that was begun on another number of devices takes no patch twice."""
    # Not below those done: on more devices, the last of them may have taken patches of the next pass already.
    return max(self.sums.steps, -(-(self._order.patches - self._beyond) // self._order.size))

  def finish_epoch(self) -> None:
    """Begins the next epoch."""
    self.epoch += 1
    self._begin()

  def metadata(self) -> dict[str, Any]:
    """What the item `metadata` of a checkpoint holds of it, plain JSON values; its arrays hold `epoch` and `sums`."""
    patches = self._beyond + self.sums.steps * self._order.size
    return {"skipped": self.skips.count, "epoch_skipped": self.sums.skipped, "epoch_patches": patches}

  def restore(self, epoch: int, sums: SavedSums, metadata: Mapping[str, Any]) -> None:
    """Sets it to what a checkpoint holds; the metadata of one from before steps could be left out is empty."""
    self.epoch = epoch
    self.sums = EpochSums(**sums._asdict(), skipped=metadata.get("epoch_skipped", 0))
    self.skips.count = metadata.get("skipped", 0)
    done = self.sums.steps * self._order.size
    self._beyond = metadata.get("epoch_patches", done) - done
