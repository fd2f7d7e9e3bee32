"""The result of an evaluation: the scores of every case, their files and their table.

    <out>/scores.csv     one row per case and region: case, region, and one column per metric
    <out>/scores.json    the same in full precision, with the summary, the conventions, the tolerance of the surface
                         Dice, the schema, the versions and the checksum of every file that was read
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.metadata
import io
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from nas3d_jax.errors import InputError, Unreadable
from nas3d_jax.evaluation import metrics
from nas3d_jax.files.atomic import write_whole
from nas3d_jax.files.run_layout import SCORES_CSV, SCORES_JSON
from nas3d_jax.files.strict_json import parse_json, read_file
from nas3d_jax.schema.schema import Schema

FORMAT = "nas3d_jax.scores"
VERSION = 2
"""Another form of the file, or another meaning of a metric, takes another version."""
INPUTS = ("prediction", "truth")

RegionMetrics = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Scores:
  """Scores of a set of cases.

  Attributes:
    schema: names the regions.
    cases: case -> region -> metric -> value, cases sorted by name; units as `metrics.score` gives.
    checksums: case -> "prediction" and "truth" -> SHA-256 (hex) of the file.
    tolerance: of the surface Dice, in mm.
  """

  schema: Schema
  cases: Mapping[str, RegionMetrics]
  checksums: Mapping[str, Mapping[str, str]]
  tolerance: float = metrics.TOLERANCE

  @functools.cached_property
  def summary(self) -> dict[str, dict[str, dict[str, float]]]:
    """Region -> metric -> statistic -> value over all cases; see `metrics.summarize`."""
    return {
      region: {
        metric: metrics.summarize(case[region][metric] for case in self.cases.values())
        for metric in metrics.METRICS
      }
      for region in self.schema.region_names
    }

  def to_csv(self) -> str:
    """One row per case and region, six decimals, for spreadsheets and data frames."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["case", "region", *metrics.METRICS])
    for case, regions in self.cases.items():
      for region, values in regions.items():
        rows.writerow([case, region, *(f"{values[metric]:.6f}" for metric in metrics.METRICS)])
    return text.getvalue()

  def to_dict(self) -> dict[str, Any]:
    """All of it as plain values, for JSON."""
    return {
      "format": FORMAT,
      "version": VERSION,
      "conventions": metrics.CONVENTIONS,
      "tolerance": self.tolerance,
      "schema": self.schema.to_dict(),
      "summary": self.summary,
      "cases": {
        case: {"scores": regions, "checksums": self.checksums[case]}
        for case, regions in self.cases.items()
      },
      "versions": {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
      },
    }

  def write(self, out: str | Path) -> None:
    """Writes both files into a folder, each whole or not at all; replaces those of before."""
    Path(out).mkdir(parents=True, exist_ok=True)
    text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
    write_whole(Path(out) / SCORES_JSON, text)
    self.write_csv(out)

  def write_csv(self, out: str | Path) -> None:
    """Writes `scores.csv` alone, whole or not at all."""
    write_whole(Path(out) / SCORES_CSV, self.to_csv())

  @classmethod
  def load(cls, out: str | Path) -> Scores:
    """Reads `scores.json` of a folder and checks every field; the summary is worked out again.

    Raises:
      InputError: there is no such file, or it holds no scores, is of another version or damaged.
    """
    path = Path(out) / SCORES_JSON
    try:
      content = parse_json(read_file(path, "evaluate first, or give another folder"))
    except Unreadable:
      raise
    except InputError as error:
      if not path.exists():
        raise
      raise InputError(f"{path} is no JSON ({error}); evaluate with overwrite") from error
    found = tuple(content.get(key) for key in ("format", "version")) if _is_map(content) else None
    if found != (FORMAT, VERSION):
      raise InputError(
        f"{path} must be of format {FORMAT} version {VERSION}, got {found}; evaluate with overwrite (version 1 had the "
        "paper's four metrics alone)"
      )
    try:
      return cls._from_dict(content)
    except InputError as error:
      raise InputError(f"{path} is damaged: {error}; evaluate with overwrite") from error

  @classmethod
  def _from_dict(cls, content: Mapping[str, Any]) -> Scores:
    schema = Schema.from_dict(content.get("schema"))
    records = content.get("cases")
    if not _is_map(records) or not records:
      raise InputError("it has no cases")
    for case, record in records.items():
      if not (_is_map(record) and set(record) == {"scores", "checksums"}):
        raise InputError(f"case {case!r} must have the fields checksums and scores only")
      scores, checksums = record["scores"], record["checksums"]
      if not (_is_map(checksums) and set(checksums) == set(INPUTS)):
        raise InputError(f"checksums of case {case!r} must be of {' and '.join(INPUTS)}")
      if not all(isinstance(value, str) and len(value) == 64 for value in checksums.values()):
        raise InputError(f"checksums of case {case!r} are no SHA-256")
      if not (_is_map(scores) and tuple(scores) == schema.region_names):
        raise InputError(f"scores of case {case!r} must be of {', '.join(schema.region_names)}")
      if not all(_is_row(values) for values in scores.values()):
        raise InputError(f"scores of case {case!r} must be numbers: {', '.join(metrics.METRICS)}")
    return cls(
      schema,
      {case: record["scores"] for case, record in records.items()},
      {case: record["checksums"] for case, record in records.items()},
      metrics.check_tolerance(content.get("tolerance")),
    )


def summary_table(scores: Scores) -> Table:
  """The summary as a table to print: a row per region and metric, a column per statistic."""
  count = len(scores.cases)
  table = Table(
    title=f"Scores of {count} case{'s' if count > 1 else ''}, surface Dice at {scores.tolerance:g} mm",
    caption=metrics.CONVENTIONS,
    caption_justify="left",
    # Within the 80 columns of a terminal.
    box=box.SIMPLE_HEAD,
    padding=(0, 0),
    pad_edge=False,
  )
  columns = [name for name in metrics.STATISTICS if name != "count"]
  table.add_column("region")
  table.add_column("metric")
  for name in columns:
    table.add_column(name, justify="right")
  for region, by_metric in scores.summary.items():
    for metric, values in by_metric.items():
      last = metric == metrics.METRICS[-1]
      unit = metrics.UNITS.get(metric)
      digits = 2 if unit else 4
      cells = [f"{values[name]:.{digits}f}" for name in columns]
      table.add_row(region, label(metric), *cells, end_section=last)
  return table


def label(metric: str) -> str:
  """A metric with its unit, as tables show it."""
  unit = metrics.UNITS.get(metric)
  return f"{metric} ({unit})" if unit else metric


def _is_map(value: Any) -> bool:
  return isinstance(value, Mapping)


def _is_row(values: Any) -> bool:
  """Whether it is a finite number for each metric."""
  return (
    _is_map(values)
    and tuple(values) == metrics.METRICS
    and all(type(v) in (int, float) and abs(v) <= sys.float_info.max for v in values.values())
  )
