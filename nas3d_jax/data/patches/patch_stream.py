"""The patches of some cases: in which order a run takes them, and where their batches come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.patches import device_cases, host_batches
from nas3d_jax.data.patches.augmentation import PAPER_CHANGES, Changes
from nas3d_jax.data.patches.device_source import DeviceSource
from nas3d_jax.data.patches.host_source import HostSource
from nas3d_jax.data.patches.patch_order import PatchOrder
from nas3d_jax.data.patches.random_patches import EPOCHS, RandomSampling, random_patches
from nas3d_jax.runtime.data_parallel import ONE_DEVICE, Replicas
from nas3d_jax.validation import PatchSize


class PatchStream:
  """A part of a data set, such as the hybrid part and the kernel part of a search.

  Attributes:
    order: which patches, in which order, and how many were taken; both sources share it.
    host: batches read from the host, single passes, and batches read once more.
    device: the same batches, cut on the device; None until `to_device`.
  """

  def __init__(
    self,
    dataset: Dataset,
    cases: Sequence[Case],
    *,
    patch_size: PatchSize,
    batch_size: int,
    seed: int,
    skip_empty: bool,
    replicas: Replicas = ONE_DEVICE,
    changes: Changes = PAPER_CHANGES,
    sampling: RandomSampling | None = None,
  ):
    """Lists the patches; none is read yet.

    Args:
      dataset: the data set.
      cases: those of its cases that make the part, with labels.
      patch_size: length of a patch in voxels; one, or one an axis.
      batch_size: patches in the batch of one device.
      seed: of the order.
      skip_empty: leave out patches without tumour.
      replicas: the devices that share a batch.
      changes: what the augmentation does.
      sampling: draws patches at random; None takes those of the auto-fitted grid.

    Raises:
      InputError: a case has no labels, or no patch is left.
    """
    self._dataset, self._read = dataset, dict(patch_size=patch_size, replicas=replicas, changes=changes)
    if sampling is None:
      refs = host_batches.patch_index(dataset, cases, patch_size, skip_empty=skip_empty)
    else:
      count, share = EPOCHS * sampling.steps * batch_size * replicas.count, sampling.foreground_share
      refs = random_patches(dataset, cases, patch_size, count=count, foreground_share=share, seed=seed)
    steps = sampling and sampling.steps
    self.order = PatchOrder(refs, batch_size=batch_size, devices=replicas.count, seed=seed, steps=steps)
    self.host = HostSource(dataset, self.order, **self._read)
    self.device: DeviceSource | None = None

  @property
  def size(self) -> tuple[int, int]:
    """Voxels of the cases on the device, and the bytes that they take there."""
    return device_cases.resident_size(self._dataset, self.order.refs)

  def to_device(self) -> None:
    """Copies the cases to each device."""
    self.device = DeviceSource(self._dataset, self.order.refs, **self._read)

  def take(self, count: int, limit: int) -> np.ndarray:
    """Takes the next `count` batches of cases on the device.

    Returns:
      Their patches, as `DeviceSource.batch` takes them: int32 [limit, N, 4]; those beyond `count` are of no meaning.
    """
    return self.device.patches(self.order.take(count, limit))
