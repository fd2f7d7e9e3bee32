"""The patches of some cases as a run takes them: one after the other without end, or each of them once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np

from nas3d_jax.data import pipeline, resident
from nas3d_jax.data.case import Case
from nas3d_jax.data.dataset import Dataset
from nas3d_jax.errors import InputError

Placement = Literal["auto", "device", "host"]
PLACEMENTS: tuple[Placement, ...] = ("auto", "device", "host")

_prepare = jax.jit(pipeline.prepare_batch, static_argnames="schema")


class Part:
  """A part of a data set, such as the hybrid part and the kernel part of a search.

  A batch is an image [N, p, p, p, M] and a target [N, p, p, p, R], float32, ready for a step. Wherever the data lies,
  the patches come in the same order, and a position means the same.

  Attributes:
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
  ):
    """Lists the patches; none is read yet.

    Args:
      dataset: the data set.
      cases: those of its cases that make the part, with labels.
      patch_size: p, length of a patch along each axis in voxels.
      batch_size: N, patches in a batch.
      seed: of the order in which `draw` takes them.
      skip_empty: leave out patches without tumour.

    Raises:
      InputError: a case has no labels, or no patch is left.
    """
    self._dataset, self._patch_size, self._batch_size = dataset, patch_size, batch_size
    self._refs = pipeline.patch_index(dataset, cases, patch_size, skip_empty=skip_empty)
    self.steps = pipeline.steps_per_epoch(self._refs, batch_size)
    self.data: resident.Resident | None = None
    self._batches = functools.partial(
      pipeline.patch_batches, dataset, self._refs, patch_size=patch_size, batch_size=batch_size
    )
    self._order = pipeline.patch_order(len(self._refs), batch_size=batch_size, seed=seed)
    self._stream = self._batches(seed=seed)
    self._taken = 0

  @property
  def bytes(self) -> int:
    """What the cases take on the device."""
    return resident.resident_bytes(self._dataset, self._refs)

  def to_device(self) -> None:
    """Copies the cases to the device; from then on, `take` and `prepare` serve instead of `draw`."""
    self._stream.close()
    self.data = resident.reside(self._dataset, self._refs)

  def draw(self, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """The next batch of the endless stream, reshuffled each pass; with a key, augmented."""
    return _prepare(next(self._stream), schema=self._dataset.schema, key=key)

  def take(self, count: int, limit: int) -> np.ndarray:
    """Places of the patches of the next `count` batches of that stream, int32 [limit, N]; the rest are zero."""
    order = np.zeros((limit, self._batch_size), np.int32)
    for step in range(count):
      order[step] = self._order[self._taken + step]
    self._taken += count
    return order

  def prepare(
    self, data: resident.Resident, indices: jax.Array, key: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """The batch of patches at these places, inside a computation; with a key, augmented."""
    batch = resident.cut(data, indices, self._patch_size)
    return pipeline.prepare_batch(batch, self._dataset.schema, key)

  def once(self) -> Iterator[tuple[jax.Array, jax.Array]]:
    """One pass in order, as it is; the stream stays where it is. The last of the `steps` batches may be smaller."""
    with contextlib.closing(self._batches(epochs=1, shuffle=False)) as batches:
      for batch in batches:
        yield _prepare(batch, schema=self._dataset.schema)

  @property
  def position(self) -> dict[str, Any]:
    """Where the endless stream stands, plain JSON values."""
    return self._stream.get_state() if self.data is None else {"next_index": self._taken}

  def go_to(self, position: dict[str, Any]) -> None:
    """Sets the endless stream to a `position`."""
    if self.data is None:
      self._stream.set_state(position)
    else:
      self._taken = position["next_index"]

  def close(self) -> None:
    """Stops reading ahead."""
    self._stream.close()


def place(parts: Sequence[Part], placement: Placement, memory: int | None, *, accelerated: bool) -> bool:
  """Copies parts to the device where that is asked for, or pays.

  Args:
    parts: whose cases lie on the device, or all on the host.
    placement: "device", "host", or "auto": on an accelerator, where they take half of its memory at most.
    memory: bytes of the device, None if unknown.
    accelerated: whether the device is an accelerator.

  Returns:
    Whether they are on the device now.

  Raises:
    InputError: no such placement, or "device" and more data than memory.
  """
  if placement not in PLACEMENTS:
    raise InputError(f"data_placement must be one of {', '.join(PLACEMENTS)}, got {placement!r}")
  if placement == "host" or (placement == "auto" and not (accelerated and memory)):
    return False
  size = sum(part.bytes for part in parts)
  if placement == "device" and memory is not None and size > memory:
    raise InputError(
      f"data_placement=device needs {size / 2**30:.1f} GiB on the device, which has {memory / 2**30:.1f}; use host"
    )
  if placement == "auto" and size > memory / 2:
    return False
  for part in parts:
    part.to_device()
  return True
