"""The section of the report on the control: searched against random networks, and what each costs."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import numpy as np

from nas3d_jax.files.run_layout import CONTROL, SEARCH, TRAIN_FOLDERS
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.flops import forward_flops
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.genotype_statistics import chance_overlap, edge_overlap, row_overlap
from nas3d_jax.models.networks import DerivedNet, variable_shapes
from nas3d_jax.report.context import Context
from nas3d_jax.report.control_contents import RANDOM, ControlRun, dice_of, verdict
from nas3d_jax.report.control_figures import control_figure, cost_figure, groups_of, name_of
from nas3d_jax.report.run_contents import History, Material
from nas3d_jax.report.supernet_section import supernets
from nas3d_jax.report.table import Table, make_table
from nas3d_jax.validation import PatchSize, patch_size_of


def control(c: Context) -> None:
  """Searched, random and hand-designed networks, trained alike; agreement of the searches against chance."""
  c.page.section("Search against random")
  runs = c.material.control
  sentence = verdict(runs, c.seed)
  if sentence is None:
    c.missing("Whether the search beats random genotypes is told by", f"experiment {c.run} --seeds=3 --random=5")
  else:
    c.page.text(sentence)
  if runs:
    c.page.text(
      "All were trained under one recipe without fold 0, on whose cases they are scored. That fold was the hybrid part "
      "of the searches, which favours them. The interval is a bootstrap over cases, the same ones for all, and over "
      "genotypes within each group, of each the mean of its trainings; it is widened for few genotypes."
    )
    c.table(groups_table(c.material, runs))
    inputs = [[run[:3], run.scores.cases] for run in runs]
    caption = "Mean Dice of each training of the control; a line is the mean of its group."
    c.figure("control", caption, inputs, lambda: control_figure(runs))
    _cost(c, runs, inputs)
  supernets(c)
  _agreement(c)


def groups_table(material: Material, runs: Sequence[ControlRun]) -> Table:
  """Mean and spread of each group, and what its networks cost."""
  rows = []
  for group, found in groups_of(runs).items():
    means = dice_of(found).mean(1)
    row = [name_of(group), str(len({run.number for run in found})), str(len(found)), _spread(means)]
    row += [_spread(dice_of(found, region).mean(1)) for region in material.dataset.schema.region_names]
    row += ["0" if group == RANDOM else _hours(_searches_of(material, group, found))]
    row += [_hours([run.history for run in found]), *_size(material, group, found)]
    rows.append(row)
  regions = [f"Dice {region}" for region in material.dataset.schema.region_names]
  costs = ("search (h)", "training (h)", "GFLOP a forward pass", "parameters")
  header = ("group", "genotypes", "trainings", "mean Dice", *regions, *costs)
  caption = (
    "The groups of the control: mean ± standard deviation over trainings of the mean over cases; hours of one search "
    "and of one training, operations and parameters as means."
  )
  return make_table("control", caption, header, rows)


def _spread(means: np.ndarray) -> str:
  return f"{means.mean():.4f} ± {means.std(ddof=1):.4f}" if len(means) > 1 else f"{means[0]:.4f}"


def _cost(c: Context, runs: Sequence[ControlRun], inputs: list) -> None:
  """Score against cost, of all whose cost is known."""
  flops = {}
  for group, found in groups_of(runs).items():
    for number in {run.number for run in found}:
      own = [run for run in found if run.number == number]
      if (size := _mean_size(c.material, group, own))[0] is not None:
        flops[group, number] = size[0]
  if flops:
    caption = "Score against cost: a point is a network, the mean of its trainings."
    drawn = [inputs, sorted([*key, value] for key, value in flops.items())]
    c.figure("cost", caption, drawn, lambda: cost_figure(runs, flops))


def _searches_of(material: Material, group: str, runs: Sequence[ControlRun]) -> list[History]:
  if group == "searched":
    return _searches(material)
  folders = [material.workdir / CONTROL / group / str(number) / SEARCH for number in {run.number for run in runs}]
  return [history for folder in folders if (history := History.read(folder))]


def _searches(material: Material) -> list[History]:
  return [history for history in (material.search, *material.seeds.values()) if history]


def _hours(histories: Sequence[History]) -> str:
  """Mean of the whole times of runs."""
  seconds = [sum(record.get("seconds", 0) for record in history.records) for history in histories]
  return f"{np.mean(seconds) / 3600:.3g}" if seconds else "–"


def _mean_size(
  material: Material, group: str, runs: Sequence[ControlRun]
) -> tuple[float | None, float | None]:
  """Operations and parameters of the networks of a group, as means; None where they are not known."""
  if group in TRAIN_FOLDERS and group != "searched":
    cost = material.costs.get(group, {})
    return cost.get("flops"), cost.get("parameters")
  if material.network.space.custom:
    return None, None  # the report does not know the user's modules
  sizes = [_network_size(material, run) for run in {run.number: run for run in runs}.values()]
  return tuple(float(np.mean(column)) for column in zip(*sizes, strict=True))


def _size(material: Material, group: str, runs: Sequence[ControlRun]) -> list[str]:
  flops, parameters = _mean_size(material, group, runs)
  return ["–" if flops is None else f"{flops / 1e9:.3g}", "–" if parameters is None else f"{parameters:,.0f}"]


def _network_size(material: Material, run: ControlRun) -> tuple[float, int]:
  config, settings = material.network, run.history.settings
  genotype = Genotype(**settings["genotype"], space=config.space)
  return _size_of(config, genotype, patch_size_of(settings["patch_size"]))


# The table and the figure ask for each, and searches may find the same.
@functools.cache
def _size_of(config: NetworkConfig, genotype: Genotype, patch_size: PatchSize) -> tuple[float, int]:
  net = DerivedNet(config, genotype)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(net)))
  return forward_flops(net, patch_size), parameters


def _agreement(c: Context) -> None:
  """How far the searches of several seeds agree, beside what chance gives."""
  genotypes = [history.genotype for history in _searches(c.material) if history.genotype]
  if len(genotypes) < 2:
    return
  pairs = [(one, other) for index, one in enumerate(genotypes) for other in genotypes[:index]]
  edges, rows = (float(np.mean([overlap(*pair) for pair in pairs])) for overlap in (edge_overlap, row_overlap))
  by_chance = chance_overlap(c.material.network)
  c.page.text(
    f"Agreement of the searches of {len(genotypes)} seeds, as mean over pairs: {edges:.0%} of the edges, chance gives "
    f"{by_chance[0]:.0%}; {rows:.0%} of the edges with their operations, chance gives {by_chance[1]:.0%}."
  )
