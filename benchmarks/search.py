"""Is a search worth its price? Searched and random genotypes, trained alike on Task04_Hippocampus, and a page.

    python -m benchmarks.search run --data_dir=FOLDER --workdir=RUN    searches, draws, trains, scores; goes on
    python -m benchmarks.search page --workdir=RUN                     adds it to search.json, and writes search.md

Fold 0 takes no part in the searches, is left out of the trainings, and judges. The last checkpoint is scored, so that
its labels choose nothing.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.task04 import FOLDS, REGIONS, device, fold_cases, history, last_session, launch, read_store, table

SEEDS, RANDOM = 3, 5
PATCH = "--patch_size=40,56,40 --nodes=2 --depth=2"
RECIPE = "--recipe=modern --loss=dice --mirror=D"
DRAW = f"{PATCH} --fold=1 --kernels=2"
SEARCH = (
  f"{PATCH} {RECIPE} --fold=1 --kernels=2 --batch_size=1 --dropout=0 --epochs=10 --min_count=10 --sampling=random "
  "--steps_per_epoch=60 --hybrid_learning_rate=1e-2 --kernel_learning_rate=3e-3"
)
TRAIN = f"{PATCH} {RECIPE} --fold=0 --kernels=4 --batch_size=2 --sampling=random --steps_per_epoch=250 --epochs=4"
PICTURE = "docs/pictures/search.png"
METHODS = {"darts": SEEDS, "single_path": SEEDS, "random": RANDOM}
# Choices beside darts: name -> seeds, whose search it takes (None: its own), more flags of search, of train.
CHOICES = {
  "darts_warmup": (2, None, "--warmup_epochs=3", ""),
  "darts_small_patch": (2, None, "--patch_size=24,32,24", ""),
  "darts_2_kernels": (SEEDS, "darts", "", "--kernels=2"),
  "darts_2_kernels_from_search": (SEEDS, "darts", "", "--kernels=2 --init_from={search}"),
}
# Choice -> the method whose networks of the same seeds it is compared with.
BESIDE = {"darts_warmup": "darts", "darts_small_patch": "darts", "darts_2_kernels_from_search": "darts_2_kernels"}


def runs() -> list[tuple[str, int]]:
  """Method or choice, and seed of each network; they take turns, so that what is there early compares."""
  counts = METHODS | {choice: seeds for choice, (seeds, *_) in CHOICES.items()}
  return [(method, seed) for seed in range(max(counts.values())) for method, count in counts.items() if seed < count]


def searched_in(workdir: Path, method: str, seed: int) -> Path:
  """The run directory of the search that a network comes from: its own, or that which its choice takes."""
  source = CHOICES[method][1] if method in CHOICES else None
  return workdir / (source or method) / str(seed) / "searched"


def run(data_dir: str, workdir: Path) -> None:
  """Does what is left."""
  # It loads JAX.
  from nas3d_jax.data.dataset.reference import write_reference

  if not (workdir / "dataset" / "manifest.json").exists():
    launch("preprocess", f"--data_dir={data_dir}", f"--workdir={workdir}", "--normalization=zscore", f"--folds={FOLDS}")
  cases = ",".join(fold_cases(workdir, 0))
  for method, seed in runs():
    own = workdir / method / str(seed)
    if (own / "scores" / "scores.csv").exists():
      continue
    *_, search_flags, train_flags = CHOICES.get(method, ("", ""))
    searched = searched_in(workdir, method, seed)
    if not (searched / "search" / "genotype.json").exists():
      write_reference(searched, workdir / "dataset", without_fold=0)
      how = DRAW if method == "random" else f"{SEARCH} {search_flags}"
      named = f"--method={'darts' if method in CHOICES else method}"
      launch("search", f"--workdir={searched}", named, f"--seed={seed}", *shlex.split(how))
    write_reference(own, workdir / "dataset")
    how = shlex.split(f"{TRAIN} {train_flags.format(search=searched / 'search')}")
    launch("train", f"--workdir={own}", f"--genotype={searched / 'search' / 'genotype.json'}", *how)
    common = [f"--data_dir={data_dir}", f"--cases={cases}", "--overwrite"]
    last = max((own / "train" / "0" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    launch("predict", *common, f"--checkpoint={last}", f"--out={own / 'predicted'}")
    launch("evaluate", *common, f"--predictions={own / 'predicted'}", f"--out={own / 'scores'}")


def collect(workdir: Path) -> list[dict[str, Any]]:
  """What each finished run gave, and how it was made; needs the runs."""
  # They load JAX.
  from nas3d_jax.checkpointing.restore import restore
  from nas3d_jax.evaluation.scores import Scores
  from nas3d_jax.models.flops import forward_flops

  records = []
  for method, seed in runs():
    own = workdir / method / str(seed)
    if not (own / "scores" / "scores.csv").exists():
      continue
    searched = searched_in(workdir, method, seed)
    net, variables, metadata = restore(own / "train" / "0", "last")
    cases = Scores.load(own / "scores").cases
    records.append({
      "method": method,
      "seed": seed,
      "dice": {region: {case: round(cases[case][region]["dice"], 6) for case in sorted(cases)} for region in REGIONS},
      "flops": forward_flops(net, metadata.patch_size),
      "parameters": sum(leaf.size for leaf in _leaves(variables)),
      "genotype": json.loads(metadata.genotype.to_json()),
      "network": metadata.network.to_dict(),
      "search_minutes": _minutes(searched / "search"),
      "train_minutes": _minutes(own / "train" / "0"),
      "validation_loss": [round(record["validation_loss"], 4) for record in history(own / "train" / "0")],
      "session": last_session(own / "train" / "0"),
    })
  return records


def merged(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Both, each network once and the later one of it, in the order of the table."""
  order = [*METHODS, *CHOICES]
  found = {(record["method"], record["seed"]): record for record in [*before, *now]}
  return [found[key] for key in sorted(found, key=lambda key: (order.index(key[0]), key[1]))]


