"""Amounts as a reader of findings has them."""

from __future__ import annotations


def lengths(shape: tuple[int, ...]) -> str:
  """Lengths of a volume for a reader."""
  return " x ".join(map(str, shape))


def voxels(count: int) -> str:
  """A number of voxels for a reader."""
  return f"{count} voxel{'' if count == 1 else 's'}"


def millimetres(spacing: tuple[float, ...]) -> str:
  """Edge lengths of a voxel for a reader."""
  return " x ".join(f"{length:.4g}" for length in spacing) + " mm"


def number(value: float) -> str:
  """An intensity for a reader."""
  return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
