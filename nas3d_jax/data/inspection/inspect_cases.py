"""Reads every case of a folder and finds what is wrong or strange, in each and between them.

It writes nothing, and goes through to the end whatever it meets. What is wrong ("error") keeps a case from being used;
what is strange ("warning") may be right, and is for a person to judge.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas3d_jax.data.cases.detect_schema import find_schema, say_schema
from nas3d_jax.data.cases.find_and_read import find_cases
from nas3d_jax.data.cases.nifti import exact
from nas3d_jax.data.cases.segmentations import labelled_cases
from nas3d_jax.data.inspection.compare_cases import compare, label_findings
from nas3d_jax.data.inspection.examine_case import Examination, Finding, examine
from nas3d_jax.data.inspection.words import lengths, millimetres
from nas3d_jax.runtime.parallel import each
from nas3d_jax.schema.builtin import SCHEMAS, challenge, of_challenge
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import check_whole

FORMAT = "nas3d_jax.inspection"
VERSION = 1
KINDS: Mapping[str, str] = {
  "files": "error: a file is missing, there twice, or called otherwise",
  "unreadable": "error: a file cannot be read, is truncated, damaged, or no volume",
  "geometry": "error: shape, voxel size, orientation or place differ within a case",
  "not_finite": "error: voxels are NaN, infinite or beyond 1e18",
  "constant": "error: an image is 0, or one value, in every voxel or in all that are not 0",
  "labels": "error: labels outside the schema",
  "outside_box": "error: labelled voxels outside the box of the voxels that are not 0 in all modalities",
  "unlabelled": "warning: no segmentation, where most cases have one",
  "outside_brain": "warning: labelled voxels within that box where all modalities are 0",
  "put_right": "warning: something that reading put right, such as labels rounded by scale factors",
  "background": "warning: most voxels on the faces of an image have one value that is not 0",
  "range": "warning: all but a few voxels of an image lie within a tenth of its range",
  "header": "warning: a header that contradicts itself (sform, qform, pixdim, unit), or whose axes are slanted",
  "scale": "warning: scale factors other than 1 and 0 in a header",
  "shape": "warning: another shape than most cases",
  "spacing": "warning: another voxel size than most cases",
  "orientation": "warning: axes that point elsewhere than those of most cases",
  "affine": "warning: another place in the scanner than most cases",
  "empty_region": "warning: a region without a voxel",
  "duplicate": "warning: the same file, byte for byte, twice in a case or in two cases",
  "intensity": "warning: intensities far from those of the other cases",
}
"""Every kind of finding, with its severity and what it means."""
_MOST_WORKERS = 4
"""Each worker holds a volume and its file, 0.1 GB for BraTS in int16."""


@dataclasses.dataclass(frozen=True)
class Inspection:
  """What was found in a folder of cases.

  Attributes:
    data_dir: the folder.
    schema: what the cases were judged by.
    others: further schemas that they fit as well.
    cases: what was found in each case whose files could be identified, by name.
    labelled: names of the cases that have a segmentation, whatever is wrong with them.
    findings: all that is wrong or strange, those of the data set as a whole first, then by case.
  """

  data_dir: Path
  schema: Schema
  others: tuple[Schema, ...]
  cases: tuple[Examination, ...]
  labelled: frozenset[str]
  findings: tuple[Finding, ...]

  @property
  def ok(self) -> bool:
    """Whether nothing is wrong and nothing strange."""
    return not self.findings

  @property
  def names(self) -> tuple[str, ...]:
    """All cases, with those whose files could not be identified."""
    named = {finding.case for finding in self.findings if finding.case is not None}
    return tuple(sorted(named | {case.name for case in self.cases}))

  @functools.cached_property
  def summary(self) -> dict[str, Any]:
    """The data set in numbers, plain JSON values; see `to_dict` for the keys."""
    errors = {finding.case for finding in self.findings if finding.severity == "error"}
    return {
      "cases": len(self.names),
      "usable": len(set(self.names) - errors),
      "labelled": len(self.labelled),
      "shapes": _census(lengths(case.shape) for case in self.cases if case.shape),
      "spacings": _census(millimetres(case.spacing) for case in self.cases if case.spacing),
      "orientations": _census(case.orientation for case in self.cases if case.orientation),
      "labels": {
        str(value): {
          "meaning": meaning,
          "cases": sum(bool((case.labels or {}).get(value)) for case in self.cases),
          "voxels": sum((case.labels or {}).get(value, 0) for case in self.cases),
        }
        for value, meaning in self.schema.labels
      },
      "findings": _census(finding.kind for finding in self.findings),
    }

  def to_dict(self) -> dict[str, Any]:
    """All of it as plain JSON values.

    Returns:
      "format", "version", "data_dir", "ok"; "schema", as `Schema.to_dict` gives it; "other_schemas", names of those
      that fit as well; "summary": numbers of "cases", "usable" and "labelled" ones, "shapes", "spacings",
      "orientations" and how many cases have each, "labels" by value with their meaning, cases and voxels, and
      "findings" by kind; "findings", a list of "case" (null for the data set), "severity", "kind", "reason" and
      "remedy"; "cases" by name with "shape", "spacing", "affine", "orientation" (null where nothing could be read),
      "checksums" by file, "intensities" of the voxels that are not zero by modality, "labels" by value (null without).
    """
    return {
      "format": FORMAT,
      "version": VERSION,
      "data_dir": str(self.data_dir),
      "ok": self.ok,
      "schema": self.schema.to_dict(),
      "other_schemas": [schema.name for schema in self.others],
      "summary": self.summary,
      "findings": [dataclasses.asdict(finding) for finding in self.findings],
      "cases": {
        case.name: {
          "shape": case.shape and list(case.shape),
          "spacing": case.spacing and list(case.spacing),
          "affine": None if case.affine is None else case.affine.tolist(),
          "orientation": case.orientation,
          "checksums": dict(case.checksums),
          "intensities": {name: dataclasses.asdict(values) for name, values in case.intensities.items()},
          "labels": None if case.labels is None else {exact(v): count for v, count in case.labels.items()},
        }
        for case in self.cases
      },
    }


def inspect_cases(
  data_dir: str | Path, *, schema: str | Path | Schema | None = None, workers: int | None = None
) -> Inspection:
  """Reads every case of a folder, each file once. Progress and the schema go to stderr.

  Args:
    data_dir: the folder of the cases, see `find_cases`.
    schema: as `find_schema` takes it. None finds it out from the names of the files; of schemas with the same names,
      the one that knows the labels of the most cases.
    workers: cases read at once, each a volume in memory; None means one a core, but no more than 4.

  Raises:
    InputError: there is no such folder or schema, the files are of none, or workers is below 1.
  """
  check_whole("workers", 1 if workers is None else workers, 1, below=1 << 10)
  first = find_schema(data_dir, schema, labels=False)
  files, faults = find_cases(data_dir, first)
  cases = each(
    "inspect", functools.partial(examine, schema=first), files, workers or min(_MOST_WORKERS, os.cpu_count() or 1)
  )
  alike = [first]
  if schema is None:
    files_of = first.layout, first.modalities
    challenges = {challenge(case.name) for case in files}
    alike += [
      s for s in SCHEMAS.values()
      if s != first and (s.layout, s.modalities) == files_of and any(of_challenge(s, c) for c in challenges)
    ]
  chosen, others = _choose(alike, cases)
  if chosen != first:
    say_schema(chosen, f"found out from the labels, of {data_dir}")
  findings = [Finding(fault.case, "error", "files", fault.reason, fault.remedy) for fault in faults]
  for case in cases:
    findings += [*case.findings, *label_findings(case, chosen)]
  findings += compare(cases, chosen)
  # The sort is stable: what was found in a case stays in the order in which it was found, errors first.
  findings.sort(key=lambda finding: (finding.case is not None, finding.case or "", finding.severity))
  # Of the other cases the files are known: a segmentation of another name is none.
  at_fault = {fault.case for fault in faults}
  labelled = {case.name for case in cases if case.labelled} | (labelled_cases(data_dir, first) & at_fault)
  return Inspection(Path(data_dir), chosen, others, tuple(cases), frozenset(labelled), tuple(findings))


def _choose(schemas: Sequence[Schema], cases: Sequence[Examination]) -> tuple[Schema, tuple[Schema, ...]]:
  """The schema that knows the labels of the most cases, the first of equals, and those equals."""
  known = [sum(set(case.labels or ()) <= set(schema.label_values) for case in cases) for schema in schemas]
  best, *equals = [schema for schema, count in zip(schemas, known, strict=True) if count == max(known)]
  return best, tuple(equals)


def _census(values: Any) -> dict[str, int]:
  """How often each value is there, the most frequent first."""
  return dict(Counter(values).most_common())
