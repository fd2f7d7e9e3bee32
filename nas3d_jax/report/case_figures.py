"""Figures of cases: modalities and truth (Fig. 1), the patch layout (Fig. 2), predictions beside the truth (Fig. 8)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from nas3d_jax.data.patches.grid import patch_grid, patch_starts
from nas3d_jax.report.case_views import PLANES, Image, View, mosaic
from nas3d_jax.report.gallery import GREY, INK, ORANGE, SKY, WIDTH, bare, label_colours, new_figure, size_text
from nas3d_jax.report.run_contents import NETWORKS
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import PatchSize, axis_lengths

_TITLE_ROOM, _KEY_ROOM, _SIDE_ROOM = 0.30, 0.48, 0.40  # inches
_TALLEST = 8.6
_FACING = "patient's right on the left, but in the sagittal plane the front on the left"


def modalities_figure(view: View) -> Figure:
  """All modalities and the truth of one case in three planes (Fig. 1)."""
  where, schema = view.centre(), view.schema
  names = [*schema.modality_names, *(["truth"] if "truth" in view.labels else [])]
  rows = []
  for plane in PLANES:
    row = [view.slice(plane, channel, where) for channel in range(len(schema.modalities))]
    if "truth" in view.labels:
      row.append(view.slice(plane, 0, where, "truth"))
    rows.append(row)
  return _table_of_pictures(rows, names, PLANES, schema)


def case_figure(view: View) -> Figure:
  """One case in three planes: the first modality, the truth where it is known, and each prediction."""
  where = view.centre()
  columns = [None, *view.labels]
  rows = [[view.slice(plane, 0, where, name) for name in columns] for plane in PLANES]
  titles = [view.schema.modality_names[0], *(NETWORKS.get(name, name) for name in view.labels)]
  return _table_of_pictures(rows, titles, PLANES, view.schema)


def examples_figure(views: Mapping[str, View], captions: Mapping[str, Mapping[str, str]]) -> Figure:
  """Truth and predictions of some cases in the axial plane (Fig. 8).

  Args:
    views: what a row is called -> the case.
    captions: row -> network -> text below its prediction.
  """
  schema = next(iter(views.values())).schema
  columns = list(dict.fromkeys(name for view in views.values() for name in view.labels))
  rows, below = [], []
  for name, view in views.items():
    where = view.centre()
    cells = [view.slice("axial", 0, where, column if column in view.labels else None) for column in [None, *columns]]
    rows.append(cells)
    below.append(["", *(captions.get(name, {}).get(column, "") for column in columns)])
  titles = [schema.modality_names[0], *(NETWORKS.get(name, name) for name in columns)]
  return _table_of_pictures(rows, titles, list(views), schema, below)


def patches_figure(view: View, cube: Sequence[Sequence[int]], shape: Sequence[int], patch: PatchSize) -> Figure:
  """The brain cube and the auto-fitted patches of one case on an axial and a coronal slice (Fig. 2).

  Args:
    view: the case, cropped to its brain cube.
    cube: (start, stop) of the brain cube along the file's axes, in voxels.
    shape: of the whole volume, in voxels.
    patch: length of a patch in voxels; one, or one an axis.
  """
  figure = new_figure(4.4)
  where, lengths, sizes = view.centre(), view.image.shape[:3], axis_lengths(patch)
  unit = max(lengths) / 150
  for axes, plane, across, up in zip(figure.subplots(1, 2), ("axial", "coronal"), (0, 0), (1, 2), strict=True):
    columns, rows = (patch_starts(lengths[axis], sizes[axis]) for axis in (across, up))
    width, height = sizes[across], sizes[up]
    picture = view.slice(plane, 0, where)[:, ::-1]
    aspect = view.spacing[up] / view.spacing[across]
    # In voxels of the brain cube, as the patches count.
    axes.imshow(picture, extent=(0, lengths[across], 0, lengths[up]), aspect=aspect)
    for (j, y), (i, x) in itertools.product(enumerate(rows), enumerate(columns)):
      colour = (SKY, ORANGE)[(i + j) % 2]
      inset = unit * (0.4 + i + 2 * j)  # edges that lie on each other are drawn apart
      edges = width - 2 * inset, height - 2 * inset
      axes.add_patch(Rectangle((x + inset, y + inset), *edges, fill=False, edgecolor=colour, linewidth=1.5))
      corner = x + width * _corner(i, len(columns)), y + height * _corner(j, len(rows))
      number = str(j * len(columns) + i + 1)
      axes.text(*corner, number, color=colour, fontsize=11, weight="bold", ha="center", va="center")
    cube_edge = Rectangle((0, 0), lengths[across], lengths[up], fill=False, edgecolor="white", linestyle="--")
    axes.add_patch(cube_edge)
    for set_limits, starts, axis in ((axes.set_xlim, columns, across), (axes.set_ylim, rows, up)):
      set_limits(min(0, starts[0]) - 2 * unit, max(lengths[axis], starts[-1] + sizes[axis]) + 2 * unit)
    axes.set(facecolor="black", xlabel="left to right (voxels)")
    axes.set_ylabel("back to front (voxels)" if plane == "axial" else "bottom to top (voxels)")
    axes.set_title(f"{plane}: {len(columns)} x {len(rows)} patches of {size_text(patch)}")
    axes.grid(False)
  count = len(patch_grid(lengths, patch))
  size, box = " x ".join(map(str, shape)), " x ".join(str(stop - start) for start, stop in cube)
  text = f"volume {size}, brain cube {box} voxels (dashed), {count} patches in all"
  figure.suptitle(text, fontsize=9, color=INK)
  return figure


def _corner(index: int, count: int) -> float:
  """Where the number of a patch stands along an axis, in patch lengths: towards its own side."""
  return 0.5 if count == 1 else 0.17 + 0.66 * index / (count - 1)


def _table_of_pictures(
  rows: Sequence[Sequence[Image]],
  columns: Sequence[str],
  sides: Sequence[str],
  schema: Schema,
  below: Sequence[Sequence[str]] | None = None,
) -> Figure:
  """Pictures with a title above each column, a name beside each row, a key of the labels below."""
  gap = max(3, rows[0][0].shape[0] // (8 if below else 40))
  picture, across, down = mosaic(rows, gap)
  height, width = picture.shape[:2]
  extra = gap if below else 0
  inches = (WIDTH - _SIDE_ROOM) * (height + extra) / width
  scale = min(1.0, _TALLEST / inches)
  figure = Figure(figsize=(WIDTH, inches * scale + _TITLE_ROOM + _KEY_ROOM))
  total = inches * scale + _TITLE_ROOM + _KEY_ROOM
  wide = (WIDTH - _SIDE_ROOM) * scale / WIDTH
  left = _SIDE_ROOM / WIDTH + ((WIDTH - _SIDE_ROOM) / WIDTH - wide) / 2
  axes = figure.add_axes((left, _KEY_ROOM / total, wide, inches * scale / total))
  axes.imshow(picture, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
  axes.set(xlim=(0, width), ylim=(height + extra, 0))
  axes.add_patch(Rectangle((0, 0), width, height + extra, color="black", zorder=-1))
  bare(axes)
  for x, title in zip(across, columns, strict=True):
    axes.text(x, -height * 0.012, title, ha="center", va="bottom", fontsize=9.5, color=INK)
  for y, side in zip(down, sides, strict=True):
    axes.text(-width * 0.012, y, side, ha="right", va="center", rotation=90, fontsize=9.5, color=INK)
  for texts, cells, y in zip(below or [], rows, down, strict=False):
    for x, text in zip(across, texts, strict=True):
      bottom = y + max(cell.shape[0] for cell in cells) / 2 + gap / 2
      axes.text(x, bottom, text, ha="center", va="center", fontsize=7.5, color="white")
  key = [Patch(color=colour, label=dict(schema.labels)[value]) for value, colour in label_colours(schema).items()]
  place = dict(loc="lower left", bbox_to_anchor=(0.0, 0.17 / total), borderpad=0.2)
  figure.legend(handles=key, ncols=len(key), fontsize=8, **place)
  figure.text(0.014, 0.05 / total, _FACING, ha="left", va="bottom", fontsize=7, color=GREY)
  return figure
