"""Finds what is strange about a case among the others of its data set.

Most cases means more than half. Where no value of a shape, voxel size, orientation or place is that of most, this is
one finding, of the data set.

Intensities are far from the rest where the median or the 99th percentile of a modality's voxels that are not zero lies
more than 5 robust deviations from the median over the cases, in logarithms: a robust deviation is 1.4826 times the
median absolute deviation, and 0.1 (a tenth) at the least. It takes 5 cases with a positive value; one that is not
positive is far from those. Where less than half are positive, as after a normalisation, there is no finding.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from nas3d_jax.data.cases.find_and_read import AFFINE_TOLERANCE
from nas3d_jax.data.cases.nifti import exact
from nas3d_jax.data.inspection.examine_case import Examination, Finding
from nas3d_jax.data.inspection.words import lengths, millimetres, number, voxels
from nas3d_jax.schema.schema import Schema

FEWEST_CASES = 5
DEVIATIONS = 5.0
LEAST_DEVIATION = 0.1
_STRANGER = "see that it belongs to this data set"
_STATISTICS = {"median": "median", "percentile99": "99th percentile"}


def label_findings(case: Examination, schema: Schema) -> Iterator[Finding]:
  """What is wrong or strange about the labels of one case."""
  if case.labels is None:
    return
  strange = {value: count for value, count in case.labels.items() if value not in schema.label_values}
  if strange:
    some = ", ".join(map(exact, list(strange)[:5])) + (", ..." if len(strange) > 5 else "")
    known = ", ".join(map(str, schema.label_values))
    # Of many strange values only the first are counted one by one.
    number = voxels(case.label_voxels - sum(case.labels.values()) + sum(strange.values()))
    reason = f"{number} with labels ({some}) that schema {schema.name} does not have ({known})"
    yield Finding(case.name, "error", "labels", reason, "correct the labels, or give the schema that fits, --schema")
  empty = [region.name for region in schema.regions if not any(case.labels.get(value) for value in region.labels)]
  if empty:
    what = f"region {empty[0]} is" if len(empty) == 1 else f"regions {', '.join(empty)} are"
    remedy = "right where the patient has none of it; else correct the labels"
    yield Finding(case.name, "warning", "empty_region", f"{what} empty", remedy)


def compare(cases: Sequence[Examination], schema: Schema) -> list[Finding]:
  """What is strange between cases."""
  read = [case for case in cases if case.affine is not None]
  return [
    *_unlabelled(cases),
    *_unlike("shape", "shape", read, lambda case: case.shape, lambda case: lengths(case.shape)),
    *_unlike("spacing", "voxel size", read, _rounded_spacing, lambda case: millimetres(case.spacing)),
    *_unlike("orientation", "orientation", read, lambda case: case.orientation, lambda case: case.orientation),
    *_affines(read),
    *_duplicates(cases),
    *(finding for name in schema.modality_names for finding in _intensities(name, cases)),
  ]


def _unlabelled(cases: Sequence[Examination]) -> Iterator[Finding]:
  missing = [case.name for case in cases if not case.labelled]
  if 2 * len(missing) < len(cases):
    for name in missing:
      reason = f"no segmentation, which {len(cases) - len(missing)} of {len(cases)} cases have"
      yield Finding(name, "warning", "unlabelled", reason, "add it, if there is one")


def _unlike(
  kind: str,
  what: str,
  cases: Sequence[Examination],
  key: Callable[[Examination], Hashable],
  words: Callable[[Examination], str],
) -> Iterator[Finding]:
  """Cases whose value is not that of most."""
  groups: dict[Hashable, list[Examination]] = defaultdict(list)
  for case in cases:
    groups[key(case)].append(case)
  if len(groups) < 2:
    return
  most = max(groups.values(), key=len)
  if 2 * len(most) <= len(cases):
    frequent = sorted(groups.values(), key=len, reverse=True)[:3]
    some = "; ".join(f"{words(group[0])} in {len(group)}" for group in frequent)
    more = f"; and {len(groups) - 3} others" if len(groups) > 3 else ""
    reason = f"the cases differ in {what}: {some}{more}"
    yield Finding(None, "warning", kind, reason, "see that they belong together")
    return
  for group in groups.values():
    for case in group if group is not most else ():
      reason = f"{what} {words(case)}, but {words(most[0])} in {len(most)} of {len(cases)} cases"
      yield Finding(case.name, "warning", kind, reason, _STRANGER)


def _rounded_spacing(case: Examination) -> tuple[float, ...]:
  return tuple(round(length, 3) for length in case.spacing)


def _affines(cases: Sequence[Examination]) -> Iterator[Finding]:
  """Of the cases that are else alike, those that lie elsewhere than most; silent where every one lies elsewhere."""
  if not cases:
    return
  alike = Counter((case.shape, _rounded_spacing(case), case.orientation) for case in cases).most_common(1)[0][0]
  same = [case for case in cases if (case.shape, _rounded_spacing(case), case.orientation) == alike]
  places = Counter(tuple(np.round(case.affine, 2).ravel().tolist()) for case in same)
  place, count = places.most_common(1)[0]
  if 2 * count <= len(cases):
    return
  usual = next(case.affine for case in same if tuple(np.round(case.affine, 2).ravel().tolist()) == place)
  for case in same:
    if not np.allclose(case.affine, usual, rtol=0, atol=10 * AFFINE_TOLERANCE):
      one, other = (", ".join(f"{x:.4g}" for x in affine[:3, 3]) for affine in (case.affine, usual))
      reason = f"the first voxel is at ({one}) mm, but at ({other}) in {count} of {len(cases)} cases"
      if one == other:
        reason = f"the axes are turned against those of {count} of {len(cases)} cases"
      yield Finding(case.name, "warning", "affine", reason, _STRANGER)


def _duplicates(cases: Sequence[Examination]) -> Iterator[Finding]:
  """Files with the same bytes: a finding of the case that comes later."""
  first: dict[str, tuple[str, str]] = {}
  found: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
  for case in cases:
    for file, checksum in case.checksums.items():
      other, name = first.setdefault(checksum, (case.name, file))
      if (other, name) != (case.name, file):
        found[case.name, other].append((file, name))
  for (case, other), pairs in found.items():
    some = ", ".join(f"{file} is {name}" for file, name in pairs[:2]) + (", ..." if len(pairs) > 2 else "")
    where = "" if case == other else f" of {other}"
    reason = f"{some}{where}, byte for byte"
    yield Finding(case, "warning", "duplicate", reason, "put the right file there, or leave one out")


def _intensities(modality: str, cases: Sequence[Examination]) -> Iterator[Finding]:
  known = [case for case in cases if modality in case.intensities]
  strange: dict[str, list[str]] = defaultdict(list)
  sides: dict[str, set[str]] = defaultdict(set)
  for field, name in _STATISTICS.items():
    values = np.asarray([getattr(case.intensities[modality], field) for case in known], float)
    limits = intensity_limits(values)
    for case, value in zip(known, values.tolist(), strict=True):
      if limits is not None and not limits[0] <= value <= limits[1]:
        strange[case.name].append(f"{name} {number(value)} instead of {number(limits[0])} to {number(limits[1])}")
        sides[case.name].add("lower" if value < limits[0] else "higher")
  for case, found in strange.items():
    how = f"far {sides[case].pop()} than" if len(sides[case]) == 1 else "far from"
    reason = f"intensities of {modality} are {how} those of the other cases: {', '.join(found)}"
    yield Finding(case, "warning", "intensity", reason, "see that it is the right image, in the same units")


def intensity_limits(values: Any) -> tuple[float, float] | None:
  """Between which values an intensity is like those of the other cases; None where too few are positive.

  Args:
    values: float [cases], one statistic of one modality.
  """
  positive = np.log(values[values > 0])
  if len(positive) < FEWEST_CASES or 2 * len(positive) < len(values):
    return None
  middle = float(np.median(positive))
  deviation = max(1.4826 * float(np.median(np.abs(positive - middle))), LEAST_DEVIATION)
  reach = min(DEVIATIONS * deviation, 500.0)  # what exp can take, with any single-precision value in the middle
  return math.exp(middle - reach), math.exp(middle + reach)
