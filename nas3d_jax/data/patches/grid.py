"""Auto-fitted patches of a volume, and their way back into it (section 2.3). NumPy only."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Sequence

import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.validation import PatchSize, axis_lengths, check_whole

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


def gaussian_weights(patch: PatchSize) -> np.ndarray:
  """Weights of a patch's voxels: a Gaussian about its centre, whose deviation is an eighth of its length on each axis.

  Args:
    patch: length of the patch in voxels, at least 1; one, or one an axis.

  Returns:
    float32 [d, h, w, 1], at most 1, above 0.

  Raises:
    InputError: the length is not a whole number of at least 1.
  """
  lines = []
  for length in axis_lengths(patch):
    check_whole("patch", length, 1, numbers.Integral)
    place = (np.arange(length) - (length - 1) / 2) / (length / 8)
    lines.append(np.exp(-(place**2) / 2))
  d, h, w = lines
  return (d[:, None, None] * h[:, None] * w)[..., None].astype(np.float32)


def patch_grid(shape: Sequence[int], patch: PatchSize, overlap: float = 0.0) -> list[Start]:
  """Starts of all patches of a volume: `patch_starts` along each axis, or `overlapping_starts`.

  Args:
    shape: the three spatial lengths of the volume in voxels.
    patch: length of a patch in voxels; one, or one an axis.
    overlap: least part of a patch's length that neighbours share, below 1; 0 means auto-fitted patches.

  Returns:
    A (d, h, w) start for each patch, in voxels from the volume's first corner; w runs fastest.

  Raises:
    InputError: `shape` has not three lengths, or a length is not a whole number of at least 1.
  """
  if len(shape) != 3:
    raise InputError(f"shape must be the three spatial lengths (D, H, W), got {tuple(shape)}")
  axes = zip(shape, axis_lengths(patch), strict=True)
  if overlap:
    return list(itertools.product(*(overlapping_starts(length, own, overlap) for length, own in axes)))
  return list(itertools.product(*(patch_starts(length, own) for length, own in axes)))


def extract_patch(volume: np.ndarray, start: Start, patch: PatchSize) -> np.ndarray:
  """Copies one patch out of a volume; voxels outside the volume are zero.

  Args:
    volume: [D, H, W, ...] of any dtype. Of a memory map only the patch is read.
    start: first voxel of the patch along D, H and W; negative where it reaches past the volume.
    patch: length of the patch in voxels; one, or one an axis.

  Returns:
    [d, h, w, ...] of the volume's dtype, a copy.
  """
  lengths = axis_lengths(patch)
  inside, place = _overlap(volume.shape[:3], start, lengths)
  values = np.zeros(lengths + volume.shape[3:], volume.dtype)
  values[place] = volume[inside]
  return values


class PatchAverage:
  """Puts patches back into a volume; where they overlap, it takes their mean.

  Args:
    shape: the three spatial lengths of the volume in voxels.
    channels: number of channels of a voxel.
    weights: [d, h, w, 1] weight of each voxel of a patch in that mean, above 0; None means that all count alike.

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
      values: [d, h, w, channels]; what lies outside the volume is left out.

    Raises:
      InputError: `values` is no patch of three axes, or has another number of channels.
    """
    values = np.asarray(values)
    channels = self._total.shape[3]
    if values.ndim != 4 or values.shape[3] != channels:
      raise InputError(f"values must be a patch [d, h, w, {channels}], got shape {values.shape}")
    inside, place = _overlap(self._total.shape[:3], start, values.shape[:3])
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
  shape: Sequence[int], start: Start, patch: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
  """What a patch and the volume share: the slices of the volume, and those of the patch."""
  inside, place = [], []
  for length, begin, own in zip(shape, start, patch, strict=True):
    first = min(max(begin, 0), length)
    stop = max(min(begin + own, length), first)
    inside.append(slice(first, stop))
    place.append(slice(first - begin, stop - begin) if stop > first else slice(0, 0))
  return tuple(inside), tuple(place)