def page(records: list[dict[str, Any]], note: str) -> str:
  """What the runs gave, in Markdown, with a note on how they were made."""
  from nas3d_jax.evaluation.control import gain_over_random
  from nas3d_jax.models.config import NetworkConfig
  from nas3d_jax.models.genotype import Genotype
  from nas3d_jax.models.genotype_statistics import chance_overlap, edge_overlap, parameter_free_share, row_overlap

  rows, dice, genotypes = [], {}, {}
  for record in records:
    method, scores = record["method"], record["dice"]
    of_cases = [statistics.mean(of) for of in zip(*(scores[region].values() for region in REGIONS), strict=True)]
    genotype = Genotype.from_json(json.dumps(record["genotype"]))
    dice.setdefault(method, []).append(of_cases)
    genotypes.setdefault(method, []).append(genotype)
    cells = [method, record["seed"], *(f"{100 * statistics.mean(scores[region].values()):.2f}" for region in REGIONS)]
    cells += [f"{100 * np.mean(of_cases):.2f}", f"{record['flops'] / 1e9:.2f}", f"{record['parameters']:,}"]
    cells += [f"{parameter_free_share(genotype):.0%}", record["search_minutes"], record["train_minutes"]]
    rows.append(cells)
  done = [(record["method"], record["seed"]) for record in records]
  config = NetworkConfig.from_dict(records[0]["network"])
  heads = ["method", "seed", *(f"Dice {region}" for region in REGIONS), "mean", "GFLOP a patch", "parameters"]
  heads += ["pools and identity", "minutes of search", "minutes of training"]
  lines = [
    "# Is the search worth its price?",
    "",
    "Made by `python -m benchmarks.search page` from the runs. Task04 of the Medical Segmentation Decathlon, 220 "
    f"cases, {FOLDS} folds. Fold 0 ({len(next(iter(dice.values()))[0])} cases) took no part in the searches and "
    "trainings; the last checkpoint of each training is scored on it, without mirroring. Each is trained once.",
    "",
    table(heads, rows),
    "",
    f"![Mean Dice of each network by method, and against its operations](../{PICTURE})",
    "",
    f"Missing: {', '.join(f'{method} {seed}' for method, seed in runs() if (method, seed) not in done) or 'nothing'}.",
    "",
  ]
  for method in ("darts", "single_path"):
    if method in dice and "random" in dice:
      gain = gain_over_random(dice[method], dice["random"], seed=0)
      interval = "no interval of one genotype"
      if gain.low is not None:
        interval = f"95% interval {gain.low:+.2f}% to {gain.high:+.2f}%, over cases and genotypes"
      spread = " and ".join(
        f"{np.mean(dice[m], 1).mean() * 100:.2f} ± {np.std(np.mean(dice[m], 1), ddof=1) * 100:.2f} ({len(dice[m])})"
        for m in (method, "random")
        if len(dice[m]) > 1
      )
      lines += [
        f"- {method}: gain over random {gain.value:+.2f}% ({interval}); mean ± deviation over networks {spread}"
      ]
    if len(genotypes.get(method, [])) > 1:
      found = genotypes[method]
      pairs = [(one, other) for index, one in enumerate(found) for other in found[:index]]
      edges, own = (statistics.mean(f(*pair) for pair in pairs) for f in (edge_overlap, row_overlap))
      chance = chance_overlap(config)
      lines += [
        f"- {method}: seeds agree in {edges:.0%} of the edges (chance {chance[0]:.0%}) and in {own:.0%} of the edges "
        f"with their operations (chance {chance[1]:.0%})"
      ]
  lines += [
    *_effects({(record["method"], record["seed"]): record for record in records}),
    "",
    *([note, ""] if note else []),
    "The trainings ran on:",
    "",
    *dict.fromkeys(f"- {device(record['session'])}" for record in records),
    "",
    "```sh",
    "python -m benchmarks.search run --data_dir=Task04_Hippocampus --workdir=run",
    f"# python -m launch search --method=METHOD --seed=K {SEARCH}",
    f"# python -m launch search --method=random --seed=K {DRAW}",
    f"# python -m launch train {TRAIN}",
    *(f"# {choice}: {more[0]}{more[1]} beside these" for choice, (_, _, *more) in CHOICES.items()),
    "python -m benchmarks.search page --workdir=run",
    "```",
    "",
  ]
  return "\n".join(lines)


