"""A run between two steps: what a search and a training have in common.

To follow a step: `search.py` or `train.py` (the loop), `Session.advance` (its patches), `steps.py` (the updates).
"""

from __future__ import annotations

import abc
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax

from nas3d_jax.checkpointing.metadata import Kind
from nas3d_jax.data.patches.batch import Batch
from nas3d_jax.data.patches.patch_stream import PatchStream
from nas3d_jax.errors import InputError
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.runtime.compiling import announced, shared
from nas3d_jax.runtime.distributed import say
from nas3d_jax.runtime.stopping import Stop
from nas3d_jax.training.chunks import make_chunk, steps_per_call
from nas3d_jax.training.epoch import EpochProgress, SavedSums, Taken, mean_loss, run_epoch
from nas3d_jax.training.feed import Feed
from nas3d_jax.training.nonfinite import Skips, Source
from nas3d_jax.training.optimizers import with_moments
from nas3d_jax.training.run_directory import LastCheckpoint, Run
from nas3d_jax.training.setup import RunSetup, plain_settings
from nas3d_jax.training.steps import SearchState, TrainState, make_validation_step
from nas3d_jax.training.tracking import Tracking


class CheckpointItems(Protocol):
  """The item `training` of a checkpoint: what the next step depends on beside the variables.

  A named tuple, whose field names are those of the format; optimiser states have their moments in the order of the
  network's tree, because a checkpoint does not know of the packing.

  Attributes:
    epoch: epochs that are over.
    sums: of the epoch under way.
  """

  epoch: int
  sums: SavedSums


State = TypeVar("State", SearchState, TrainState)
Items = TypeVar("Items", bound=CheckpointItems)


