"""An inspection for a reader: a table of what is wrong or strange, and the data set in a few lines."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nas3d_jax.data.cases.case_files import few
from nas3d_jax.data.inspection.examine_case import Finding
from nas3d_jax.data.inspection.groups import alike, common_text
from nas3d_jax.data.inspection.inspect_cases import Inspection

_FEW = 3
"""Cases with findings that are alike have a row each up to this many; of more, one row names this many."""
_MOST_ROWS = 10
"""Of one kind; what is left has one row."""
_COLOURS = {"error": "bold red", "warning": "yellow"}


def render(inspection: Inspection) -> RenderableType:
  """What to print: the table, where there is anything in it, and the summary."""
  lines = Text("\n".join(map(_shown, _summary(inspection))), overflow="fold")
  return lines if inspection.ok else Group(findings_table(inspection.findings), lines)


def findings_table(findings: Sequence[Finding]) -> Table:
  """A row a finding, case by case; those that many cases share, or have alike, have one row, at the end."""
  table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
  table.add_column("case", overflow="fold", max_width=24)
  table.add_column("", no_wrap=True)
  table.add_column("what, and what to do", overflow="fold")
  shown: list[tuple[str, Finding]] = []
  shared: list[list[Finding]] = []
  left: list[list[Finding]] = []
  for kind in _by_kind(findings):
    groups = [group for group in alike(kind) if len(group) > _FEW]
    groups = sorted(groups, key=len, reverse=True)
    together = {id(finding) for group in groups for finding in group}
    apart = [finding for finding in kind if id(finding) not in together]
    room = max(_MOST_ROWS - len(groups), 0)
    rest = [finding for group in groups[_MOST_ROWS:] for finding in group]
    # One that is left takes no more room than the line that says so.
    room += len(apart) == room + 1 and not rest
    shared += groups[:_MOST_ROWS]
    shown += [("all cases" if finding.case is None else finding.case, finding) for finding in apart[:room]]
    left += [rest] if (rest := apart[room:] + rest) else []
  places = {id(finding): place for place, finding in enumerate(findings)}
  before = ""
  for name, finding in sorted(shown, key=lambda row: places[id(row[1])]):
    table.add_row(Text(_shown("" if name == before else name)), *_cells(finding))
    before = name
  for group in shared:
    table.add_row(f"{len(group)} cases", *_cells(group[0], f"{few(_names(group), _FEW)}: {common_text(group)}"))
  for rest in left:
    what = dataclasses.replace(rest[0], remedy="--json=FILE writes them all")
    table.add_row(f"{len(rest)} more", *_cells(what, f"{what.kind}: {few(_names(rest), _FEW)}"))
  return table


def _by_kind(findings: Sequence[Finding]) -> list[list[Finding]]:
  """The findings of each severity and kind."""
  kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
  for finding in findings:
    kinds[finding.severity, finding.kind].append(finding)
  return list(kinds.values())


def _names(findings: Sequence[Finding]) -> list[str]:
  return list(dict.fromkeys(finding.case or "all cases" for finding in findings))


def _cells(finding: Finding, reason: str | None = None) -> tuple[Text, Text]:
  text = Text(_shown(finding.reason if reason is None else reason))
  text.append(_shown(f"; {finding.remedy}"), style="dim")
  return Text(finding.severity, style=_COLOURS[finding.severity]), text


def _shown(text: str) -> str:
  """Text as a terminal may have it: names of files may come from anywhere, and hold anything but a slash."""
  return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _summary(inspection: Inspection) -> Iterator[str]:
  summary, schema = inspection.summary, inspection.schema
  yield f"{_count(summary['cases'], 'case')} in {inspection.data_dir}, {summary['labelled']} with a segmentation"
  also = "".join(f", or {other.name}, whose files are called alike" for other in inspection.others)
  yield f"schema {schema.name}{also}: {', '.join(schema.modality_names)}; regions {', '.join(schema.region_names)}"
  for name in ("shapes", "spacings", "orientations"):
    values = [f"{value} in {count}" for value, count in summary[name].items()]
    if len(values) == 1:
      values = [f"{value} in all" for value in summary[name]]
    if values:
      yield f"{name}: {'; '.join(values[:4])}{f'; {len(values) - 4} more' if len(values) > 4 else ''}"
  if summary["labelled"]:
    labels = [f"{value} in {entry['cases']}" for value, entry in summary["labels"].items() if value != "0"]
    yield f"labels: {', '.join(labels)}"
  if inspection.ok:
    yield "nothing is wrong or strange"
    return
  errors = sum(finding.severity == "error" for finding in inspection.findings)
  at_fault = len({finding.case for finding in inspection.findings if finding.case is not None})
  numbers = {"error": errors, "warning": len(inspection.findings) - errors}
  wrong = " and ".join(_count(number, what) for what, number in numbers.items() if number)
  yield f"{wrong} in {_count(at_fault, 'case')}; {summary['usable']} of {summary['cases']} cases can be used"


def _count(number: int, what: str) -> str:
  return f"{number} {what}{'' if number == 1 else 's'}"
