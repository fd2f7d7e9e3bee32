"""Frozen configurations, validated when they are made. No JAX here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from nas3d_jax.errors import InputError

Variant = Literal["paper", "released"]
VARIANTS: tuple[Variant, ...] = ("paper", "released")


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """Size and kind of a network; supernet and derived network share it (section 2.1 of the paper).

  Attributes:
    in_channels: number of modalities, the channels of the input.
    out_channels: number of regions, the channels of the output.
    kernels: kernels a node of the first level, m in the paper; None means `in_channels`.
    nodes: nodes of a cell, n in the paper.
    depth: number of downward cells; there is one upward cell more.
    zoom: factor between two levels; only 2 is defined.
    variant: the squeeze-and-excitation operation "paper" (gate, convolution, group norm, ReLU at every stride) or
      "released" (stride 1 is the gate alone, strided has no ReLU), as the authors' program computes it.

  Raises:
    InputError: a field is out of range.
  """

  in_channels: int = 4
  out_channels: int = 3
  kernels: int | None = None
  nodes: int = 3
  depth: int = 4
  zoom: int = 2
  variant: Variant = "paper"

  def __post_init__(self):
    if self.kernels is None:
      object.__setattr__(self, "kernels", self.in_channels)
    for name, low in (("in_channels", 1), ("out_channels", 1), ("kernels", 1), ("nodes", 1), ("depth", 2)):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(f"{name} must be a whole number of at least {low}, got {value!r}")
    if not isinstance(self.zoom, int) or self.zoom != 2:
      raise InputError(f"zoom must be 2 (the operations change resolution by 2), got {self.zoom!r}")
    if self.variant not in VARIANTS:
      raise InputError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")

  @property
  def multiple(self) -> int:
    """Every spatial length of an input is a multiple of this: 2 ** (depth + 1) voxels."""
    return 2 ** (self.depth + 1)

  def check_patch_size(self, size: int, name: str = "patch_size") -> None:
    """Raises InputError unless a cube of `size` voxels along each axis fits the network."""
    unit = self.multiple
    if isinstance(size, bool) or not isinstance(size, int) or size < unit or size % unit:
      low = max(unit, size // unit * unit) if isinstance(size, int) else unit
      raise InputError(
        f"{name} must be a multiple of {unit} (2 ** (depth + 1)), got {size!r}; use {low} or {low + unit}"
      )

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> NetworkConfig:
    """The inverse of `to_dict`.

    Raises:
      InputError: a field is unknown or out of range.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
      raise InputError(f"network config has unknown fields {unknown}; known are {sorted(known)}")
    return cls(**fields)
