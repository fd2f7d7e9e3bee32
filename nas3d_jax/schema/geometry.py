"""Geometry of a data set: orientation of the axes and size of the voxels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nibabel import orientations
from nibabel.affines import voxel_sizes
from numpy.typing import ArrayLike

from nas3d_jax.errors import InputError
from nas3d_jax.validation import is_number

TOLERANCE = 1e-3
"""Voxel sizes are equal when they differ by no more than this part."""

_AXES = ("RL", "AP", "SI")


def spacing_of(lengths: Sequence[str | float]) -> tuple[float, ...]:
  """A voxel size as a command has it, its lengths in mm as numbers.

  Raises:
    InputError: one is no number.
  """
  try:
    return tuple(map(float, lengths))
  except (TypeError, ValueError):
    text = ",".join(map(str, lengths))
    raise InputError(f"spacing must be three lengths in mm, each above 0, got {text:.100}; BraTS is 1,1,1") from None


def same_length(one: float, other: float) -> bool:
  """Whether two edges of voxels are equal up to `TOLERANCE`."""
  return abs(one / other - 1) <= TOLERANCE


@dataclasses.dataclass(frozen=True)
class Geometry:
  """Which way the axes of a volume run, and how large its voxels are.

  Attributes:
    orientation: where each axis runs to with growing index, to the patient's R(ight) or L(eft), A(nterior) or
      P(osterior), S(uperior) or I(nferior): the axes that come closest, as nibabel's `aff2axcodes` names them. BraTS
      volumes, whose affine is diag(-1, -1, 1) in millimetres of RAS, are "LPS".
    spacing: edge lengths of a voxel along these axes, in mm.

  Raises:
    InputError: the orientation does not name each of the three directions once, or a length is not above 0.
  """

  orientation: str
  spacing: tuple[float, float, float]

  def __post_init__(self):
    letters = self.orientation
    known = isinstance(letters, str) and len(letters) == 3
    if not known or sorted(sum(code in pair for code in letters) for pair in _AXES) != [1, 1, 1]:
      raise InputError(
        f"orientation must be three letters, one each of R or L, A or P, S or I, got {letters!r}; BraTS is LPS"
      )
    lengths = self.spacing
    if isinstance(lengths, str) or not isinstance(lengths, Sequence) or len(lengths) != 3 or not all(
      is_number(n) and n > 0 for n in lengths
    ):
      raise InputError(f"spacing must be three lengths in mm, each above 0, got {lengths!r}; BraTS is 1,1,1")
    object.__setattr__(self, "spacing", tuple(float(n) for n in lengths))

  @classmethod
  def of(cls, affine: ArrayLike) -> Geometry:
    """The geometry of a volume, from its affine: 4x4, voxel indices to millimetres.

    Raises:
      InputError: the affine cannot be inverted.
    """
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
      raise InputError(f"affine must be 4x4, finite and invertible, got {affine.tolist()!r:.300}; check the header")
    codes = orientations.aff2axcodes(affine)
    if None in codes:
      raise InputError(f"affine has no three axes, got {affine[:3].tolist()}; check the header")
    return cls("".join(codes), tuple(voxel_sizes(affine).tolist()))

  def matches(self, other: Geometry) -> bool:
    """Whether both are equal up to `TOLERANCE`, so that volumes of one need no change to be in the other."""
    return self.orientation == other.orientation and all(map(same_length, self.spacing, other.spacing))

  def turned(self, orientation: str) -> Geometry:
    """The same voxels with the axes named in another orientation."""
    target = Geometry(orientation, self.spacing)
    pairs = [next(pair for pair in _AXES if code in pair) for code in self.orientation]
    lengths = [self.spacing[next(i for i, pair in enumerate(pairs) if code in pair)] for code in orientation]
    return dataclasses.replace(target, spacing=tuple(lengths))

  def __str__(self):
    return f"{self.orientation}, {' x '.join(f'{n:g}' for n in self.spacing)} mm"

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON."""
    return {"orientation": self.orientation, "spacing": [*self.spacing]}

  @classmethod
  def from_dict(cls, fields: Any) -> Geometry:
    """The inverse of `to_dict`.

    Raises:
      InputError: a field is missing, unknown or wrong.
    """
    if not isinstance(fields, Mapping) or set(fields) != {"orientation", "spacing"}:
      raise InputError(f"geometry must have exactly the fields orientation and spacing, got {fields!r:.200}")
    return cls(**fields)


def most_common(found: Sequence[Geometry]) -> Geometry:
  """The geometry that most volumes have, of equals the one that comes first; lengths are rounded to 5 digits.

  Args:
    found: the geometry of each volume, at least one.
  """
  kinds: list[Geometry] = []
  counts: list[int] = []
  for one in found:
    place = next((i for i, kind in enumerate(kinds) if kind.matches(one)), len(kinds))
    if place == len(kinds):
      kinds.append(one)
      counts.append(0)
    counts[place] += 1
  chosen = kinds[counts.index(max(counts))]
  return dataclasses.replace(chosen, spacing=tuple(float(f"{n:.5g}") for n in chosen.spacing))
