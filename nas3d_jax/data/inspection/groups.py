"""Groups findings that are alike, so that what many cases have is said once.

Findings are alike that have one severity, one kind and one text, but for the name of their own case and for amounts:
"median 63 instead of 82" and "median 58 instead of 82" are alike, and become "median 58 to 63 instead of 82".
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence

from nas3d_jax.data.inspection.examine_case import Finding

CASE = "<case>"
"""Stands for the name of its own case in the text of a group."""

# Not the digits of a name, as in t1, P_2.nii.gz or GLI-00001-000.
_NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?%?(?![\w-]|\.\w)")
_BRACKETS = re.compile(r"\([^()]*\)")
_NAMES = frozenset({"labels"})
"""Kinds whose numbers in brackets are no amounts, but names."""


def alike(findings: Sequence[Finding]) -> list[list[Finding]]:
  """The findings, those that are alike together; groups, and findings in them, in the order of the first."""
  found: dict[tuple[object, ...], list[Finding]] = defaultdict(list)
  for finding in findings:
    found[finding.case is None, finding.severity, finding.kind, finding.remedy, *_parts(finding)[0]].append(finding)
  return list(found.values())


def common_text(group: Sequence[Finding]) -> str:
  """What all findings of a group say, with the spans of their amounts."""
  words = _parts(group[0])[0]
  amounts = zip(*(_parts(finding)[1] for finding in group), strict=True)
  return "".join(itertools.chain(*itertools.zip_longest(words, map(_span, amounts), fillvalue="")))


def _parts(finding: Finding) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """The words of a finding, without the name of its case, and the amounts between them."""
  text = finding.reason
  if finding.case:
    name = re.escape(finding.case)
    # As part of a file's name or path; a case may be called 24.
    text = re.sub(rf"(?<=/){name}(?!\w)|(?<![A-Za-z0-9]){name}(?=[A-Za-z_-]|\.[A-Za-z])", CASE, text)
  fixed = [match.span() for match in _BRACKETS.finditer(text)] if finding.kind in _NAMES else []
  found = [m for m in _NUMBER.finditer(text) if not any(start <= m.start() < end for start, end in fixed)]
  ends = [0, *(place for match in found for place in match.span()), len(text)]
  return tuple(text[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True)), tuple(match[0] for match in found)


def _span(texts: Sequence[str]) -> str:
  """The least and the greatest of some numbers, as they are written; one that all are, once."""
  values = {float(text.rstrip("%")): text for text in texts}
  least, greatest = values[min(values)], values[max(values)]
  return least if least == greatest else f"{least} to {greatest}"
