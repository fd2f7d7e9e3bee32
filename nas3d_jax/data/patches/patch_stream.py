"""The patches of some cases as a run takes them: one after the other without end, or each of them once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.patches import device_cases, host_batches
from nas3d_jax.data.patches.host_batches import PatchRef
from nas3d_jax.runtime.data_parallel import ONE_DEVICE, SPLIT, WHOLE, Replicas

Batch = tuple[jax.Array, jax.Array]

_prepare = jax.jit(host_batches.prepare_batch, static_argnames="schema")


class Weighted(NamedTuple):
  """A batch of a pass.

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


class PatchStream:
  """A part of a data set, such as the hybrid part and the kernel part of a search.

  A batch is an image [N, p, p, p, M] and a target [N, p, p, p, R], float32, ready for a step; N is `batch_size` times
  the number of devices. Wherever the data lies, and however many devices and processes share it, the patches come in
  the same order, and a position means the same.

  Attributes:
    size: N, patches in a batch, over all devices.
    patches: number of patches.
    steps: batches of one pass.
    data: the cases on the device, None where they are read from the host.
  """

  def __init__(
    self,
    dataset: Dataset,
    cases: Sequence[Case],
    *,
    patch_size: int,
    batch_size: int,
    seed: int,
    skip_empty: bool,
    replicas: Replicas = ONE_DEVICE,
  ):
    """Lists the patches; none is read yet.

    Args:
      dataset: the data set.
      cases: those of its cases that make the part, with labels.
      patch_size: p, length of a patch along each axis in voxels.
      batch_size: patches in the batch of one device.
      seed: of the order in which `draw` takes them.
      skip_empty: leave out patches without tumour.
      replicas: the devices that share a batch.

    Raises:
      InputError: a case has no labels, or no patch is left.
    """
    self._dataset, self._patch_size, self._seed, self._replicas = dataset, patch_size, seed, replicas
    self._refs = host_batches.patch_index(dataset, cases, patch_size, skip_empty=skip_empty)
    self.patches, self.size = len(self._refs), batch_size * replicas.count
    self.steps = host_batches.steps_per_epoch(self._refs, self.size)
    self.data: device_cases.Resident | None = None
    self._batch_size = batch_size
    # What this process reads of each batch.
    self._own = batch_size * replicas.local
    sharing = dict(process=replicas.process, processes=replicas.processes)
    self._batches = functools.partial(
      host_batches.patch_batches, dataset, patch_size=patch_size, batch_size=self._own, **sharing
    )
    self._order = host_batches.patch_order(self.patches, seed=seed)
    self._stream: Any = None
    self._taken = 0

  @property
  def bytes(self) -> int:
    """What the cases take on the device."""
    return device_cases.resident_bytes(self._dataset, self._refs)

  def to_device(self) -> None:
    """Copies the cases to each device; from then on, `take` and `prepare` serve instead of `draw`."""
    self.close()
    self.data = self._replicas.replicate(device_cases.reside(self._dataset, self._refs))

  def draw(self, key: jax.Array | None = None) -> Batch:
    """The next batch of the endless stream, reshuffled each pass; with a key, augmented."""
    if self._stream is None:
      self._stream = self._batches(self._refs, seed=self._seed, first=self._taken)
    batch = next(self._stream)
    self._taken += self.size
    return self._prepared(batch, key)

  def take(self, count: int, limit: int) -> np.ndarray:
    """Places of the patches of the next `count` batches of that stream, int32 [limit, N]; the rest are zero."""
    order = np.zeros((limit, self.size), np.int32)
    for step in range(count):
      order[step] = self._places(self._taken + step * self.size)
    self._taken += count * self.size
    return order

  def prepare(self, data: device_cases.Resident, indices: jax.Array, key: jax.Array | None = None) -> Batch:
    """The batch of patches at these places, inside a computation; with a key, augmented."""

    def prepare(data, indices, *key):
      batch = device_cases.cut(data, indices, self._patch_size)
      return host_batches.prepare_batch(batch, self._dataset.schema, *map(self._replicas.own_key, key))

    keys = () if key is None else (key,)
    return self._replicas.jit(prepare, (WHOLE, SPLIT, *[WHOLE] * len(keys)), SPLIT)(data, indices, *keys)

  def once(self) -> Iterator[Weighted]:
    """One pass in order, as it is, in `steps` batches; the stream stays where it is."""
    filled = [*self._refs, *self._refs[:1] * (self.steps * self.size - self.patches)]
    weight = (np.arange(len(filled)) < self.patches).astype(np.float32).reshape(self.steps, -1, self._own)
    with contextlib.closing(self._batches(filled, epochs=1, shuffle=False)) as batches:
      for step, batch in enumerate(batches):
        here = filled[step * self.size :][: self.size]
        count = int(weight[step].sum())
        own = self._replicas.split(weight[step, self._replicas.process])
        yield Weighted(self._prepared(batch), own, count, self._describe(here[:count]))

  def drawn(self, ago: int) -> list[PatchRef]:
    """The patches of a batch taken earlier; `ago` is how many batches were taken since, 0 for the last one."""
    return [self._refs[place] for place in self._places(self._taken - (ago + 1) * self.size)]

  def describe(self, ago: int) -> str:
    """These patches in words."""
    return self._describe(self.drawn(ago))

  def read(self, ago: int, key: jax.Array | None = None) -> dict[str, np.ndarray]:
    """What such a batch was: image and target as a step got them, the case and the start of each patch.

    Read anew, by this process alone; with the key that it was augmented with.
    """
    refs = self.drawn(ago)
    rows, size = [], self.size // self._replicas.count
    for device in range(self._replicas.count):
      own = refs[device * size :][:size]
      with contextlib.closing(
        host_batches.patch_batches(
          self._dataset, own, patch_size=self._patch_size, batch_size=size, epochs=1, shuffle=False
        )
      ) as batches:
        own_key = key if key is None or self._replicas.mesh is None else jax.random.fold_in(key, device)
        rows.append(_prepare(next(batches), schema=self._dataset.schema, key=own_key))
    image, target = (np.concatenate([np.asarray(row[i]) for row in rows]) for i in (0, 1))
    names = [self._dataset.cases[ref.case_index].name for ref in refs]
    return {"image": image, "target": target, "case": np.asarray(names), "start": np.asarray([r.start for r in refs])}

  @property
  def position(self) -> dict[str, Any]:
    """Where the endless stream stands, plain JSON values: how many patches were taken."""
    return {"next_patch": self._taken}

  def go_to(self, position: dict[str, Any]) -> None:
    """Sets the endless stream to a `position`; one that counts batches is of a single device with this batch size."""
    self.close()
    self._taken = position["next_patch"] if "next_patch" in position else position["next_index"] * self._batch_size

  def close(self) -> None:
    """Stops reading ahead."""
    if self._stream is not None:
      self._stream.close()
      self._stream = None

  def _places(self, first: int) -> list[int]:
    return [int(self._order[place]) for place in range(first, first + self.size)]

  def _describe(self, refs: Sequence[PatchRef]) -> str:
    return ", ".join(f"{self._dataset.cases[ref.case_index].name}, patch at {ref.start}" for ref in refs)

  @functools.cached_property
  def _preparing(self) -> Any:
    """The preparation on all devices, without and with a key."""
    schema, replicas = self._dataset.schema, self._replicas

    def augmented(batch, key):
      return host_batches.prepare_batch(batch, schema, replicas.own_key(key))

    plain = functools.partial(host_batches.prepare_batch, schema=schema)
    return replicas.jit(plain, (SPLIT,), SPLIT), replicas.jit(augmented, (SPLIT, WHOLE), SPLIT)

  def _prepared(self, batch: Any, key: jax.Array | None = None) -> Batch:
    if self._replicas.mesh is None:
      return _prepare(batch, schema=self._dataset.schema, key=key)
    plain, augmented = self._preparing
    batch = self._replicas.split(batch)
    return plain(batch) if key is None else augmented(batch, key)
