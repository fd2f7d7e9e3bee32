"""Which patches a run takes, in which order, and how many of them it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nas3d_jax.data.patches import host_batches
from nas3d_jax.data.patches.host_batches import PatchRef


class PatchOrder:
  """An endless order of patches, shuffled anew each pass, and the position in it.

  The order depends on the seed and the number of patches alone, so that a position means the same wherever the cases
  lie, and however many devices and processes share them.

  Attributes:
    refs: the patches, as `host_batches.patch_index` lists them.
    seed: of the order.
    size: N, patches in a batch, over all devices.
    taken: patches that were taken.
  """

  def __init__(
    self, refs: Sequence[PatchRef], *, batch_size: int, devices: int = 1, seed: int, steps: int | None = None
  ):
    """Begins at the first patch.

    Args:
      refs: the patches, as `host_batches.patch_index` lists them.
      batch_size: patches in the batch of one device.
      devices: how many of them share a batch.
      seed: of the order.
      steps: batches that make an epoch; None means those of one pass.
    """
    self._steps = steps
    self.refs, self.seed, self.size, self.taken = refs, seed, batch_size * devices, 0
    self._batch_size = batch_size
    self._order = host_batches.patch_order(len(refs), seed=seed)

  @property
  def patches(self) -> int:
    """Patches of an epoch."""
    return len(self.refs) if self._steps is None else self._steps * self.size

  @property
  def steps(self) -> int:
    """Batches of an epoch: its patches over those of a batch, rounded up."""
    return -(-self.patches // self.size)

  def take(self, count: int, limit: int) -> np.ndarray:
    """Takes the next `count` batches.

    Returns:
      The indices of their patches in `refs`, int32 [limit, N], a row for each batch; the rows beyond `count` are 0.
    """
    indices = np.zeros((limit, self.size), np.int32)
    for step in range(count):
      indices[step] = self._indices(self.taken + step * self.size)
    self.taken += count * self.size
    return indices

  def drawn(self, ago: int) -> list[PatchRef]:
    """The patches of a batch taken earlier; `ago` is how many batches were taken since, 0 for the last one."""
    return [self.refs[index] for index in self._indices(self.taken - (ago + 1) * self.size)]

  @property
  def position(self) -> dict[str, Any]:
    """What a checkpoint holds of it, plain JSON values: how many patches were taken."""
    return {"next_patch": self.taken}

  def go_to(self, position: dict[str, Any]) -> None:
    """Goes to a `position`; one that counts batches is of a single device with this batch size."""
    self.taken = position["next_patch"] if "next_patch" in position else position["next_index"] * self._batch_size

  def _indices(self, first: int) -> list[int]:
    """Of the patches of a batch in `refs`; `first` of the order is the first of them."""
    return [int(self._order[position]) for position in range(first, first + self.size)]
