"""Auto-fitted patches of a volume, and their way back into it (section 2.3). NumPy only."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Sequence

import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.validation import check_whole

Start = tuple[int, int, int]


def patch_starts(brain: int, patch: int) -> tuple[int, ...]:
  """Starts of the auto-fitted patches along one axis (section 2.3).

  As few patches as cover the brain, evenly spaced. What they reach past it is the same at both
  ends, or one voxel more at the far end.

  Args:
    brain: length of the brain cube in voxels, at least 1.
    patch: length of a patch in voxels, at least 1.

  Returns:
    Start of each patch in voxels from the brain cube's edge, ascending; negative where a patch
    reaches past it.

  Raises:
    InputError: a length is not a whole number of at least 1.
  """
  check_whole("brain", brain, 1, numbers.Integral)
  check_whole("patch", patch, 1, numbers.Integral)
  if brain <= patch:
    return (-((patch - brain) // 2),)
  count = -(-brain // patch)
  overlap = (count * patch - brain) // (count - 1)
  excess = count * patch - overlap * (count - 1) - brain
  return tuple(k * (patch - overlap) - excess // 2 for k in range(count))


def overlapping_starts(brain: int, patch: int, overlap: float) -> tuple[int, ...]:
  """Starts of patches along one axis of which neighbours share a part of their length.

  As few as do so, evenly spaced, the first at the brain cube's edge and the last ending at the other. A brain no longer
  than a patch has one, as in `patch_starts`.

  Args:
    brain: length of the brain cube in voxels, at least 1.
    patch: length of a patch in voxels, at least 1.
    overlap: least part of a patch's length that neighbours share, from 0 to below 1.

  Returns:
    Start of each patch in voxels from the brain cube's edge, ascending.

  Raises:
    InputError: a length is not a whole number of at least 1, or the overlap is out of range.
  """
  if not 0 <= overlap < 1:
    raise InputError(f"overlap must be a number from 0 to below 1, got {overlap!r}")
  if brain <= patch:
    return patch_starts(brain, patch)
  check_whole("brain", brain, 1, numbers.Integral)
  check_whole("patch", patch, 1, numbers.Integral)
  # The sum keeps 10 * (1 - 0.9) from being 0.99...
  stride = max(1, int(patch * (1 - overlap) + 1e-9))
  steps = -(-(brain - patch) // stride)
  return tuple(k * (brain - patch) // steps for k in range(steps + 1))


def gaussian_weights(patch: int) -> np.ndarray:
  """Weights of a patch's voxels: a Gaussian about its centre, whose deviation is an eighth of its length.

  Args:
    patch: length of the patch along each axis in voxels, at least 1.

  Returns:
    float32 [patch, patch, patch, 1], at most 1, above 0.

  Raises:
    InputError: the length is not a whole number of at least 1.
  """
  check_whole("patch", patch, 1, numbers.Integral)
  place = (np.arange(patch) - (patch - 1) / 2) / (patch / 8)
  line = np.exp(-(place**2) / 2)
  return (line[:, None, None] * line[:, None] * line)[..., None].astype(np.float32)


def patch_grid(shape: Sequence[int], patch: int, overlap: float = 0.0) -> list[Start]:
  """Starts of all patches of a volume: `patch_starts` along each axis, or `overlapping_starts`.

  Args:
    shape: the three spatial lengths of the volume in voxels.
    patch: length of a patch along each axis in voxels.
    overlap: least part of a patch's length that neighbours share, below 1; 0 means auto-fitted patches.

  Returns:
    A (d, h, w) start for each patch, in voxels from the volume's first corner; w runs fastest.

  Raises:
    InputError: `shape` has not three lengths, or a length is not a whole number of at least 1.
  """
  if len(shape) != 3:
    raise InputError(f"shape must be the three spatial lengths (D, H, W), got {tuple(shape)}")
  if overlap:
    return list(itertools.product(*(overlapping_starts(length, patch, overlap) for length in shape)))
  return list(itertools.product(*(patch_starts(length, patch) for length in shape)))


def extract_patch(volume: np.ndarray, start: Start, patch: int) -> np.ndarray:
  """Copies one patch out of a volume; voxels outside the volume are zero.

  Args:
    volume: [D, H, W, ...] of any dtype. Of a memory map only the patch is read.
    start: first voxel of the patch along D, H and W; negative where it reaches past the volume.
    patch: length of the patch along each axis in voxels.

  Returns:
    [patch, patch, patch, ...] of the volume's dtype, a copy.
  """
  inside, place = _overlap(volume.shape[:3], start, patch)
  values = np.zeros((patch,) * 3 + volume.shape[3:], volume.dtype)
  values[place] = volume[inside]
  return values


class PatchAverage:
  """Puts patches back into a volume; where they overlap, it takes their mean.

  Args:
    shape: the three spatial lengths of the volume in voxels.
    channels: number of channels of a voxel.
    weights: [p, p, p, 1] weight of each voxel of a patch in that mean, above 0; None means that all count alike.

  Raises:
    InputError: `shape` has not three lengths, or a number is not whole and at least 1.
  """

  def __init__(self, shape: Sequence[int], channels: int, weights: np.ndarray | None = None):
    if len(shape) != 3:
      raise InputError(f"shape must be the three spatial lengths (D, H, W), got {tuple(shape)}")
    for name, number in zip(("D", "H", "W", "channels"), (*shape, channels), strict=True):
      check_whole(name, number, 1, numbers.Integral)
    self._total = np.zeros((*shape, channels), np.float32)
    self._count = np.zeros((*shape, 1), np.float32)
    self._weights = weights

  def add(self, start: Start, values: np.ndarray) -> None:
    """Adds one patch.

    Args:
      start: first voxel of the patch along D, H and W, as `patch_grid` gives it.
      values: [patch, patch, patch, channels]; what lies outside the volume is left out.

    Raises:
      InputError: `values` is no cube, or has another number of channels.
    """
    values = np.asarray(values)
    channels = self._total.shape[3]
    if values.ndim != 4 or len(set(values.shape[:3])) != 1 or values.shape[3] != channels:
      raise InputError(f"values must be a patch [p, p, p, {channels}], got shape {values.shape}")
    inside, place = _overlap(self._total.shape[:3], start, values.shape[0])
    if self._weights is None:
      self._total[inside] += values[place]
      self._count[inside] += 1
    else:
      self._total[inside] += (values * self._weights)[place]
      self._count[inside] += self._weights[place]

  def result(self) -> np.ndarray:
    """The mean over all patches added.

    Returns:
      float32 [D, H, W, channels].

    Raises:
      InputError: a voxel lies in none of the patches.
    """
    missing = int(np.count_nonzero(self._count == 0))
    if missing:
      raise InputError(
        f"{missing} of {self._count.size} voxels lie in no patch; "
        "add every patch of patch_grid before result()"
      )
    return self._total / self._count


def _overlap(
  shape: Sequence[int], start: Start, patch: int
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
  """What a patch and the volume share: the slices of the volume, and those of the patch."""
  inside, place = [], []
  for length, begin in zip(shape, start, strict=True):
    first = min(max(begin, 0), length)
    stop = max(min(begin + patch, length), first)
    inside.append(slice(first, stop))
    place.append(slice(first - begin, stop - begin) if stop > first else slice(0, 0))
  return tuple(inside), tuple(place)