class Session(abc.ABC, Generic[State, Items]):
  """The state of a run, the steps that change it, and its checkpoints.

  A subclass adds schedules and whatever else its checkpoints hold: it defines `checkpoint_items` and `restore`.

  Attributes:
    setup: data set, network, devices and settings.
    feeds: the patches of each update of a step; one pass over those of the last makes an epoch.
    net: the network, its parameters packed.
    state: parameters, optimiser states, key and step, whole on each device.
    progress: epochs, steps and patches.
    run: the run directory, from `resume` on.
  """

  def __init__(
    self,
    setup: RunSetup,
    folder: Path,
    *,
    kind: Kind,
    genotype: Genotype | None,
    feeds: Sequence[Feed],
    net: PackedNet,
    state: State,
    step: Callable[..., tuple[State, dict[str, jax.Array]]],
    augment_key: jax.Array,
    validated: Mapping[str, Any] = types.MappingProxyType({}),
  ):
    """Copies the cases to the device where `data_placement` asks for it.

    Args:
      setup: data set, network, devices and settings.
      folder: the run directory, which need not be there yet.
      kind: of the run, for the metadata of checkpoints.
      genotype: of a derived network, for the same; None for others.
      feeds: the patches of each update of a step, in their order.
      net: the network, its parameters packed.
      state: before the first step.
      step: (state, a batch of each feed) -> (state, metrics); one of `steps.py`.
      augment_key: from which the key of each augmented batch follows.
      validated: arguments of `make_validation_step` beside the loss.

    Raises:
      InputError: the cases do not fit the device.
    """
    self.setup, self.feeds, self.net, self.state = setup, tuple(feeds), net, setup.replicas.replicate(state)
    self._kind, self._genotype, self._augment_key = kind, genotype, augment_key
    losses = [f"{feed.prefix}loss" for feed in self.feeds]
    metrics = (*losses, *(f"{feed.prefix}finite" for feed in self.feeds))
    on_device = setup.place([feed.stream for feed in self.feeds])
    what = {"search": "the search step", "train": "the training step"}[kind]
    self._step = announced(what, step)
    self._chunk = announced(what, make_chunk(step, self._cut_batches, metrics)) if on_device else None
    validation_step = shared(make_validation_step, net, replicas=setup.replicas, **setup.objective, **validated)
    self._validation_step = announced("the validation step", validation_step)
    self.progress = EpochProgress(losses, self.feeds[-1].stream.order, Skips(folder, setup.config.skip_nonfinite))

  def close(self) -> None:
    """Stops reading ahead."""
    for feed in self.feeds:
      feed.stream.host.close()

  @property
  def title(self) -> str:
    """The epoch under way, in words."""
    return f"epoch {self.progress.epoch + 1}/{self.setup.config.epochs}"

  @property
  def _patches(self) -> int:
    """Patches of a step."""
    return sum(feed.stream.order.size for feed in self.feeds)

  def take_steps(self) -> dict[str, float]:
    """Takes the steps that are left of the epoch; returns the mean of each loss over the epoch.

    Raises:
      InputError: more steps were not finite than are tolerated.
      Stopped: a stop was asked for, and all is saved.
    """
    minutes, sums = self.setup.config.checkpoint_minutes, self.progress.sums
    run_epoch(
      self.title, self.progress.steps, sums, self.advance, self.save,
      patches=self._patches, save_minutes=minutes, skip=self.skip, stop=self._stop,
    )
    return sums.means()

  def advance(self, max_steps: int) -> Taken:
    """Takes one step, or up to `max_steps` where the cases are on the device; each on new patches.

    A step is, in order: `patch_batches` cuts the next batch of each feed; `prepare_batch` augments it (in a search that
    of the kernel feed alone, by a key that follows from the step), normalises it by equation 2 and makes regions of its
    labels; the step of `steps.py` updates: in a search the hybrid parameters on the one batch, then the kernel
    parameters, with the new hybrid parameters, on the other. `HostSource.next_batch` does the first two.

    Where the cases are on the device, `PatchStream.take` gives the places of the patches of several steps, and one
    program, the same for all folds and seeds, does the rest: `make_chunk` of `DeviceSource.batch` and the same step.

    Returns:
      The number of steps taken, and their metrics as `run_epoch` wants them.
    """
    if self._chunk is None:
      keys = [feed.key(self._augment_key, self.state.step) for feed in self.feeds]
      batches = [feed.stream.host.next_batch(key) for feed, key in zip(self.feeds, keys, strict=True)]
      self.state, metrics = self._step(self.state, *batches)
      return 1, metrics
    limit = steps_per_call()
    count = min(max_steps, limit)
    patches = [feed.stream.take(count, limit) for feed in self.feeds]
    data = self._augment_key, [feed.stream.device.data for feed in self.feeds]
    self.state, metrics = self._chunk(self.state, data, patches, count)
    return count, metrics

  def _cut_batches(self, data: tuple[jax.Array, Any], patches: Sequence[jax.Array], step: jax.Array) -> list[Batch]:
    """The batches of a step, inside the program of a chunk."""
    key, cases = data
    return [
      feed.stream.device.batch(own, rows, feed.key(key, step))
      for feed, own, rows in zip(self.feeds, cases, patches, strict=True)
    ]

  def skip(self, ago: int, metrics: Mapping[str, float]) -> None:
    """Counts a step that was left out, `ago` steps before the last; raises where that is one too many."""
    step = int(self.state.step) - ago
    sources = {feed.prefix: Source(feed.stream.host, feed.key(self._augment_key, step - 1)) for feed in self.feeds}
    self.progress.skips.add(step=step, epoch=self.progress.epoch + 1, ago=ago, metrics=metrics, sources=sources)

  @property
  def variables(self) -> dict[str, Any]:
    """What is validated, saved and used, packed: the parameters."""
    return self.state.variables

  def validate(self, stream: PatchStream) -> float:
    """Mean loss over one pass of these patches, with dropout and augmentation off.

    Raises:
      InputError: a loss is not finite.
      Stopped: a stop was asked for, and all is saved.
    """
    batches = self._stop.between(stream.host.one_pass(), self.save)
    return mean_loss(f"{self.title} validation", batches, stream.order.steps, self._validation_loss)

  def _validation_loss(self, batch: Batch, weight: jax.Array) -> jax.Array:
    return self._validation_step(self.variables, batch, weight)

  # The end of an epoch, and checkpoints.

  def record(self, **fields: Any) -> dict[str, Any]:
    """The record of the epoch under way, plain JSON values, with these fields of its own."""
    sums, epoch, step = self.progress.sums, self.progress.epoch + 1, int(self.state.step)
    return {"epoch": epoch, "step": step, **fields, "skipped": sums.skipped, **sums.speed(self._patches)}

  def finish_epoch(self, record: Mapping[str, Any], summary: str, *, best_metric: float) -> None:
    """Writes the record and a checkpoint, and begins the next epoch.

    Args:
      record: of the epoch, from `record`.
      summary: of it, for people.
      best_metric: the checkpoint with the lowest is the best.

    Raises:
      InputError: a tracker raised; all is saved.
      Stopped: a stop was asked for, and all is saved.
    """
    title = self.title
    self.progress.finish_epoch()
    self.run.record(record)
    try:
      # Once the checkpoint is there, this epoch does not come again.
      self._tracking.record(record)
    finally:
      self.save(best_metric)
    say(f"{title}: {summary}; {record['patches_per_second']:.2f} patches/s")
    self._stop.check(self.save)

  @abc.abstractmethod
  def checkpoint_items(self) -> Items:
    """The item `training` of a checkpoint of now."""

  @abc.abstractmethod
  def restore(self, variables: dict[str, Any], items: Items, progress: Mapping[str, Any]) -> None:
    """Sets state and schedules to those of a checkpoint: packed variables, its items, `progress` of its metadata."""

  def progress_metadata(self) -> dict[str, Any]:
    """`progress` of the metadata of a checkpoint, plain JSON values."""
    return self.progress.metadata()

  def in_tree_order(self, optimizer: optax.OptState) -> optax.OptState:
    """An optimiser state as a checkpoint holds it."""
    return with_moments(optimizer, self.net.packing.in_tree_order)

  def in_packed_order(self, optimizer: optax.OptState) -> optax.OptState:
    """The inverse of `in_tree_order`."""
    return jax.tree.map(jnp.asarray, with_moments(optimizer, self.net.packing.in_own_order))

  def save(self, best_metric: float | None = None) -> None:
    """Writes a checkpoint in the background, after which nothing is held against a stop."""
    step, epoch = int(self.state.step), self.progress.epoch
    self.run.checkpoints.save(
      step,
      variables=self.net.unpack(self.variables),
      training=self.checkpoint_items(),
      metadata=self.setup.metadata(
        kind=self._kind, genotype=self._genotype, epoch=epoch, step=step, progress=self.progress_metadata()
      ),
      iterators={feed.name: feed.stream.order.position for feed in self.feeds},
      best_metric=best_metric,
    )
    self._stop.release(self.run.checkpoints.is_writing)

  def resume(self, run: Run, stop: Stop, tracking: Tracking) -> None:
    """Goes on from the last checkpoint, if there is one.

    Args:
      run: the open run directory, to which the session writes from here on.
      stop: what may ask it to save and stop.
      tracking: is told of every epoch, and begins where the run stands then.

    Raises:
      InputError: `Run.resume` finds no checkpoint that can be read, or one of another form, or the run has come further
        than it is asked to go.
    """
    self.run, self._stop, self._tracking = run, stop, tracking
    last = run.resume(variables=self.net.unpack(self.state.variables), training=self.checkpoint_items())
    if last is not None:
      self._go_on_from(last)
    tracking.begin(plain_settings(self.setup.config), self.progress.epoch)

  def _go_on_from(self, last: LastCheckpoint) -> None:
    progress = last.metadata["progress"]
    self.progress.restore(last.training.epoch, last.training.sums, progress)
    done, wanted = self.progress.epoch + (self.progress.sums.steps > 0), self.setup.config.epochs
    if done > wanted:
      raise InputError(
        f"epochs must be at least {done}, to which the run in {self.run.folder} has come, got {wanted}; give that or "
        "more, or --overwrite to start anew"
      )
    self.restore(self.net.pack(last.variables), last.training, progress)
    self.state = self.setup.replicas.replicate(self.state)
    for feed in self.feeds:
      feed.stream.order.go_to(last.positions[feed.name])
