"""The brain in a volume: where it is, the cube about it, the intensities in it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from nas3d_jax.errors import InputError

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]
Cube = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def brain_of(image: NDArray) -> NDArray[np.bool_]:
  """Where an image [D, H, W, M] is not zero in every channel: [D, H, W]."""
  brain = image[..., 0] != 0
  for channel in range(1, image.shape[3]):
    brain |= image[..., channel] != 0
  return brain


def brain_cube(image: np.ndarray) -> Cube:
  """The box of the voxels that are non-zero in any modality, without margin (section 2.3).

  Args:
    image: [D, H, W, M] intensities.

  Returns:
    (start, stop) along D, H, W, in voxels.

  Raises:
    InputError: every voxel is zero.
  """
  brain = brain_of(image)
  if not brain.any():
    raise InputError("image must have a voxel that is not zero, got zeros alone; check the files")
  return tuple((span.start, span.stop) for span in box_of(brain))


def intensity_range(image: np.ndarray, missing: Collection[int] = ()) -> tuple[np.ndarray, np.ndarray]:
  """Least and greatest intensity of each modality over its non-zero voxels (eq. 2).

  Args:
    image: [D, H, W, M] intensities; a voxel counts for modality m where image[..., m] is not zero.
    missing: modalities that may be zero everywhere; their range is 0 to 0.

  Returns:
    float32 [M], float32 [M].

  Raises:
    InputError: another modality is zero everywhere.
  """
  low, high = [], []
  for channel in range(image.shape[-1]):
    values = image[..., channel]
    values = np.zeros(1) if channel in missing else values[values != 0]
    if not values.size:
      raise InputError(f"image must not be zero everywhere, but modality {channel} is")
    low.append(values.min())
    high.append(values.max())
  return np.asarray(low, np.float32), np.asarray(high, np.float32)


def box_of(mask: Mask) -> Box:
  """The smallest box that holds the mask; an empty one for an empty mask."""
  spans = []
  for axis in range(mask.ndim):
    found = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
    spans.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0))
  return tuple(spans)
