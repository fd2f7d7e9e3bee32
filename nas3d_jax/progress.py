"""How far a run is within its epochs: what search and training count alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nas3d_jax.data.part import Part
from nas3d_jax.loop import EpochSums, run_epoch
from nas3d_jax.nonfinite import Skips
from nas3d_jax.run import Run
from nas3d_jax.stopping import Stop


class Progress:
  """Epochs, steps and patches of a run.

  Attributes:
    epoch: epochs that are over.
    sums: of the epoch under way.
    skips: of the steps that were left out.
  """

  def __init__(self, losses: Sequence[str], part: Part, skips: Skips):
    """Args: names of the losses; the part whose patches make an epoch; the count of steps left out."""
    self._losses, self._part, self.skips = tuple(losses), part, skips
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
    return max(self.sums.steps, -(-(self._part.patches - self._beyond) // self._part.size))

  def finish_epoch(self) -> None:
    """Begins the next epoch."""
    self.epoch += 1
    self._begin()

  def saved(self) -> dict[str, Any]:
    """What the item `training` of a checkpoint holds of it."""
    return {"epoch": self.epoch, "sums": self.sums.saved()}

  def told(self) -> dict[str, Any]:
    """What its item `metadata` holds of it, plain JSON values."""
    patches = self._beyond + self.sums.steps * self._part.size
    return {"skipped": self.skips.count, "epoch_skipped": self.sums.skipped, "epoch_patches": patches}

  def restore(self, saved: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Sets it to what a checkpoint holds; one from before steps could be left out tells nothing."""
    self.epoch = saved["epoch"]
    self.sums = EpochSums(**saved["sums"], skipped=told.get("epoch_skipped", 0))
    self.skips.count = told.get("skipped", 0)
    done = self.sums.steps * self._part.size
    self._beyond = told.get("epoch_patches", done) - done


def take_steps(state: Any, config: Any, run: Run, stop: Stop) -> tuple[str, Callable[..., None]]:
  """Takes the steps of an epoch that are left.

  Args:
    state: of a search or a training, with `progress`, `advance`, `skip` and `save(run, best_metric)`.
    config: of it, with `epochs` and `checkpoint_minutes`.
    run: its directory.
    stop: what may ask it to stop.

  Returns:
    The epoch in words, and `save(best_metric=None)`, after which nothing is held against a stop.

  Raises:
    Stopped: a stop was asked for.
  """

  def save(best_metric: float | None = None) -> None:
    state.save(run, best_metric)
    stop.release(run.checkpoints.is_writing)

  progress, what = state.progress, f"epoch {state.progress.epoch + 1}/{config.epochs}"
  kwargs = dict(save_minutes=config.checkpoint_minutes, skip=state.skip, stop=stop)
  run_epoch(what, progress.steps, progress.sums, state.advance, save, **kwargs)
  return what, save
