"""Scores of both networks side by side: box plots (Fig. 9), paired differences, volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nas3d_jax.evaluation import metrics
from nas3d_jax.evaluation.comparison import PairedDifference
from nas3d_jax.report.gallery import GREY, INK, NETWORK_COLOURS, new_figure
from nas3d_jax.report.run_contents import NETWORKS, Material

SHORT: Mapping[str, str] = {
  "training": "training", "cross_validation": "cross-validation", "test": "test", "ensemble": "test, ensemble"
}
"""The splits in few words."""

TITLES: Mapping[str, str] = {
  "dice": "Dice",
  "sensitivity": "sensitivity",
  "specificity": "specificity",
  "hausdorff95": "95% Hausdorff (mm)",
  "lesion_dice": "lesion-wise Dice",
  "lesion_hausdorff95": "lesion-wise 95%\nHausdorff (mm)",
  "surface_dice": "surface Dice",
}
_LINEAR = 10.0  # mm; below that the axis of a distance is linear, above logarithmic


def boxes_figure(material: Material, names: Sequence[str]) -> Figure:
  """Box plots with mean markers: a column for each metric, a row for each split, a group of boxes for each region.

  Boxes hold the middle half of the cases, whiskers reach to the last case within 1.5 times its length, circles are the
  cases beyond, diamonds the means.
  """
  splits = [split for split in material.splits() if any(_values(material, split, name) for name in names)]
  figure = new_figure(1.95 * len(splits) + 0.55)
  places = figure.subplots(len(splits), len(names), squeeze=False, sharey="col", sharex=True)
  regions = material.dataset.schema.region_names
  for row, split in enumerate(splits):
    networks = material.networks_of(split)
    for axes, name in zip(places[row], names, strict=True):
      for place, network in enumerate(networks):
        values = [material.values(network, split, region, name) for region in regions]
        offset = (place - (len(networks) - 1) / 2) * 0.36
        _boxes(axes, values, [r + offset for r in range(len(regions))], NETWORK_COLOURS[network])
      axes.set_xticks(range(len(regions)), regions)
      axes.set_xlim(-0.6, len(regions) - 0.4)
      axes.grid(axis="x", visible=False)
      _scale(axes, name)
      if row == 0:
        axes.set_title(TITLES[name], fontsize=9)
    places[row, 0].set_ylabel(f"{SHORT[split]}\n{_count(material, split)} cases")
  shown = [network for network in NETWORKS if any(network in material.networks_of(split) for split in splits)]
  key = [Patch(facecolor=_pale(NETWORK_COLOURS[n]), edgecolor=NETWORK_COLOURS[n], label=NETWORKS[n]) for n in shown]
  key.append(Line2D([], [], marker="D", color=INK, markerfacecolor="white", linestyle="", markersize=4.5, label="mean"))
  figure.legend(handles=key, loc="outside lower center", ncols=len(key))
  return figure


def volumes_figure(material: Material) -> Figure:
  """Volume of the prediction against that of the truth, a panel for each region."""
  splits = [split for split in material.splits() if _values(material, split, "truth_ml")]
  regions = material.dataset.schema.region_names
  figure = new_figure(2.55 * len(splits) + 0.45)
  places = figure.subplots(len(splits), len(regions), squeeze=False)
  for row, split in enumerate(splits):
    for axes, region in zip(places[row], regions, strict=True):
      top = 0.0
      for network in (n for n in material.networks_of(split) if (n, split) in material.scores):
        truth, predicted = (material.values(network, split, region, name) for name in ("truth_ml", "prediction_ml"))
        marker = "o" if network == "searched" else "^"
        look = dict(color=NETWORK_COLOURS[network], markersize=4.5, alpha=0.75, label=NETWORKS[network])
        axes.plot(truth, predicted, marker, **look)
        top = max(top, *truth, *predicted)
      end = top * 1.08 or 1.0
      axes.plot((0, end), (0, end), color=GREY, linewidth=1, linestyle="--", label="equal volumes")
      axes.set(xlim=(-0.03 * end, end), ylim=(-0.03 * end, end), aspect="equal", title=f"{region}, {SHORT[split]}")
      axes.set_xlabel("truth (ml)")
    places[row, 0].set_ylabel("prediction (ml)")
  figure.legend(*places[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
  return figure


def differences_figure(differences: Mapping[tuple[str, str, str], PairedDifference]) -> Figure:
  """Mean paired difference and its interval, a panel for each metric; `differences` by split, region and metric."""
  names = [name for name in TITLES if any(key[2] == name for key in differences)]
  rows = list(dict.fromkeys((split, region) for split, region, _ in differences))
  columns = 4
  lines = -(-len(names) // columns)
  figure = new_figure(lines * (0.75 + 0.19 * len(rows)) + 0.35)
  places = figure.subplots(lines, columns, squeeze=False, sharey=True)
  for axes in places.flat[len(names) :]:
    axes.set_axis_off()
  for index, (axes, name) in enumerate(zip(places.flat, names, strict=False)):
    axes.axvline(0, color=GREY, linewidth=1)
    for y, (split, region) in enumerate(rows):
      found = differences.get((split, region, name))
      if found is None:
        continue
      if found.low is not None:
        axes.plot((found.low, found.high), (y, y), color=INK, linewidth=1.6, solid_capstyle="butt")
      clear = found.low is not None and (found.low > 0 or found.high < 0)
      axes.plot(found.mean, y, "D", color=INK, markersize=5, markerfacecolor=INK if clear else "white")
    better = "left" if metrics.UNITS.get(name) else "right"
    axes.set_title(f"{TITLES[name]}\nsearched better: {better}", fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if index % columns == 0:
      axes.set_yticks(range(len(rows)), [f"{region}, {SHORT[split]}" for split, region in rows], fontsize=7.5)
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=4)
  text = "mean of searched minus hand-designed with bootstrap 95% interval; filled where it leaves out 0"
  figure.supxlabel(text, fontsize=8)
  return figure


def _boxes(axes: Axes, values: Sequence[Sequence[float]], positions: Sequence[float], colour: str) -> None:
  kept = [(v, p) for v, p in zip(values, positions, strict=True) if v]
  if not kept:
    return
  line = dict(color=colour, linewidth=1.2)
  axes.boxplot(
    [v for v, _ in kept],
    positions=[p for _, p in kept],
    widths=0.3,
    patch_artist=True,
    showmeans=True,
    manage_ticks=False,
    boxprops=dict(facecolor=_pale(colour), edgecolor=colour), medianprops=dict(color=INK, linewidth=1.6),
    whiskerprops=line, capprops=line,
    flierprops=dict(marker="o", markersize=2.8, markeredgecolor=colour, markerfacecolor="none"),
    meanprops=dict(marker="D", markersize=4.5, markerfacecolor="white", markeredgecolor=INK),
  )


def _scale(axes: Axes, name: str) -> None:
  if metrics.UNITS.get(name) == "mm":
    axes.set_yscale("symlog", linthresh=_LINEAR, linscale=1.5)
    axes.set_ylim(-0.8, 700)
    axes.set_yticks([0, 5, 10, 100, 374], ["0", "5", "10", "100", "374"])
    axes.minorticks_off()
  elif name == "specificity":
    axes.margins(y=0.1)
  else:
    axes.set_ylim(-0.04, 1.04)


def _values(material: Material, split: str, name: str) -> list[float]:
  region = material.dataset.schema.region_names[0]
  return [value for network in material.networks_of(split) for value in material.values(network, split, region, name)]


def _count(material: Material, split: str) -> int:
  region = material.dataset.schema.region_names[0]
  return max(len(material.values(network, split, region, "dice")) for network in material.networks_of(split))


def _pale(colour: str) -> tuple[float, float, float]:
  """A colour thinned with white."""
  parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
  return tuple(np.add(np.multiply(parts, 0.35), 0.65).tolist())
