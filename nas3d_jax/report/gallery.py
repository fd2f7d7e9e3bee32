"""How figures look, and the folder they are kept in.

Figures are made with Matplotlib's objects, without pyplot, which keeps a global state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import write_whole
from nas3d_jax.files.locks import holds_nothing
from nas3d_jax.files.own_files import own_folder
from nas3d_jax.files.run_layout import FIGURES, MADE
from nas3d_jax.files.strict_json import read_json, write_json
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import PatchSize

WIDTH = 7.2
"""Inches; what a sheet of A4 holds, and a page of 1080 pixels at `DPI`."""

DPI = 150
VERSION = 2
"""To be raised when figures come out otherwise from the same input; those of before are then drawn again."""

# Okabe and Ito's colours, which colour-blind readers can distinguish.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
GREY, INK = "#8A8A8A", "#222222"
NETWORK_COLOURS: Mapping[str, str] = types.MappingProxyType(
  {"searched": BLUE, "unet3d": ORANGE, "plain_unet": GREEN}
)

# Those of the paper's figures, from the outermost region to the innermost: oedema, necrotic and non-enhancing,
# enhancing. They differ in lightness too.
_LABEL_COLOURS = ((0.20, 0.45, 0.95), (0.80, 0.08, 0.12), (1.00, 0.90, 0.10), (0.0, 0.62, 0.45), (0.8, 0.47, 0.65))

_STYLE = {
  "font.size": 9.0,
  "axes.titlesize": 10.0,
  "axes.labelsize": 9.0,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": "#E4E4E4",
  "legend.frameon": False,
  "legend.fontsize": 8.5,
  "xtick.labelsize": 8.5,
  "ytick.labelsize": 8.5,
  "pdf.fonttype": 42,
  "image.cmap": "viridis",
}


@dataclasses.dataclass(frozen=True)
class Picture:
  """A figure on disk.

  Attributes:
    name: its files' name, below `figures/`, without ending.
    alt: what it shows, for those who cannot see it.
    png: the file.
  """

  name: str
  alt: str
  png: Path


class Gallery:
  """The folder of figures; each is drawn anew only where its input changed.

  Args:
    folder: where, made where it is missing.
    overwrite: whether to draw all anew.
  """

  def __init__(self, folder: Path, *, overwrite: bool = False):
    self.folder = folder
    own_folder(folder)
    record = folder / MADE
    known = record.exists() and not overwrite
    self._before = read_json(record, "remove it, and all figures are drawn anew") if known else {}
    self._made: dict[str, str] = {}

  def draw(self, name: str, alt: str, inputs: Any, make: Callable[[], Figure]) -> Picture:
    """Gives a figure, drawn only if it is not there or was made from other input.

    Args:
      name: below the folder, without ending; may name a folder, "cases/a".
      alt: what it shows.
      inputs: plain JSON values that decide how it looks.
      make: draws it.
    """
    text = json.dumps([VERSION, inputs], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    files = {kind: self.folder / f"{name}.{kind}" for kind in ("png", "pdf")}
    if self._before.get(name) != digest or not all(path.exists() for path in files.values()):
      own_folder(files["png"].parent)
      with matplotlib.rc_context(_STYLE):
        figure = make()
        for kind, path in files.items():
          # Without a date, equal figures are equal files. In memory first: on a full disk the writer of PDF files
          # raises something else.
          content = io.BytesIO()
          figure.savefig(content, format=kind, dpi=DPI, metadata={"CreationDate": None} if kind == "pdf" else None)
          write_whole(path, content.getvalue())
    self._made[name] = digest
    self._save({**self._before, **self._made})
    return Picture(name, alt, files["png"])

  def close(self) -> None:
    """Removes the figures of earlier reports that this one no longer has."""
    # A record that came from elsewhere may name files that are no figures.
    for name in filter(self._is_here, self._before.keys() - self._made.keys()):
      for kind in ("png", "pdf"):
        (self.folder / f"{name}.{kind}").unlink(missing_ok=True)
    self._save(self._made)

  def _is_here(self, name: str) -> bool:
    return (self.folder / name).resolve().is_relative_to(self.folder.resolve())

  def _save(self, record: Mapping[str, str]) -> None:
    write_json(self.folder / MADE, record)


def check_out(out: Path) -> None:
  """Raises InputError unless a folder is new, empty or one of figures, and can be written to."""
  if out.exists() and not out.is_dir():
    raise InputError(f"out must be a folder, got the file {out}")
  if out.exists() and not holds_nothing(out) and not (out / FIGURES).is_dir():
    raise InputError(f"{out} holds something else than a report; give another --out")
  place = next((folder for folder in (out, *out.absolute().parents) if folder.exists()), out)
  if not os.access(place, os.W_OK):
    raise InputError(f"{out} cannot be written to, {place} is read-only for you; give a folder that can, --out=FOLDER")


def new_figure(height: float, width: float = WIDTH) -> Figure:
  """A figure of these inches whose parts make room for each other."""
  return Figure(figsize=(width, height), layout="constrained")


def label_colours(schema: Schema) -> dict[int, tuple[float, float, float]]:
  """RGB of each label but background: that of the innermost region that it belongs to."""
  colours = {}
  for value, region in ((v, r) for v in schema.label_values if v for r in range(len(schema.regions))):
    if value in schema.regions[region].labels:
      colours[value] = _LABEL_COLOURS[region % len(_LABEL_COLOURS)]
  return colours


def bare(axes: Axes) -> None:
  """Takes away everything but what is drawn."""
  axes.set_axis_off()
  axes.grid(False)


def size_text(size: PatchSize) -> str:
  """Voxels of a patch for people: 64³, or 40 x 56 x 40."""
  return f"{size}³" if isinstance(size, int) else " x ".join(map(str, size))
