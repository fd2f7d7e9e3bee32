"""Batches whose cases lie on the host: read ahead from disk, and prepared on the devices."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.patches import host_batches
from nas3d_jax.data.patches.augmentation import PAPER_CHANGES, Changes
from nas3d_jax.data.patches.batch import Batch, RawBatch
from nas3d_jax.data.patches.host_batches import PatchRef
from nas3d_jax.data.patches.patch_order import PatchOrder
from nas3d_jax.runtime.data_parallel import ONE_DEVICE, SPLIT, WHOLE, Replicas
from nas3d_jax.validation import PatchSize

_prepare = jax.jit(host_batches.prepare_batch, static_argnames=("schema", "changes"))


class ValidationBatch(NamedTuple):
  """A batch of a single pass, whose patches count by their weights.

  Attributes:
    batch: image and target.
    weight: float32 [N], 1 for a patch, 0 for one that only fills up the last batch.
    count: patches in it, over all devices.
    where: the patches in words, for messages.
  """

  batch: Batch
  weight: jax.Array | np.ndarray
  count: int
  where: str


class HostSource:
  """Batches of the patches of an order, read from the memory-mapped cases by threads.

  A batch is an image [N, D, H, W, M] and a target [N, D, H, W, R], float32, ready for a step; each device has its rows.
  """

  def __init__(
    self,
    dataset: Dataset,
    order: PatchOrder,
    *,
    patch_size: PatchSize,
    replicas: Replicas = ONE_DEVICE,
    changes: Changes = PAPER_CHANGES,
  ):
    """Nothing is read yet.

    Args:
      dataset: where the cases lie.
      order: which patches, and in which order.
      patch_size: length of a patch in voxels; one, or one an axis.
      replicas: the devices that share a batch.
      changes: what the augmentation does.
    """
    self._prepare = functools.partial(_prepare, schema=dataset.schema, changes=changes)
    self._changes = changes
    self._dataset, self._order, self._patch_size, self._replicas = dataset, order, patch_size, replicas
    # What this process reads of each batch.
    self._own = order.size // replicas.processes
    sharing = dict(process=replicas.process, processes=replicas.processes)
    self._batches = functools.partial(
      host_batches.patch_batches, dataset, patch_size=patch_size, batch_size=self._own, **sharing
    )
    self._stream: Any = None
    self._stream_at = 0

  def next_batch(self, key: jax.Array | None = None) -> Batch:
    """Takes the next batch of the order; with a key, augmented."""
    if self._stream is None or self._stream_at != self._order.taken:
      self.close()
      self._stream = self._batches(self._order.refs, seed=self._order.seed, first=self._order.taken)
    batch = next(self._stream)
    self._order.taken += self._order.size
    self._stream_at = self._order.taken
    return self._prepared(batch, key)

  def one_pass(self) -> Iterator[ValidationBatch]:
    """Each patch once, in the order of the list, without augmentation; the position stays where it is."""
    refs, size, steps = self._order.refs, self._order.size, self._order.steps
    filled = [*refs, *refs[:1] * (steps * size - len(refs))]
    weight = (np.arange(len(filled)) < len(refs)).astype(np.float32).reshape(steps, -1, self._own)
    with contextlib.closing(self._batches(filled, epochs=1, shuffle=False)) as batches:
      for step, batch in enumerate(batches):
        here = filled[step * size :][:size]
        count = int(weight[step].sum())
        own = self._replicas.split(weight[step, self._replicas.process])
        yield ValidationBatch(self._prepared(batch), own, count, self._in_words(here[:count]))

  def describe(self, ago: int) -> str:
    """The patches of a batch taken earlier in words; `ago` is how many batches were taken since, 0 for the last one."""
    return self._in_words(self._order.drawn(ago))

  def read(self, ago: int, key: jax.Array | None = None) -> dict[str, np.ndarray]:
    """What such a batch was: image and target as a step got them, the case and the start of each patch.

    Read anew, by this process alone; with the key that it was augmented with.
    """
    refs = self._order.drawn(ago)
    rows, size = [], self._order.size // self._replicas.count
    for device in range(self._replicas.count):
      own = refs[device * size :][:size]
      with contextlib.closing(
        host_batches.patch_batches(
          self._dataset, own, patch_size=self._patch_size, batch_size=size, epochs=1, shuffle=False
        )
      ) as batches:
        own_key = key if key is None or self._replicas.mesh is None else jax.random.fold_in(key, device)
        rows.append(self._prepare(next(batches), key=own_key))
    image, target = (np.concatenate([np.asarray(row[i]) for row in rows]) for i in (0, 1))
    names = [self._dataset.cases[ref.case_index].name for ref in refs]
    return {"image": image, "target": target, "case": np.asarray(names), "start": np.asarray([r.start for r in refs])}

  def close(self) -> None:
    """Stops reading ahead."""
    if self._stream is not None:
      self._stream.close()
      self._stream = None

  def _in_words(self, refs: Sequence[PatchRef]) -> str:
    return ", ".join(f"{self._dataset.cases[ref.case_index].name}, patch at {ref.start}" for ref in refs)

  @functools.cached_property
  def _prepare_on_each(self) -> Any:
    """The preparation on all devices, without and with a key."""
    schema, replicas = self._dataset.schema, self._replicas

    def augmented(batch, key):
      return host_batches.prepare_batch(batch, schema, replicas.own_key(key), changes=self._changes)

    plain = functools.partial(host_batches.prepare_batch, schema=schema)
    return replicas.jit(plain, (SPLIT,), SPLIT), replicas.jit(augmented, (SPLIT, WHOLE), SPLIT)

  def _prepared(self, batch: RawBatch, key: jax.Array | None = None) -> Batch:
    if self._replicas.mesh is None:
      return self._prepare(batch, key=key)
    plain, augmented = self._prepare_on_each
    batch = self._replicas.split(batch)
    return plain(batch) if key is None else augmented(batch, key)
