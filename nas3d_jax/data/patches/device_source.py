"""Batches whose cases lie on the device: cut out and prepared inside the program that takes the steps."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.patches import device_cases, host_batches
from nas3d_jax.data.patches.augmentation import PAPER_CHANGES, Changes
from nas3d_jax.data.patches.batch import Batch
from nas3d_jax.data.patches.host_batches import PatchRef
from nas3d_jax.runtime.data_parallel import ONE_DEVICE, SPLIT, WHOLE, Replicas
from nas3d_jax.validation import PatchSize


class DeviceSource:
  """Cases on the device, and batches of them.

  Attributes:
    data: the cases, whole on each device; a program takes them as an argument, lest they become constants of it.
  """

  def __init__(
    self,
    dataset: Dataset,
    refs: Sequence[PatchRef],
    *,
    patch_size: PatchSize,
    replicas: Replicas = ONE_DEVICE,
    changes: Changes = PAPER_CHANGES,
  ):
    """Copies the cases to each device.

    Args:
      dataset: where the cases lie.
      refs: the patches; the cases that they are of are copied.
      patch_size: length of a patch in voxels; one, or one an axis.
      replicas: the devices that share a batch.
      changes: what the augmentation does.
    """
    self._changes = changes
    self._schema, self._patch_size, self._replicas = dataset.schema, patch_size, replicas
    data, self._patches = device_cases.reside(dataset, refs)
    self.data = replicas.replicate(data)

  def patches(self, indices: np.ndarray) -> np.ndarray:
    """What a program takes for patches, by their indices in the list that the cases were copied for: [...] -> [..., 4].

    It is no part of `data`, so that lists of any length share a program.
    """
    return self._patches[indices]

  def batch(
    self, data: device_cases.Resident, patches: jax.Array, key: jax.Array | None = None
  ) -> Batch:
    """The batch of some patches, inside a computation.

    Args:
      data: `data`, as the program got it.
      patches: int32 [N, 4], from `patches`.
      key: of the augmentation, None without.

    Returns:
      Image [N, D, H, W, M] and target [N, D, H, W, R], float32, each device its rows.
    """

    def prepare(data, patches, *key):
      batch = device_cases.cut(data, patches, self._patch_size)
      return host_batches.prepare_batch(batch, self._schema, *map(self._replicas.own_key, key), changes=self._changes)

    keys = () if key is None else (key,)
    return self._replicas.jit(prepare, (WHOLE, SPLIT, *[WHOLE] * len(keys)), SPLIT)(data, patches, *keys)
