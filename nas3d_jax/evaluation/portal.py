"""Reads the scores that a challenge's portal gave for cases whose truth it keeps.

The table that the BraTS portals send back has one row a case and these columns, of which those of the schema's regions
are read and others passed over:

    Label, Dice_<region>, Sensitivity_<region>, Specificity_<region>, Hausdorff95_<region>

Rows of the portal's own statistics (Mean, StdDev, Median, 25quantile, 75quantile) are left out.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation import metrics
from nas3d_jax.schema.schema import Schema

CASE = "Label"
COLUMNS: Mapping[str, str] = {
  "dice": "Dice", "sensitivity": "Sensitivity", "specificity": "Specificity", "hausdorff95": "Hausdorff95"
}
"""metric -> what its columns begin with."""

_STATISTICS = {"mean", "stddev", "median", "25quantile", "75quantile"}
_NO_NUMBER = {"", "nan", "na", "n/a"}


@dataclasses.dataclass(frozen=True)
class PortalScores:
  """Scores of a set of cases as a portal gave them.

  Attributes:
    schema: names the regions.
    cases: case -> region -> metric -> value, of the paper's four metrics, cases sorted by name; None where the portal
      gave no number.
  """

  schema: Schema
  cases: Mapping[str, Mapping[str, Mapping[str, float | None]]]

  def values(self, region: str, metric: str) -> list[float]:
    """The numbers of one metric, a case each, without the cases that have none."""
    found = (case[region][metric] for case in self.cases.values())
    return [value for value in found if value is not None]


def read_portal(path: str | Path, schema: Schema) -> PortalScores:
  """Reads the table of a portal.

  Args:
    path: a CSV file with the columns named above.
    schema: whose regions to read.

  Raises:
    InputError: the file cannot be read, lacks a column, has a case twice or none at all, or a field is no number.
  """
  path = Path(path)
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      rows = list(csv.DictReader(file, skipinitialspace=True))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f"portal_csv {path} cannot be read ({error}); give the CSV file of the portal") from error
  wanted = {(region, metric): f"{COLUMNS[metric]}_{region}" for region in schema.region_names for metric in COLUMNS}
  present = set(rows[0]) if rows else set()
  missing = [name for name in (CASE, *wanted.values()) if name not in present]
  if missing:
    raise InputError(f"portal_csv {path} lacks the columns {', '.join(missing)}; give the CSV file of a BraTS portal")
  cases: dict[str, dict[str, dict[str, float | None]]] = {}
  for row in rows:
    case = (row[CASE] or "").strip()
    if not case or case.lower() in _STATISTICS:
      continue
    if case in cases:
      raise InputError(f"portal_csv {path} has the case {case!r} twice; give one row a case")
    cases[case] = {
      region: {metric: _number(path, case, wanted[region, metric], row) for metric in metrics.PAPER_METRICS}
      for region in schema.region_names
    }
  if not cases:
    raise InputError(f"portal_csv {path} has no case; give the CSV file of a BraTS portal")
  return PortalScores(schema, dict(sorted(cases.items())))


def _number(path: Path, case: str, column: str, row: Mapping[str, str | None]) -> float | None:
  text = (row[column] or "").strip()
  if text.lower() in _NO_NUMBER:
    return None
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise InputError(f"portal_csv {path}: {column} of case {case!r} must be a number or empty, got {text!r}")
  return value
