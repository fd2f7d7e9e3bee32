"""Cases held on the device, and patches cut out of them there.

The voxels of all cases stand one behind the other in one array, so that cases of any size share a program. A patch is
one gather; it is that of `PatchSource`, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.validation import PatchSize, axis_lengths

if TYPE_CHECKING:
  from nas3d_jax.data.patches.host_batches import PatchRef


class Resident(NamedTuple):
  """Cases on the device.

  Attributes:
    image: [V, M], voxels of all cases; int16 where all are, else float32.
    label: uint8 [V].
    first: int32 [cases], where the voxels of a case begin.
    shape: int32 [cases, 3], lengths of its brain cube.
    low: float32 [cases, M], least non-zero intensity.
    high: float32 [cases, M], greatest.
    patches: int32 [patches, 4]: case, and start along D, H and W.
  """

  image: jax.Array
  label: jax.Array
  first: jax.Array
  shape: jax.Array
  low: jax.Array
  high: jax.Array
  patches: jax.Array


def resident_bytes(dataset: Dataset, refs: Sequence[PatchRef]) -> int:
  """Bytes that the cases of these patches take on the device."""
  images = [dataset.image(dataset.cases[index]) for index in _cases(refs)]
  wide = max((image.dtype.itemsize for image in images), default=0)
  return sum(image.size * wide + image.size // image.shape[3] for image in images)


def reside(dataset: Dataset, refs: Sequence[PatchRef]) -> Resident:
  """Copies the cases of these patches to the device.

  Args:
    dataset: where they lie.
    refs: the patches, as `host_batches.patch_index` lists them.
  """
  rows = {index: row for row, index in enumerate(_cases(refs))}
  cases = [dataset.cases[index] for index in rows]
  images, labels = [dataset.image(case) for case in cases], [dataset.labels(case) for case in cases]
  voxels = np.cumsum([0, *(label.size for label in labels)])
  dtype = np.result_type(*(image.dtype for image in images))
  image, label = np.empty((voxels[-1], images[0].shape[3]), dtype), np.empty(voxels[-1], np.uint8)
  for start, stop, own_image, own_label in zip(voxels, voxels[1:], images, labels, strict=False):
    image[start:stop] = own_image.reshape(-1, image.shape[1])
    label[start:stop] = own_label.ravel()
  return Resident(
    image=jnp.asarray(image),
    label=jnp.asarray(label),
    first=jnp.asarray(voxels[:-1], jnp.int32),
    shape=jnp.asarray([label.shape for label in labels], jnp.int32),
    low=jnp.asarray([case.low for case in cases], jnp.float32),
    high=jnp.asarray([case.high for case in cases], jnp.float32),
    patches=jnp.asarray([(rows[ref.case_index], *ref.start) for ref in refs], jnp.int32),
  )


def cut(resident: Resident, indices: jax.Array, patch_size: PatchSize) -> dict[str, jax.Array]:
  """A batch of patches, inside a computation.

  Args:
    resident: the cases.
    indices: int32 [N], of the patches in `resident.patches`.
    patch_size: length of a patch in voxels; one, or one an axis.

  Returns:
    image [N, D, H, W, M] and label [N, D, H, W] in the stored types, low and high [N, M], as `prepare_batch` takes
    them; what lies outside a brain cube is zero.
  """
  rows = resident.patches[indices]
  case, starts = rows[:, 0], rows[:, 1:]
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


def _cases(refs: Sequence[PatchRef]) -> list[int]:
  return sorted({ref.case_index for ref in refs})
