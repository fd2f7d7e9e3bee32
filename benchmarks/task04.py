"""Task04_Hippocampus of the Medical Segmentation Decathlon: a search, folds of two networks, their scores, and a page.

    python -m benchmarks.task04 plan --data_dir=FOLDER --workdir=RUN     prints the commands that make it all
    python -m benchmarks.task04 score --data_dir=FOLDER --workdir=RUN    predicts and scores the folds that were trained
    python -m benchmarks.task04 page --workdir=RUN                       adds it to task04.json, and writes task04.md

A fold that was not trained to its last epoch is named as missing in the page.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

PATCH, FOLDS, SEED = "40,56,40", 5, 0
RECIPE = f"--patch_size={PATCH} --recipe=modern --mirror=D"
SEARCH = f"search {RECIPE} --fold=0 --kernels=2 --depth=2 --batch_size=1 --dropout=0 --epochs=5 --min_count=5"
RATES = "--hybrid_learning_rate=3e-3 --kernel_learning_rate=3e-3"
EPOCH = "--batch_size=8 --sampling=random --steps_per_epoch=250"
TRAIN = {
  "searched": f"train {RECIPE} {EPOCH} --depth=2",
  "plain_unet": f"train {RECIPE} {EPOCH} --network=plain_unet --filters=16 --levels=4",
}
EPOCHS = 12
MIRRORED = "--tta --tta_axes=D --overlap=0.5 --gaussian"
REGIONS = ("Anterior", "Posterior")
FOLDERS = {"searched": "train", "plain_unet": "plain_unet"}


def search_command(workdir: str) -> list[str]:
  """The search, as arguments of `python -m launch`."""
  return [*shlex.split(f"{SEARCH} {RATES}"), f"--workdir={workdir}"]


def train_command(workdir: str, network: str, fold: str, *, kernels: int = 12, epochs: int = EPOCHS) -> list[str]:
  """A training, as arguments of `python -m launch`."""
  size = [f"--kernels={kernels}"] if network == "searched" else []
  return [*shlex.split(TRAIN[network]), *size, f"--epochs={epochs}", f"--fold={fold}", f"--workdir={workdir}"]


def plan(data_dir: str, workdir: str) -> list[list[str]]:
  """All commands but the page, in their order."""
  commands = [
    ["preprocess", f"--data_dir={data_dir}", f"--workdir={workdir}", "--normalization=zscore", f"--folds={FOLDS}"],
    search_command(workdir),
  ]
  for network in TRAIN:
    commands += [train_command(workdir, network, str(fold)) for fold in range(FOLDS)]
  return commands


def fold_cases(workdir: Path, fold: int) -> list[str]:
  """Names of the cases of a fold."""
  manifest = json.loads((workdir / "dataset" / "manifest.json").read_text())
  return [case["name"] for case in manifest["cases"] if case["fold"] == fold]


def trained(workdir: Path) -> list[tuple[str, int]]:
  """Network and fold of each training that came to its end."""
  found = []
  for network, folder in FOLDERS.items():
    for fold in range(FOLDS):
      records = history(workdir / folder / str(fold))
      if records and records[-1]["epoch"] == settings(workdir / folder / str(fold))["epochs"]:
        found.append((network, fold))
  return found


def history(folder: Path) -> list[dict[str, Any]]:
  """The epochs of a run; none where there is no run."""
  path = folder / "metrics.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def settings(folder: Path) -> dict[str, Any]:
  """The settings of a run."""
  return json.loads((folder / "config.json").read_text())["settings"]


def score(data_dir: str, workdir: Path) -> None:
  """Predicts and scores the cases of each fold by the training that did not see them."""
  for network, fold in trained(workdir):
    out, cases = workdir / "folds" / f"{network}_{fold}", ",".join(fold_cases(workdir, fold))
    source = [f"--workdir={workdir}", f"--fold={fold}", f"--network={network}"]
    common = [f"--data_dir={data_dir}", f"--cases={cases}", "--overwrite"]
    for end, flags in (("", []), ("_mirrored", MIRRORED.split())):
      launch("predict", *source, *common, *flags, f"--out={out / f'predicted{end}'}")
      launch("evaluate", *common, f"--predictions={out / f'predicted{end}'}", f"--out={out / f'scores{end}'}")


def launch(*arguments: str) -> None:
  """Runs a command."""
  subprocess.run([sys.executable, "-m", "launch", *arguments], check=True)


def collect(workdir: Path) -> dict[str, Any]:
  """What the search and each finished training gave, and how they were made; needs the runs."""
  # They load JAX.
  from nas3d_jax.checkpointing.restore import restore
  from nas3d_jax.models.flops import forward_flops

  found: dict[str, Any] = {"search": None, "trainings": []}
  if (workdir / "search" / "genotype.json").exists():
    records = history(workdir / "search")
    found["search"] = {
      "minutes": _minutes(records),
      "steps": records[-1]["step"],
      "epochs": len(records),
      "count": records[-1]["count"],
      "genotype": (workdir / "search" / "genotype.json").read_text().strip(),
      "device": device(last_session(workdir / "search")),
    }
  for network, fold in trained(workdir):
    folder, scores = workdir / FOLDERS[network] / str(fold), workdir / "folds" / f"{network}_{fold}"
    count, dice, hd95 = means(scores / "scores")
    _, mirrored, _ = means(scores / "scores_mirrored")
    net, variables, metadata = restore(folder)
    records = history(folder)
    losses = [record["validation_loss"] for record in records]
    found["trainings"].append({
      "network": network,
      "fold": fold,
      "cases": count,
      "dice": dice,
      "mirrored": statistics.mean(mirrored.values()),
      "hd95": hd95,
      "parameters": sum(math.prod(leaf.shape) for leaf in _leaves(variables)),
      "gflop": forward_flops(net, metadata.patch_size) / 1e9,
      "updates": records[-1]["step"],
      "minutes": _minutes(records),
      "validation_loss": losses,
      "level": next(epoch for epoch, value in enumerate(losses, 1) if value < 1.01 * min(losses)),
      "device": device(last_session(folder)),
    })
  return found


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
  """Both, the later search, and each training once and the later one of it, in the order of the table."""
  found = {(one["network"], one["fold"]): one for one in [*before["trainings"], *now["trainings"]]}
  order = sorted(found, key=lambda key: (list(FOLDERS).index(key[0]), key[1]))
  return {"search": now["search"] or before["search"], "trainings": [found[key] for key in order]}


def page(results: dict[str, Any], note: str) -> str:
  """What the runs gave, in Markdown, with a note on how they were made."""
  rows, curves, search = [], [], results["search"]
  for one in results["trainings"]:
    losses = one["validation_loss"]
    cells = [one["network"], one["fold"], one["cases"], *(f"{value:.2f}" for value in _scores(one))]
    cells += [f"{one['parameters']:,}", f"{one['gflop']:.1f}", f"{one['updates']:,}", f"{one['minutes']:.1f}"]
    rows.append(cells)
    spelled = ", ".join(f"{loss:.3f}" for loss in losses)
    curves.append(
      f"- {one['network']}, fold {one['fold']}: {spelled}; within 1% of its least from epoch {one['level']} on"
    )
  rows += _over_folds(results["trainings"])
  done = {(one["network"], one["fold"]) for one in results["trainings"]}
  missing = [f"{n} {f}" for n in FOLDERS for f in range(FOLDS) if (n, f) not in done]
  heads = ["network", "fold", "cases", *(f"Dice {r}" for r in REGIONS), "mean", "mean, mirrored"]
  heads += [*(f"HD95 {r}, mm" for r in REGIONS), "parameters", "GFLOP a patch", "updates", "minutes of training"]
  lines = [
    "# Task04 Hippocampus, real data",
    "",
    "Made by `python -m benchmarks.task04 page` from the runs. 220 labelled cases of the Medical Segmentation "
    f"Decathlon (CC BY-SA 4.0), {FOLDS} folds, seed {SEED}; z-score over all voxels, patches of {PATCH}, "
    "`--recipe=modern --mirror=D`, float32. Each fold is predicted by the training that did not see it, from its best "
    f"checkpoint; mirrored: with `{MIRRORED}`. One seed.",
    "",
    "No fold is a clean test: its validation loss chose the checkpoint that is scored on it, of both networks. And the "
    "one search saw all cases: fold 0 taught it the weights of the operations, the others the kernels, so that the "
    "genotype was chosen on all of them, most of all on fold 0. The second flatters the searched network alone; by how "
    "much either does was not measured.",
    "",
    table(heads, rows),
    "",
    f"Missing, not trained yet: {', '.join(missing) or 'nothing'}.",
    "",
    *([note, ""] if note else []),
    f"The search took {search['minutes']:.0f} minutes ({search['steps']:,} steps of {search['epochs']} epochs), on "
    f"{search['device']}, beside other work on the same cores. The genotype that it ended with had come up "
    f"{search['count']} of {search['epochs']} times:",
    "",
    f"```json\n{search['genotype']}\n```",
    "",
    "The trainings ran on:",
    "",
    *dict.fromkeys(f"- {one['device']}" for one in results["trainings"]),
    "",
    "Validation loss, epoch by epoch (Dice and cross-entropy):",
    "",
    *curves,
    "",
    "One part of the recipe off at a time: [task04_ablation.md](task04_ablation.md).",
    "",
    "What others reach on all 260 cases in five folds, Dice anterior / posterior / mean: nnU-Net v2 89.85 / 88.23 / "
    "89.04, at 7.05 hours of an H100 a fold (1,000 epochs of 250 updates of 9 patches); ResEnc M 88.75; the best of "
    "Auto-nnU-Net's searches 90.30 / 88.61 / 89.46. Those are of other folds and of 40 cases more.",
    "",
    "The commands:",
    "",
    "```sh",
    *(f"python -m launch {' '.join(command)}" for command in plan("Task04_Hippocampus", "run")),
    "python -m benchmarks.task04 score --data_dir=Task04_Hippocampus --workdir=run",
    "python -m benchmarks.task04 page --workdir=run",
    "```",
    "",
  ]
  return "\n".join(lines)


def _over_folds(trainings: list[dict[str, Any]]) -> list[list[Any]]:
  """A row for each network that has all folds: the means over their cases."""
  rows = []
  for network in FOLDERS:
    ones = [one for one in trainings if one["network"] == network]
    if len(ones) == FOLDS:
      cases = [one["cases"] for one in ones]
      values = [statistics.fmean(column, cases) for column in zip(*map(_scores, ones), strict=True)]
      cells = [network, "all", sum(cases), *(f"{value:.2f}" for value in values)]
      rows.append([*cells, f"{ones[0]['parameters']:,}", f"{ones[0]['gflop']:.1f}", "", ""])
  return rows


def _scores(one: dict[str, Any]) -> list[float]:
  """Of a training: Dice of each region, their mean, that with mirroring, all in percent, and the distances in mm."""
  dice = one["dice"].values()
  return [*(100 * value for value in (*dice, statistics.mean(dice), one["mirrored"])), *one["hd95"].values()]


def means(folder: Path) -> tuple[int, dict[str, float], dict[str, float]]:
  """Number of cases, and the mean Dice and 95% Hausdorff distance of each region in `scores.csv`."""
  with (folder / "scores.csv").open() as file:
    scores = list(csv.DictReader(file))
  of = {r: [row for row in scores if row["region"] == r] for r in REGIONS}
  dice, hd95 = (
    {region: statistics.mean(float(row[metric]) for row in rows) for region, rows in of.items()}
    for metric in ("dice", "hausdorff95")
  )
  return len(scores) // len(REGIONS), dice, hd95


def last_session(folder: Path) -> dict[str, Any]:
  """What a run says of the machine on which it computed last."""
  return json.loads((folder / "config.json").read_text())["sessions"][-1]


def device(session: dict[str, Any]) -> str:
  """That in words."""
  return "{count} x {kind} (Python {versions[python]}, jax {versions[jax]})".format(**session)


def read_store(path: Path, empty: Any) -> Any:
  """What earlier runs gave, which are not there any more; `empty` where nothing is stored."""
  return json.loads(path.read_text()) if path.exists() else empty


def _minutes(records: list[dict[str, Any]]) -> float:
  """Of all epochs of a run."""
  return sum(record["seconds"] for record in records) / 60


def _leaves(tree: Any) -> list[Any]:
  return [leaf for value in tree.values() for leaf in _leaves(value)] if hasattr(tree, "values") else [tree]


def table(heads: list[str], rows: list[list[Any]]) -> str:
  """A table in Markdown."""
  return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [heads, ["---"] * len(heads), *rows])


def main() -> None:
  """Does what the command line asks for."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("what", choices=["plan", "score", "page"])
  parser.add_argument("--data_dir", default="Task04_Hippocampus")
  parser.add_argument("--workdir", default="run")
  parser.add_argument("--note", default="", help="what the page says of how the runs were made")
  given = parser.parse_args()
  workdir = Path(given.workdir)
  if given.what == "plan":
    print("\n".join(f"python -m launch {shlex.join(command)}" for command in plan(given.data_dir, given.workdir)))
  elif given.what == "score":
    score(given.data_dir, workdir)
  else:
    store = Path(__file__).with_suffix(".json")
    results = merged(read_store(store, {"search": None, "trainings": []}), collect(workdir))
    store.write_text(json.dumps(results, indent=1) + "\n")
    Path(__file__).with_suffix(".md").write_text(page(results, given.note))


if __name__ == "__main__":
  main()
