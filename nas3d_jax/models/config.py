"""Sizes of the networks (section 2.1), checked when they are made, and choices that training and inference share."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, get_args

from nas3d_jax.errors import InputError
from nas3d_jax.models.search_space import PAPER_SPACE, SearchSpace
from nas3d_jax.validation import PatchSize, is_whole, spelled_size

Variant = Literal["paper", "released"]
VARIANTS: tuple[Variant, ...] = ("paper", "released")
Architecture = Literal["searched", "unet3d", "plain_unet"]
Output = Literal["sigmoid", "softmax"]
Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")

# Part of the channels that dropout sets to zero: in the search, in training, in the 3D U-Net.
SEARCH_DROPOUT, TRAIN_DROPOUT, UNET_DROPOUT = 0.1, 0.5, 0.3
MOST: Mapping[str, int] = types.MappingProxyType(
  {"nodes": 32, "depth": 10, "levels": 10, "kernels": 1 << 16, "filters": 1 << 16}
)
"""Upper limits, far beyond what can be trained. A file with a larger number would take for ever to read."""

# The same of patches, of those computed together, and of what computes them.
MOST_PATCH, MOST_BATCH, MOST_DEVICES = 2048, 1 << 16, 1 << 16


class _Size:
  """What the configurations of all networks share.

  Attributes:
    formula: how `multiple` follows from the fields, for error messages.
  """

  formula: ClassVar[str]

  def check_patch_size(self, size: PatchSize, name: str = "patch_size") -> None:
    """Raises InputError unless a patch of this size, one length or one an axis, fits the network."""
    unit = self.multiple
    if isinstance(size, tuple) and len(size) == 3 and all(map(is_whole, size)):
      wrong = [length for length in size if length < unit or length % unit]
      if wrong:
        below = tuple(max(unit, length // unit * unit) for length in size)
        above = tuple(max(unit, -(-length // unit) * unit) for length in size)
        ways = dict.fromkeys(map(spelled_size, (below, above)))
        raise InputError(
          f"{name} must be a multiple of {unit} ({self.formula}) along each axis, got {spelled_size(size)}; use "
          f"{' or '.join(ways)}"
        )
    elif not is_whole(size, unit) or size % unit:
      low = max(unit, size // unit * unit) if is_whole(size) else unit
      raise InputError(
        f"{name} must be a multiple of {unit} ({self.formula}), got {size!r}; use {low} or {low + unit}"
      )

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON; output and space where they are not the paper's, which need no name."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    if fields["output"] == "sigmoid":
      del fields["output"]
    if (space := fields.pop("space", PAPER_SPACE)) != PAPER_SPACE:
      fields["space"] = space.to_dict()
    return fields

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> Self:
    """The inverse of `to_dict`.

    Raises:
      InputError: a field is unknown or out of range.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - known)
    if unknown:
      raise InputError(f"network config has unknown fields {unknown}; known are {sorted(known)}")
    return cls(**fields | ({"space": SearchSpace.from_dict(fields["space"])} if "space" in fields else {}))


@dataclasses.dataclass(frozen=True)
class NetworkConfig(_Size):
  """Size and variant of a supernet and of the networks derived from it (section 2.1).

  Attributes:
    in_channels: number of modalities, the channels of the input.
    out_channels: number of regions, the channels of the output.
    kernels: m in the paper: P0 has m n channels, a node of downward cell i has m 2^i (i = 1, 2, ...). None means
      `in_channels`.
    nodes: nodes of a cell, n in the paper.
    depth: number of downward cells; there is one upward cell more.
    zoom: factor between the lengths of two levels; only 2 is defined.
    variant: of the squeeze-and-excitation operation. "paper": gate, convolution, group norm, ReLU at every stride.
      "released", as in the authors' program: at stride 1 the gate alone, strided without ReLU.
    output: "sigmoid": a probability for each region by itself, as in the paper; "softmax": for regions that exclude
      each other, and the background, whose logit is 0.
    space: candidate operations of the supernet, of which a derived network has some.

  Raises:
    InputError: a field is out of range.
  """

  architecture: ClassVar[Architecture] = "searched"
  formula: ClassVar[str] = "2 ** (depth + 1)"

  in_channels: int = 4
  out_channels: int = 3
  kernels: int | None = None
  nodes: int = 3
  depth: int = 4
  zoom: int = 2
  variant: Variant = "paper"
  output: Output = "sigmoid"
  space: SearchSpace = PAPER_SPACE

  def __post_init__(self):
    _check_output(self.output)
    if not isinstance(self.space, SearchSpace):
      raise InputError(f"space must be a SearchSpace, got {self.space!r:.100}")
    if self.kernels is None:
      object.__setattr__(self, "kernels", self.in_channels)
    _check_whole(self, in_channels=1, out_channels=1, kernels=1, nodes=1, depth=2)
    if not isinstance(self.zoom, int) or self.zoom != 2:
      raise InputError(f"zoom must be 2 (the operations change resolution by 2), got {self.zoom!r}")
    if self.variant not in VARIANTS:
      raise InputError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")

  @property
  def multiple(self) -> int:
    """Every spatial length of an input is a multiple of this: 2 ** (depth + 1) voxels."""
    return 2 ** (self.depth + 1)

  def cell_channels(self, cell: str) -> int:
    """Channels of a node of a cell, "down_0", "down_1", ..., "up_0", ... (section 2.1)."""
    kind, level = cell.split("_")
    return self.kernels * 2 ** (int(level) + 1 if kind == "down" else self.depth - int(level))


@dataclasses.dataclass(frozen=True)
class UNetConfig(_Size):
  """Size of the hand-designed 3D U-Net, see `UNet3D`.

  Attributes:
    in_channels: number of modalities, the channels of the input.
    out_channels: number of regions, the channels of the output.
    filters: channels of the first level; each level below has twice as many.
    levels: number of resolutions, with that of the input.
    output: as in `NetworkConfig`.

  Raises:
    InputError: a field is out of range.
  """

  architecture: ClassVar[Architecture] = "unet3d"
  formula: ClassVar[str] = "2 ** (levels - 1)"

  in_channels: int = 4
  out_channels: int = 3
  filters: int = 16
  levels: int = 5
  output: Output = "sigmoid"

  def __post_init__(self):
    _check_output(self.output)
    _check_whole(self, in_channels=1, out_channels=1, filters=1, levels=2)

  @property
  def multiple(self) -> int:
    """Every spatial length of an input is a multiple of this: 2 ** (levels - 1) voxels."""
    return 2 ** (self.levels - 1)


@dataclasses.dataclass(frozen=True)
class PlainUNetConfig(UNetConfig):
  """Size of the U-Net that nnU-Net plans, see `PlainUNet`; the fields are those of `UNetConfig`.

  Raises:
    InputError: a field is out of range.
  """

  architecture: ClassVar[Architecture] = "plain_unet"


CONFIGS: Mapping[str, type[NetworkConfig] | type[UNetConfig]] = types.MappingProxyType(
  {config.architecture: config for config in (NetworkConfig, UNetConfig, PlainUNetConfig)}
)
"""The configuration of each architecture."""


def _check_output(output: Any) -> None:
  if output not in get_args(Output):
    raise InputError(f"output must be one of {', '.join(get_args(Output))}, got {output!r}")


def _check_whole(config: Any, **least: int) -> None:
  """Raises InputError unless each named field is a whole number from its least value to its limit."""
  for name, low in least.items():
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
      raise InputError(f"{name} must be a whole number of at least {low}, got {value!r}")
    if value > (most := MOST.get(name, 1 << 16)):
      raise InputError(f"{name} must be at most {most}, got {value!r}")