def _effects(records: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
  """What a choice changed, seed by seed."""
  lines = []
  for choice, method in BESIDE.items():
    for seed in range(CHOICES[choice][0]):
      pair = [records.get((name, seed)) for name in (choice, method)]
      if None in pair:
        continue
      dice = [100 * np.mean([list(of.values()) for of in record["dice"].values()]) for record in pair]
      losses = [" ".join(f"{loss:.3f}" for loss in record["validation_loss"]) for record in pair]
      lines.append(
        f"- {choice} beside {method}, seed {seed}: {dice[0] - dice[1]:+.2f} points of Dice; validation loss epoch by "
        f"epoch {losses[0]} beside {losses[1]}"
      )
  return lines


def figure(records: list[dict[str, Any]]) -> Figure:
  """The mean Dice of each network of a method, and the same against its operations."""
  drawn = Figure(figsize=(9, 3), layout="constrained")
  left, right = drawn.subplots(1, 2, sharey=True)
  groups = [method for method in METHODS if any(record["method"] == method for record in records)]
  for place, method in enumerate(groups):
    found = [record for record in records if record["method"] == method]
    dice = [100 * np.mean([list(of.values()) for of in record["dice"].values()]) for record in found]
    left.plot([place] * len(dice), dice, "o", color=f"C{place}", alpha=0.7)
    left.plot([place - 0.2, place + 0.2], [np.mean(dice)] * 2, color=f"C{place}")
    right.plot([record["flops"] / 1e9 for record in found], dice, "o", color=f"C{place}", alpha=0.7, label=method)
  left.set_xticks(range(len(groups)), groups)
  left.set(ylabel="mean Dice, %, fold 0", title="a point a network, a line the mean", xlim=(-0.5, len(groups) - 0.5))
  right.set(xlabel="GFLOP a patch", title="against its cost")
  right.legend()
  for axes in (left, right):
    axes.grid(alpha=0.3)
  return drawn


def _minutes(folder: Path) -> str:
  """Of all epochs of a run."""
  records = history(folder)
  return f"{sum(record['seconds'] for record in records) / 60:.1f}" if records else "0"


def _leaves(tree: Any) -> list[Any]:
  return [leaf for value in tree.values() for leaf in _leaves(value)] if hasattr(tree, "values") else [tree]


def main() -> None:
  """Does what the command line asks for."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("what", choices=["run", "page"])
  parser.add_argument("--data_dir", default="Task04_Hippocampus")
  parser.add_argument("--workdir", default="run")
  parser.add_argument("--note", default="", help="what the page says of how the runs were made")
  given = parser.parse_args()
  if given.what == "run":
    run(given.data_dir, Path(given.workdir))
  else:
    own = Path(__file__)
    store = own.with_suffix(".json")
    records = merged(read_store(store, []), collect(Path(given.workdir)))
    store.write_text("[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n")
    figure(records).savefig(own.parents[1] / PICTURE, dpi=110)
    own.with_suffix(".md").write_text(page(records, given.note))


if __name__ == "__main__":
  main()
