"""The page: one HTML file that holds its pictures and loads nothing."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from nas3d_jax.report.gallery import Picture
from nas3d_jax.report.table import Table

_QUALITY = 82
_CODE = re.compile("`([^`]+)`")
_ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #222; background: #fff;
  max-width: 1240px; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin-bottom: 0.2rem; } h2 { margin-top: 2.6rem; border-bottom: 2px solid #0072B2; }
h3 { margin-top: 1.8rem; } nav ol { columns: 2; } a { color: #005b8f; }
p, li { max-width: 52rem; overflow-wrap: anywhere; }
.missing { background: #FFF4DC; border-left: 4px solid #E69F00; padding: 0.6rem 1rem; }
code, pre { font: 0.86rem/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: #f5f5f5; padding: 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 1.4rem 0; } figcaption { font-size: 0.92rem; color: #444; margin-bottom: 0.4rem; max-width: 60rem; }
img { max-width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.8rem; }
th { text-align: left; vertical-align: bottom; border-bottom: 2px solid #222; }
th, td { padding: 0.18rem 0.7rem 0.18rem 0; } td { border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; } td.long { white-space: normal; }
.small img { max-width: min(680px, 100%); }
summary { cursor: pointer; font-weight: 600; margin: 0.8rem 0; }
@page { margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; } .wide { overflow: visible; }
  h2, h3 { break-after: avoid; } figure:not(.table) { break-inside: avoid; } tr { break-inside: avoid; }
  img { max-height: 235mm; width: auto; } .small img { max-width: 130mm; }
  table { font-size: 6.5pt; } td { white-space: normal; }
}
"""


@dataclasses.dataclass
class Page:
  """Sections in order, each written as it is found; `to_html` puts them together.

  Attributes:
    title: of the page.
    lead: a paragraph below it.
    refresh: seconds after which a browser reads it again; None: never.
  """

  title: str
  lead: str
  refresh: int | None = None
  _sections: list[tuple[str, list[str]]] = dataclasses.field(default_factory=list)

  def section(self, title: str) -> None:
    """Begins a section."""
    self._sections.append((title, []))

  def heading(self, title: str) -> None:
    """A heading within the section."""
    self._add(f"<h3>{html.escape(title)}</h3>")

  def text(self, text: str) -> None:
    """A paragraph; what stands in backticks is code."""
    marked = _CODE.sub(r"<code>\1</code>", html.escape(text))
    self._add(f"<p>{marked}</p>")

  def missing(self, what: str, command: str) -> None:
    """A line on what is not there, with the command that makes it."""
    self._add(f'<p class="missing">{html.escape(what)} <code>{html.escape(command)}</code></p>')

  def picture(
    self, picture: Picture, caption: str, *, photograph: bool = False, small: bool = False, anchor: str = ""
  ) -> None:
    """A figure with its caption; a photograph is packed with loss."""
    data, kind = _packed(picture.png) if photograph else (picture.png.read_bytes(), "png")
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    width, height = Image.open(picture.png).size
    kind_of = ' class="small"' if small else ""
    name = anchor or f"figure-{picture.name}"
    self._add(
      f'<figure id="{html.escape(name)}"{kind_of}><figcaption>{html.escape(caption)}</figcaption>'
      f'<img src="{address}" width="{width}" height="{height}" alt="{html.escape(picture.alt)}"></figure>'
    )

  def table(self, table: Table) -> None:
    """A table."""
    self._add(table.to_html())

  def details(self, title: str, content: Any) -> None:
    """Plain JSON values that open on a click."""
    text = html.escape(json.dumps(content, indent=1, default=str))
    self._add(f"<details><summary>{html.escape(title)}</summary><pre>{text}</pre></details>")

  def code(self, text: str) -> None:
    """Text as it is."""
    self._add(f"<pre>{html.escape(text)}</pre>")

  def to_html(self) -> str:
    """The whole page."""
    links, parts = [], []
    again = "" if self.refresh is None else f'<meta http-equiv="refresh" content="{self.refresh}">'
    for index, (title, content) in enumerate(self._sections, 1):
      links.append(f'<li><a href="#section-{index}">{html.escape(title)}</a></li>')
      parts.append(f'<section id="section-{index}"><h2>{html.escape(title)}</h2>\n' + "\n".join(content) + "</section>")
    return (
      '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      # The browser refuses whatever the page would load.
      f'<meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">'
      f'{again}<link rel="icon" href="data:,"><title>{html.escape(self.title)}</title><style>{STYLE}</style></head>\n'
      f"<body><h1>{html.escape(self.title)}</h1><p>{html.escape(self.lead)}</p>"
      f"<nav><ol>{''.join(links)}</ol></nav>\n{''.join(parts)}</body></html>\n"
    )

  def _add(self, text: str) -> None:
    self._sections[-1][1].append(text)


def _packed(path: Path) -> tuple[bytes, str]:
  """A photograph as WebP, a fifth as large as PNG."""
  data = io.BytesIO()
  Image.open(path).convert("RGB").save(data, "WEBP", quality=_QUALITY)
  return data.getvalue(), "webp"
