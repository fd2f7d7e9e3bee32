"""Chooses the geometry of a data set from its cases' headers, and brings cases to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from nas3d_jax.data.cases.case_files import CaseFiles, few, of_case
from nas3d_jax.data.cases.find_and_read import RawCase
from nas3d_jax.data.cases.nifti import read_affine
from nas3d_jax.data.conform import conform
from nas3d_jax.errors import InputError
from nas3d_jax.runtime.parallel import each
from nas3d_jax.schema.geometry import Geometry, most_common

_MOST_NAMES = 10


@dataclasses.dataclass(frozen=True)
class CommonGeometry:
  """The geometry of a data set, and those of its cases' files.

  Attributes:
    chosen: orientation and voxel size of all cases.
    found: those of each case's files, by name; without the cases whose header cannot be read.
  """

  chosen: Geometry
  found: Mapping[str, Geometry]

  def __str__(self):
    there = sum(self.chosen.matches(one) for one in self.found.values())
    lines = [f"geometry: {self.chosen}, in which {there} of {len(self.found)} cases are"]
    turned = {name: one.turned(self.chosen.orientation) for name, one in self.found.items()}
    resampled = sorted(name for name, one in turned.items() if not self.chosen.matches(one))
    only = sorted(name for name, one in self.found.items() if one != turned[name] and name not in resampled)
    lines += [f"turned: {_which(only)}"] if only else []
    lines += [f"resampled: {_which(resampled)}"] if resampled else []
    return "\n".join(lines)


def common_geometry(
  cases: Sequence[CaseFiles], orientation: str | None, spacing: Sequence[float] | None, workers: int
) -> CommonGeometry | None:
  """Reads the header of a file of each case and determines the geometry of a data set.

  Args:
    cases: sorted by name.
    orientation: axis codes, see `Geometry`; None means those of the most common geometry, of equals the first.
    spacing: in mm along the axes of that orientation; None means that of the most common geometry.
    workers: headers read at once.

  Returns:
    The geometry; None where no header can be read, which reading the cases will raise.

  Raises:
    InputError: the orientation or spacing is none.
  """
  check_wanted(orientation, spacing)
  read = each("headers", _geometry_of, cases, workers)
  found = {files.name: one for files, one in zip(cases, read, strict=True) if one is not None}
  if not found:
    return None
  chosen = most_common(list(found.values()))
  chosen = chosen if orientation is None else chosen.turned(orientation)
  return CommonGeometry(chosen if spacing is None else Geometry(chosen.orientation, tuple(spacing)), found)


def conform_case(raw: RawCase, geometry: Geometry | None) -> RawCase:
  """Image, labels, affine and spacing of a case in a geometry; itself where it is in it, or where that is None.

  Raises:
    CaseError: it cannot be brought there.
  """
  try:
    conformed = conform(raw.image, raw.affine, geometry)
  except InputError as error:
    raise of_case(raw.files.name, error) from error
  way = conformed.regrid
  if way is None:
    return raw
  labels = None if raw.labels is None else way.labels(raw.labels)
  return dataclasses.replace(raw, image=conformed.image, labels=labels, affine=way.affine, spacing=way.spacing)


def check_wanted(orientation: str | None, spacing: Sequence[float] | None) -> None:
  """Raises InputError unless both are None or can be of a `Geometry`."""
  Geometry("LPS" if orientation is None else orientation, (1, 1, 1) if spacing is None else spacing)


def differs(geometry: Geometry | None, orientation: str | None, spacing: Iterable[float] | None) -> bool:
  """Whether a data set is not in the orientation or spacing that is asked for, where one is."""
  if geometry is None:
    return orientation is not None or spacing is not None
  wanted = Geometry(orientation or geometry.orientation, tuple(spacing or geometry.spacing))
  return not geometry.matches(wanted)


def _which(names: Sequence[str]) -> str:
  """All names, or of many how many and the first."""
  return ", ".join(names) if len(names) <= _MOST_NAMES else f"{len(names)} cases, {few(names)}"


def _geometry_of(files: CaseFiles) -> Geometry | None:
  try:
    return Geometry.of(read_affine(files.images[0]))
  except InputError:
    return None
