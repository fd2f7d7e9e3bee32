"""A table as CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

from nas3d_jax.files.atomic import write_whole
from nas3d_jax.files.own_files import own_folder

_LATEX = {
  "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
  "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--",
  "≥": r"$\geq$", "³": "$^3$",
}


_LONG = 50  # characters, beyond which a cell may take several lines


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of text under a header.

  Attributes:
    name: name of its files, without ending.
    caption: what it shows, in a sentence.
    header: names of the columns, with units.
    rows: as long as the header each.
    text_columns: columns, from the left, that hold words; the others are numbers and set to the right.
    links: text of a cell in the first column -> address within the page.
  """

  name: str
  caption: str
  header: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  text_columns: int = 1
  links: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)

  def to_csv(self) -> str:
    """Header and rows, as they are."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
    return text.getvalue()

  def to_latex(self) -> str:
    """A table environment with booktabs' rules."""
    places = "l" * self.text_columns + "r" * (len(self.header) - self.text_columns)
    lines = [" & ".join(map(latex, row)) + r" \\" for row in (self.header, *self.rows)]
    return "\n".join(
      [
        "% needs the package booktabs",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(self.caption)}}}",
        rf"\label{{tab:{self.name}}}",
        rf"\begin{{tabular}}{{{places}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
      ]
    )

  def to_html(self) -> str:
    """A figure with the table and its caption; words to the left, numbers to the right."""
    head = "".join(f'<th scope="col"{self._place(i)}>{html.escape(text)}</th>' for i, text in enumerate(self.header))
    body = "".join(f"<tr>{''.join(self._cell(i, text) for i, text in enumerate(row))}</tr>\n" for row in self.rows)
    return (
      f'<figure class="table" id="table-{self.name}"><figcaption>{html.escape(self.caption)}</figcaption>'
      f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div></figure>'
    )

  def write(self, folder: Path) -> None:
    """Writes `<name>.csv` and `<name>.tex`, each whole or not at all."""
    own_folder(folder)
    for ending, text in (("csv", self.to_csv()), ("tex", self.to_latex())):
      write_whole(folder / f"{self.name}.{ending}", text)

  def _place(self, column: int, text: str = "") -> str:
    if column < self.text_columns:
      return ' class="long"' if len(text) > _LONG else ""
    return ' class="number"'

  def _cell(self, column: int, text: str) -> str:
    shown = html.escape(text)
    if column == 0 and text in self.links:
      shown = f'<a href="{html.escape(self.links[text])}">{shown}</a>'
    return f"<td{self._place(column, text)}>{shown}</td>"


def make_table(
  name: str,
  caption: str,
  header: Sequence[str],
  rows: Sequence[Sequence[str]],
  *,
  text_columns: int = 1,
  links: dict[str, str] | None = None,
) -> Table:
  """A `Table` of any sequences."""
  return Table(name, caption, tuple(header), tuple(map(tuple, rows)), text_columns, links or {})


def latex(text: str) -> str:
  """Text with LaTeX's special characters escaped."""
  return re.sub(r"[\\&%$#_{}~^±–≥³]", lambda found: _LATEX[found[0]], text)
