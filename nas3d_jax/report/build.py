"""Writes the report of a run: one page, each figure as PNG and PDF, each table as CSV and LaTeX.

    <out>/index.html          the page, with everything in it
    <out>/figures/*.{png,pdf} made.json records from what each was drawn
    <out>/tables/*.{csv,tex}
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from nas3d_jax.data.cases.detect_schema import find_schema
from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import write_whole, writing
from nas3d_jax.files.locks import locked
from nas3d_jax.files.run_layout import FIGURES, PAGE, REPORT, TABLES
from nas3d_jax.report import case_sections, checklist, control_section, sections
from nas3d_jax.report.context import Context
from nas3d_jax.report.control_contents import read_control
from nas3d_jax.report.gallery import Gallery, check_out
from nas3d_jax.report.page import Page
from nas3d_jax.report.run_contents import Material
from nas3d_jax.runtime.progress_bar import ProgressBar
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import check_whole

_SECTIONS = (
  sections.summary,
  sections.data,
  sections.network,
  sections.search,
  sections.training,
  sections.scores,
  sections.comparison,
  control_section.control,
  case_sections.examples,
  case_sections.cases,
  checklist.checklist,
  sections.making,
)
_LEAD = (
  "What a search for a segmentation network found, how it was trained, and how it compares with a hand-designed "
  "3D U-Net on the same data. Figures and tables lie beside this page as files too."
)


def write_report(
  workdir: str | Path,
  out: str | Path | None = None,
  *,
  portal_csv: Iterable[str] = (),
  test_dir: str | Path | None = None,
  schema: str | Path | Schema | None = None,
  seed: int = 0,
  overwrite: bool = False,
) -> Path:
  """Writes the report of a run from whatever it holds; progress goes to stderr.

  Figures whose input has not changed since the last report are kept. A section whose input is missing names the
  command that makes it.

  Args:
    workdir: the run directory, with `dataset/` at least.
    out: the folder to write to; None means `report/` in the run directory.
    portal_csv: tables of a challenge's portal, see `Material.read`.
    test_dir: folder of the unseen cases, for their pictures; None means that of the experiment.
    schema: of those cases, see `find_schema`; None means that by which they were scored.
    seed: of the bootstrap, a whole number of at least 0.
    overwrite: draw every figure anew.

  Returns:
    The page.

  Raises:
    InputError: there is no data set, a file of the run is damaged or does not fit, or `out` holds something else, is
      written to by another process or cannot be written to.
  """
  check_whole("seed", seed, 0)
  material = dataclasses.replace(Material.read(workdir, portal_csv), control=read_control(Path(workdir)))
  if test_dir is not None:
    if not Path(test_dir).is_dir():
      raise InputError(f"test_dir must be a folder of cases, got {str(test_dir)!r}; is it mistyped?")
    material = dataclasses.replace(material, experiment={**material.experiment, "test_dir": str(test_dir)})
  folder = material.experiment.get("test_dir")
  if schema is not None and folder is None:
    raise InputError("schema is of the cases of test_dir; give test_dir with it")
  test_schema = None if schema is None else find_schema(folder, schema, labels=False)
  out = Path(workdir) / REPORT if out is None else Path(out)
  check_out(out)
  with locked(out), writing(out):
    return _write(material, Path(os.path.abspath(workdir)).name, out, seed, test_schema, overwrite)


def _write(
  material: Material, name: str, out: Path, seed: int, test_schema: Schema | None, overwrite: bool
) -> Path:
  page = Page(f"Report of {name}", _LEAD)
  gallery = Gallery(out / FIGURES, overwrite=overwrite)
  bar = ProgressBar("report", len(_SECTIONS))
  context = Context(material, page, gallery, out / TABLES, seed, bar.advance, test_schema)
  bar.add(case_sections.count(context))
  with bar:
    for section in _SECTIONS:
      bar.describe(f"report, {section.__name__}")
      section(context)
      bar.advance()
  gallery.close()
  write_whole(out / PAGE, page.to_html())
  return out / PAGE
