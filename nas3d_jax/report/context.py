"""What the sections of the report share: the material, and where figures, tables and text go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nas3d_jax.report.gallery import Gallery
from nas3d_jax.report.page import Page
from nas3d_jax.report.run_contents import Histories, Material
from nas3d_jax.report.table import Table
from nas3d_jax.runtime.program import PROGRAM
from nas3d_jax.schema.schema import Schema


@dataclasses.dataclass(frozen=True)
class Context:
  """One report under way.

  Attributes:
    material: what the run holds; of the sections of search and training, its `Histories` are enough.
    page: the page.
    gallery: the folder of figures.
    tables: the folder of tables.
    seed: of the bootstrap.
    tick: called after each picture of a case.
    test_schema: of the unseen cases; None means that of their scores.
  """

  material: Material | Histories
  page: Page
  gallery: Gallery
  tables: Path
  seed: int
  tick: Callable[[], None]
  test_schema: Schema | None = None

  @property
  def run(self) -> str:
    """The flag that names the run in a command."""
    return f"--workdir={self.material.workdir}"

  def table(self, table: Table) -> None:
    """Puts a table on the page and its files beside."""
    table.write(self.tables)
    self.page.table(table)

  def figure(self, name: str, caption: str, inputs: Any, make: Callable[[], Figure], **how: Any) -> None:
    """Puts a figure on the page, drawn if it has to be; arguments of `Gallery.draw`, `how` of `Page.picture`."""
    self.page.picture(self.gallery.draw(name, caption, inputs, make), caption, **how)

  def missing(self, what: str, command: str) -> None:
    """Puts the command on the page that makes what is missing."""
    self.page.missing(what, f"{PROGRAM} {command}")
