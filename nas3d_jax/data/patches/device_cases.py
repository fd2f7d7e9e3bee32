"""Cases held on the device, and patches cut out of them there.

The voxels of all cases stand one behind the other in one array, so that cases of any size share a program. Room is made
for the largest folds of the data set, so that the parts of all its folds share it as well, unless a schedule counts
their steps. A patch is one gather; it is that of `PatchSource`, to the bit.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.validation import PatchSize, axis_lengths

if TYPE_CHECKING:
  from nas3d_jax.data.patches.host_batches import PatchRef


class Resident(NamedTuple):
  """Cases on the device; what lies behind the last of them is zero, and not read.

  Attributes:
    image: [V, M], voxels of all cases; int16 where all are, else float32.
    label: uint8 [V].
    first: int32 [cases], where the voxels of a case begin.
    shape: int32 [cases, 3], lengths of its brain cube.
    low: float32 [cases, M], least non-zero intensity.
    high: float32 [cases, M], greatest.
  """

  image: jax.Array
  label: jax.Array
  first: jax.Array
  shape: jax.Array
  low: jax.Array
  high: jax.Array


def resident_size(dataset: Dataset, refs: Sequence[PatchRef]) -> tuple[int, int]:
  """Voxels of the cases of these patches on the device, with the room behind them, and bytes that these take."""
  cases = [dataset.cases[index] for index in _cases(refs)]
  wide = max((dataset.image(case).dtype.itemsize for case in cases), default=0)
  voxels, _ = _room(dataset, cases)
  return voxels, voxels * (len(dataset.schema.modalities) * wide + 1)


def reside(dataset: Dataset, refs: Sequence[PatchRef]) -> tuple[Resident, np.ndarray]:
  """Copies the cases of these patches to the device.

  Args:
    dataset: where they lie.
    refs: the patches, as `host_batches.patch_index` lists them.

  Returns:
    The cases, and where the patches lie in them: int32 [patches, 4], case and start along D, H and W, on the host.
  """
  rows = {index: row for row, index in enumerate(_cases(refs))}
  cases = [dataset.cases[index] for index in rows]
  images, labels = [dataset.image(case) for case in cases], [dataset.labels(case) for case in cases]
  voxels = np.cumsum([0, *(label.size for label in labels)])
  dtype = np.result_type(*(image.dtype for image in images))
  room, count = _room(dataset, cases)
  image, label = np.zeros((room, images[0].shape[3]), dtype), np.zeros(room, np.uint8)
  for start, stop, own_image, own_label in zip(voxels, voxels[1:], images, labels, strict=False):
    image[start:stop] = own_image.reshape(-1, image.shape[1])
    label[start:stop] = own_label.ravel()

  def table(values: Sequence, dtype: np.dtype) -> jax.Array:
    values = np.asarray(values, dtype)
    return jnp.asarray(np.pad(values, [(0, count - len(values)), *[(0, 0)] * (values.ndim - 1)]))

  resident = Resident(
    image=jnp.asarray(image),
    label=jnp.asarray(label),
    first=table(voxels[:-1], np.int32),
    shape=table([label.shape for label in labels], np.int32),
    low=table([case.low for case in cases], np.float32),
    high=table([case.high for case in cases], np.float32),
  )
  return resident, np.asarray([(rows[ref.case_index], *ref.start) for ref in refs], np.int32)


def cut(resident: Resident, patches: jax.Array, patch_size: PatchSize) -> dict[str, jax.Array]:
  """A batch of patches, inside a computation.

  Args:
    resident: the cases.
    patches: int32 [N, 4], rows of those that `reside` returns.
    patch_size: length of a patch in voxels; one, or one an axis.

  Returns:
    image [N, D, H, W, M] and label [N, D, H, W] in the stored types, low and high [N, M], as `prepare_batch` takes
    them; what lies outside a brain cube is zero.
  """
  case, starts = patches[:, 0], patches[:, 1:]
  shape, lengths = resident.shape[case], axis_lengths(patch_size)

  def voxel(start, shape, first):
    index, inside = first, True
    for axis, stride in enumerate((shape[1] * shape[2], shape[2], 1)):
      along = start[axis] + jnp.arange(lengths[axis], dtype=jnp.int32)
      other = [a for a in range(3) if a != axis]
      index = index + jnp.expand_dims(along * stride, other)
      inside = inside & jnp.expand_dims((along >= 0) & (along < shape[axis]), other)
    # One past the end, for what lies outside.
    return jnp.where(inside, index, resident.label.shape[0])

  index = jax.vmap(voxel)(starts, shape, resident.first[case])
  image, label = (values.at[index].get(mode="fill", fill_value=0) for values in (resident.image, resident.label))
  return {"image": image, "label": label, "low": resident.low[case], "high": resident.high[case]}


def _room(dataset: Dataset, cases: Sequence[Case]) -> tuple[int, int]:
  """Voxels and cases for which room is made: those of the largest folds, as many as these cases are of."""
  of_fold: dict[int | None, list[int]] = collections.defaultdict(list)
  for case in dataset.cases:
    if case.fold is not None:
      of_fold[case.fold].append(math.prod(case.cube_shape))
  folds = len({case.fold for case in cases})
  sizes = (map(sum, of_fold.values()), map(len, of_fold.values()))
  return tuple(sum(sorted(size, reverse=True)[:folds]) for size in sizes)


def _cases(refs: Sequence[PatchRef]) -> list[int]:
  return sorted({ref.case_index for ref in refs})
