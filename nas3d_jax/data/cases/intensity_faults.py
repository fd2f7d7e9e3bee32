"""What keeps the intensities of a modality from being used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_INTENSITY = 1e18
"""Beyond what any scanner writes; the square, of which deviations are made, still fits single precision."""
_LEAST_RANGE = 1e-30
"""Equation 2 divides by the range, in single precision."""


def intensity_fault(name: str, inside: NDArray, size: int) -> tuple[str, str, str] | None:
  """Kind ("not_finite" or "constant"), reason and remedy where a modality cannot be scaled by equations 1 and 2.

  Args:
    name: of the modality.
    inside: its voxels that are not zero, flat, of any real type.
    size: the number of all its voxels.

  Returns:
    None where the intensities can be used.
  """
  remedy = "put the right volume there, or leave the case out"
  if not inside.size:
    return "constant", f"{name} is 0 in every voxel", remedy
  low, high = float(inside.min()), float(inside.max())
  if not (low >= -MOST_INTENSITY and high <= MOST_INTENSITY):  # NaN fails both
    reason = f"{name} has {_unusable(inside)}"
    return "not_finite", reason, "export the volume again, or replace them by 0"
  if low == high:
    where = "in every voxel" if inside.size == size else "in every voxel that is not zero"
    return "constant", f"{name} is {low:g} {where}", remedy
  if np.float32(high) - np.float32(low) < _LEAST_RANGE:
    reason = f"{name} is from {low!r} to {high!r}, between which single precision has nothing"
    return "constant", reason, "shift or scale its intensities, or leave the case out"
  return None


def _unusable(inside: NDArray) -> str:
  """How many voxels are NaN, infinite or too large, and which of these."""
  nans, infinite = np.isnan(inside), np.isinf(inside)
  large = (np.abs(inside) > MOST_INTENSITY) & ~infinite
  kinds = {"NaN": nans, "infinite": infinite, f"beyond {MOST_INTENSITY:g}": large}
  count = int((nans | infinite | large).sum())
  which = " or ".join(kind for kind, found in kinds.items() if found.any())
  return f"{count} voxel{'' if count == 1 else 's'} that {'is' if count == 1 else 'are'} {which}"
