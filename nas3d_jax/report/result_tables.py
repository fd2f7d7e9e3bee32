"""The tables of the report: scores, differences, costs, genotypes, cases."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from nas3d_jax.evaluation import metrics
from nas3d_jax.evaluation.comparison import LEVEL, SAMPLES, PairedDifference, paired_difference
from nas3d_jax.evaluation.scores import label
from nas3d_jax.models.genotype_statistics import parameter_free_share, row_overlap
from nas3d_jax.models.search_space import family
from nas3d_jax.report.cell_figures import families_of
from nas3d_jax.report.gallery import size_text
from nas3d_jax.report.run_contents import NETWORKS, SPLITS, History, Material
from nas3d_jax.report.score_figures import SHORT
from nas3d_jax.report.table import Table, make_table
from nas3d_jax.validation import patch_size_of

COMPARED = metrics.METRICS[:-2]
"""Metrics of which more, or less, is better; volumes are not."""

_CASE_METRICS = ("dice", "hausdorff95")
Differences = Mapping[tuple[str, str, str], PairedDifference]


def number(value: float, metric: str) -> str:
  """A value of a metric, as tables show it: two decimals where it has a unit, else four."""
  return f"{value:.2f}" if metric in metrics.UNITS else f"{value:.4f}"


def brief(value: float, metric: str) -> str:
  """A value in a table of many: full precision stands in scores.json."""
  digits = 2 if metric in metrics.UNITS else 4 if metric == "specificity" else 3
  return f"{value:.{digits}f}"


def scores_table(material: Material, name: str, split: str, caption: str) -> Table:
  """Every metric, network and region of a split: mean and deviation, median and quartiles (Tables 3 and 4)."""
  regions = material.dataset.schema.region_names
  rows = []
  for metric, network in itertools.product(metrics.METRICS, material.networks_of(split)):
    values = [material.values(network, split, region, metric) for region in regions]
    if not any(values):
      continue
    row = [label(metric), NETWORKS[network], str(max(map(len, values)))]
    for found in values:
      if not found:
        row += ["–", "–"]
        continue
      every = metrics.summarize(found)
      mean, std, median, q25, q75 = (brief(every[s], metric) for s in ("mean", "std", "median", "q25", "q75"))
      row += [f"{mean} ± {std}", f"{median} ({q25}–{q75})"]
    rows.append(row)
  header = ["metric", "network", "cases"]
  for region in regions:
    header += [f"{region}, mean ± std", f"{region}, median (quartiles)"]
  return make_table(name, caption, header, rows, text_columns=2)


def means_table(material: Material) -> Table:
  """Mean and deviation over cases of the metrics that compare, a row for each split, network and region."""
  rows = []
  for split in material.splits():
    for network, region in itertools.product(material.networks_of(split), material.dataset.schema.region_names):
      cells = []
      for metric in COMPARED:
        values = material.values(network, split, region, metric)
        cells.append(f"{brief(np.mean(values), metric)} ± {brief(np.std(values), metric)}" if values else "–")
      rows.append([SHORT[split], NETWORKS[network], region, *cells])
  caption = "Mean ± standard deviation over the cases of each split."
  header = ("split", "network", "region", *(label(metric).replace("_", " ") for metric in COMPARED))
  return make_table("means", caption, header, rows, text_columns=3)


def runs_table(runs: Mapping[str, History]) -> Table:
  """Seed, size and device of every search and training."""
  rows = []
  for name, history in runs.items():
    device = history.sessions[-1] if history.sessions else {}
    seed, batch = (str(history.settings.get(key, "–")) for key in ("seed", "batch_size"))
    patch = history.settings.get("patch_size", "–")
    settings = [seed, str(patch) if isinstance(patch, (int, str)) else size_text(tuple(patch)), batch]
    count = f"{len(history.records)} of {history.settings.get('epochs', '–')}"
    where = f"{device.get('count', '–')} x {device.get('kind', '–')} ({device.get('platform', '–')})"
    version = device.get("versions", {}).get("jax", "–")
    rows.append([name, *settings, count, str(len(history.sessions)), where, version])
  header = ("run", "seed", "patch (voxels)", "batch", "epochs", "sessions", "device of the last", "JAX")
  return make_table("runs", "Every search and training of this run.", header, rows)


def paired_differences(material: Material, *, seed: int, samples: int = SAMPLES) -> Differences:
  """Searched network minus the hand-designed one on the same cases, by split, region and metric.

  There where both have scores; of two hand-designed ones the first counts.
  """
  found = {}
  for split in SPLITS:
    searched, *others = (material.scores.get((network, split)) for network in NETWORKS)
    both = [searched, next((other for other in others if other is not None), None)]
    if None in both:
      continue
    for region, metric in itertools.product(material.dataset.schema.region_names, COMPARED):
      values = [[scores.cases[case][region][metric] for case in both[0].cases] for scores in both]
      found[split, region, metric] = paired_difference(*values, seed=seed, samples=samples)
  return found


def differences_table(differences: Differences) -> Table:
  """Mean difference with its interval, and the Wilcoxon test."""
  rows = []
  for (split, region, metric), found in differences.items():
    interval = "–" if found.low is None else f"{number(found.low, metric)} to {number(found.high, metric)}"
    p_value = "–" if found.p_value is None else f"{found.p_value:.2g}"
    cells = [str(found.count), str(found.differing), number(found.mean, metric), number(found.median, metric)]
    rows.append([SHORT[split], label(metric), region, *cells, interval, p_value, found.note])
  caption = (
    f"Searched network minus hand-designed one, paired by case: mean with bootstrap {LEVEL:.0%} interval (percentile), "
    "median, and two-sided Wilcoxon signed rank test. The p values are not corrected for the "
    f"{len(rows)} tests of this table; cases of one data set and one training say nothing of other data, or of other "
    "seeds."
  )
  interval = f"{LEVEL:.0%} interval"
  header = ("split", "metric", "region", "cases", "differing", "mean", "median", interval, "p", "how p was found")
  return make_table("differences", caption, header, rows, text_columns=3)


def _patch(size: Any) -> str:
  return "–" if size is None else size_text(patch_size_of(size))


def costs_table(material: Material) -> Table:
  """Parameters, operations, memory and time of each network, beside its Dice."""
  split = next((s for s in ("cross_validation", "test", "training") if material.networks_of(s)), None)
  regions = material.dataset.schema.region_names
  rows = []
  for network, cost in material.costs.items():
    dice = [material.values(network, split, region, "dice") if split else [] for region in regions]
    rows.append(
      [
        NETWORKS.get(network, network),
        _three(cost.get("parameters")),
        _three(cost.get("flops"), 1e9),
        _patch(cost.get("patch_size")),
        _three(cost.get("peak_bytes"), 2**30),
        _three(cost.get("step_ms")),
        _three(cost.get("case_s")),
        *(f"{np.mean(values):.4f}" if values else "–" for values in dice),
        str(cost.get("device", "–")),
      ]
    )
  header = (
    "network",
    "parameters",
    "GFLOP a forward pass",
    "patch (voxels)",
    "peak memory of a step (GiB)",
    "training step (ms)",
    "prediction of a case (s)",
    *(f"Dice {region}" for region in regions),
    "device",
  )
  where = f"Dice is the mean of {SHORT[split]}." if split else "There are no scores yet."
  return make_table("costs", f"What each network costs beside what it scores. {where}", header, rows)


def genotypes_table(material: Material) -> Table:
  """How often each family of operations was chosen by each search, and how much the searches agree."""
  searches = {"seed 0": material.search, **{f"seed {k}": h for k, h in material.seeds.items() if k != "0"}}
  searches |= {f"nested, fold {fold}": history for fold, history in material.nested.items()}
  found = {name: history.genotype for name, history in searches.items() if history and history.genotype}
  first = next(iter(found.values()), None)
  families, rows = families_of(*(genotype.space for genotype in found.values())), []
  for name, genotype in found.items():
    chosen = [family(operation) for operation, _ in genotype.down + genotype.up]
    counts = [str(chosen.count(one)) for one in families]
    same = "–" if genotype is first else f"{row_overlap(first, genotype):.0%}"
    rows.append([name, str(len(searches[name].records)), *counts, f"{parameter_free_share(genotype):.0%}", same])
  caption = (
    "Operations of the genotype of each search, both cells. A search that collapses chooses little but pools and "
    "identity. Agreement: rows (operation and input of a node) that are the same as the first search's."
  )
  header = ("search", "epochs", *families, "pools and identity", "agreement")
  return make_table("genotypes", caption, header, rows)


def cases_table(material: Material, split: str, links: dict[str, str]) -> Table:
  """Dice and distance of every case, region and network of a split, with the volume of the truth."""
  regions = material.dataset.schema.region_names
  networks = [n for n in material.networks_of(split) if (n, split) in material.scores]
  known = {case.name: case for case in material.dataset.cases} if split in ("training", "cross_validation") else {}
  rows = []
  for name in material.scores[networks[0], split].cases:
    case = known.get(name)
    row = [name, (case and case.grade) or "–", "–" if case is None or case.fold is None else str(case.fold)]
    values = material.scores[networks[0], split].cases[name]
    row += [f"{values[region]['truth_ml']:.2f}" if values[region]["truth_ml"] else "none" for region in regions]
    for network, metric in itertools.product(networks, _CASE_METRICS):
      scores = material.scores[network, split].cases[name]
      row.append(" / ".join(brief(scores[region][metric], metric) for region in regions))
    rows.append(row)
  order = " / ".join(regions)
  header = ["case", "grade", "fold", *(f"truth {region} (ml)" for region in regions)]
  header += [f"{NETWORKS[n]}, {label(m)}" for n, m in itertools.product(networks, _CASE_METRICS)]
  caption = f"Every case of {SHORT[split]}; scores are of {order}. None: the region is empty in the truth."
  return make_table(f"cases_{split}", caption, header, rows, text_columns=2, links=links)


def dataset_table(material: Material) -> Table:
  """What the data set is."""
  dataset = material.dataset
  labelled = [case for case in dataset.cases if case.label_counts is not None]
  grades = {grade: sum(case.grade == grade for case in dataset.cases) for grade in ("HGG", "LGG")}
  empty = {
    region.name: sum(not any(case.label_counts[value] for value in region.labels) for case in labelled)
    for region in dataset.schema.regions
  }
  rows = [
    ("cases", f"{len(dataset.cases)}, of which {len(labelled)} with truth"),
    ("grades", ", ".join(f"{count} {grade}" for grade, count in grades.items() if count) or "not known"),
    ("cases without a region", ", ".join(f"{region}: {count}" for region, count in empty.items())),
    ("schema", f"{dataset.schema.name}; {', '.join(dataset.schema.modality_names)}"),
    ("folds", f"{dataset.folds}, seed {dataset.seed}"),
    ("fingerprint", dataset.fingerprint),
    ("made with", ", ".join(f"{name} {version}" for name, version in dataset.versions.items())),
  ]
  return make_table("dataset", "The data set.", ("what", "value"), rows, text_columns=2)


def _three(value: float | None, unit: float = 1) -> str:
  """A number with three digits, or all those of its whole part; a dash where it is not known."""
  if value is None:
    return "–"
  return f"{value / unit:,.0f}" if value >= 100 * unit else f"{value / unit:.3g}"
