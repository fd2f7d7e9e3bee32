"""Task04_Hippocampus of the Medical Segmentation Decathlon: a search, folds of two networks, their scores, and a page.

    python -m benchmarks.task04 plan --data_dir=FOLDER --workdir=RUN     prints the commands that make it all
    python -m benchmarks.task04 score --data_dir=FOLDER --workdir=RUN    predicts and scores the folds that were trained
    python -m benchmarks.task04 ablation --data_dir=FOLDER --workdir=RUN trains short, one part off (--epochs, --parts)
    python -m benchmarks.task04 ablation_page --workdir=RUN              writes benchmarks/task04_ablation.md from them
    python -m benchmarks.task04 page --workdir=RUN                       writes benchmarks/task04.md from what is there

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
# Short trainings, alike but for one part of the recipe.
SHORT = "--kernels=4 --depth=2 --batch_size=2 --sampling=random --steps_per_epoch=250 --fold=0"
PARTS = {
  "modern": "",
  "Dice alone": "--loss=dice",
  "Dice and focal": "--loss=dice_focal",
  "Dice over each sample": "--dice_over=sample",
  "Adam without decay": "--optimizer=adam --weight_decay=0",
  "SGD": "--optimizer=sgd",
  "rate as on a plateau": "--schedule=plateau",
  "no clipping": "--clip_norm=0",
  "no average": "--ema=0",
  "the paper's augmentation": "--augmentation=paper",
  "no augmentation": "--noaugment",
  "all axes mirrored": "--mirror=DHW",
  "the paper's dropout": "--dropout=0.5",
}
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


def ablation(data_dir: str, workdir: Path, epochs: int, parts: list[str]) -> None:
  """Trains, predicts and scores fold 0 once for each of these parts; what is there already is left."""
  cases = ",".join(fold_cases(workdir, 0))
  for name in parts:
    flags, own = PARTS[name], _part_folder(workdir, name)
    if (own / "scores" / "scores.csv").exists():
      continue
    own.mkdir(parents=True, exist_ok=True)
    for part in ("dataset", "search"):
      if not (own / part).exists():
        (own / part).symlink_to((workdir / part).resolve())
    launch("train", *shlex.split(f"{RECIPE} {SHORT}"), *shlex.split(flags), f"--epochs={epochs}", f"--workdir={own}")
    common = [f"--data_dir={data_dir}", f"--cases={cases}", "--overwrite"]
    launch("predict", *common, f"--workdir={own}", "--fold=0", f"--out={own / 'predicted'}")
    launch("evaluate", *common, f"--predictions={own / 'predicted'}", f"--out={own / 'scores'}")


def launch(*arguments: str) -> None:
  """Runs a command."""
  subprocess.run([sys.executable, "-m", "launch", *arguments], check=True)


def page(workdir: Path, note: str) -> str:
  """What the runs gave, in Markdown, with a note on how they were made."""
  # They load JAX.
  from nas3d_jax.checkpointing.restore import restore
  from nas3d_jax.models.flops import forward_flops

  rows, curves = [], []
  for network, fold in trained(workdir):
    folder = workdir / FOLDERS[network] / str(fold)
    count, dice, hd95 = means(workdir / "folds" / f"{network}_{fold}" / "scores")
    _, mirrored, _ = means(workdir / "folds" / f"{network}_{fold}" / "scores_mirrored")
    net, variables, metadata = restore(folder)
    parameters = sum(math.prod(leaf.shape) for leaf in _leaves(variables))
    flops = forward_flops(net, metadata.patch_size) / 1e9
    records = history(folder)
    minutes = sum(record["seconds"] for record in records) / 60
    cells = [network, fold, count, *(f"{100 * value:.2f}" for value in dice.values())]
    cells += [f"{100 * statistics.mean(found.values()):.2f}" for found in (dice, mirrored)]
    cells += [f"{value:.2f}" for value in hd95.values()]
    cells += [f"{parameters:,}", f"{flops:.1f}", f"{records[-1]['step']:,}", f"{minutes:.1f}"]
    rows.append(cells)
    losses = ", ".join(f"{record['validation_loss']:.3f}" for record in records)
    values = [record["validation_loss"] for record in records]
    level = next(epoch for epoch, value in enumerate(values, 1) if value < 1.01 * min(values))
    curves.append(f"- {network}, fold {fold}: {losses}; within 1% of its least from epoch {level} on")
  missing = [f"{n} {f}" for n in FOLDERS for f in range(FOLDS) if (n, f) not in trained(workdir)]
  heads = ["network", "fold", "cases", *(f"Dice {r}" for r in REGIONS), "mean", "mean, mirrored"]
  heads += [*(f"HD95 {r}, mm" for r in REGIONS), "parameters", "GFLOP a patch", "updates", "minutes of training"]
  found = history(workdir / "search")
  search_minutes = sum(record["seconds"] for record in found) / 60
  devices = {
    name: json.loads((workdir / name / "config.json").read_text())["sessions"][-1]
    for name in ("search", *(f"{FOLDERS[n]}/{f}" for n, f in trained(workdir)))
  }
  lines = [
    "# Task04 Hippocampus, real data",
    "",
    "Made by `python -m benchmarks.task04 page` from the runs. 220 labelled cases of the Medical Segmentation "
    f"Decathlon (CC BY-SA 4.0), {FOLDS} folds, seed {SEED}; z-score over all voxels, patches of {PATCH}, "
    "`--recipe=modern --mirror=D`, float32. Each fold is predicted by the training that did not see it, from its best "
    f"checkpoint; mirrored: with `{MIRRORED}`. One seed.",
    "",
    "Fold 0 is no clean test. Its validation loss chose the checkpoint that is scored on it, of both networks; and its "
    "labels taught the search the weights of the operations, so the genotype was chosen on it as well. Both flatter, "
    "the second the searched network alone; by how much was not measured.",
    "",
    _table(heads, rows),
    "",
    f"Missing, not trained yet: {', '.join(missing) or 'nothing'}.",
    "",
    *([note, ""] if note else []),
    f"The search took {search_minutes:.0f} minutes ({found[-1]['step']:,} steps of {len(found)} epochs), on "
    f"{_device(devices['search'])}, beside other work on the same cores. The genotype that it ended with had come up "
    f"{found[-1]['count']} of {len(found)} times:",
    "",
    f"```json\n{(workdir / 'search' / 'genotype.json').read_text().strip()}\n```",
    "",
    "The trainings ran on:",
    "",
    *dict.fromkeys(f"- {_device(device)}" for name, device in devices.items() if name != "search"),
    "",
    "Validation loss, epoch by epoch (Dice and cross-entropy):",
    "",
    *curves,
    "",
    *_ablation(workdir),
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


def _part_folder(workdir: Path, name: str) -> Path:
  """Where the short training of a part lies."""
  return workdir / "ablation" / name.replace(" ", "_").replace("'", "").replace(",", "")


def _ablation(workdir: Path) -> list[str]:
  """The table of the short trainings that are there."""
  rows, lengths = [], set()
  for name, flags in PARTS.items():
    own = _part_folder(workdir, name)
    if (own / "scores" / "scores.csv").exists():
      _, dice, _ = means(own / "scores")
      mean = statistics.mean(dice.values())
      lengths.add(settings(own / "train" / "0")["epochs"])
      cells = [f"{100 * value:.2f}" for value in (*dice.values(), mean)]
      rows.append([name, f"`{flags}`" if flags else "", *cells])
  if not rows:
    return []
  sessions = json.loads(next((workdir / "ablation").glob("*/train/0/config.json")).read_text())["sessions"]
  return [
    f"One part of the recipe off at a time: trainings of {' or '.join(map(str, sorted(lengths)))} x 250 updates "
    f"(`{SHORT}`), one seed, on {_device(sessions[-1])}. "
    "Differences of a point or two may be chance; what needs time to pay, such as augmentation, cannot show here.",
    "",
    _table(["training", "flags", *(f"Dice {r}" for r in REGIONS), "mean"], rows),
    "",
  ]


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


def _leaves(tree: Any) -> list[Any]:
  return [leaf for value in tree.values() for leaf in _leaves(value)] if hasattr(tree, "values") else [tree]


def _table(heads: list[str], rows: list[list[Any]]) -> str:
  return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [heads, ["---"] * len(heads), *rows])


def _device(session: dict[str, Any]) -> str:
  return "{count} x {kind} (Python {versions[python]}, jax {versions[jax]})".format(**session)


def main() -> None:
  """Does what the command line asks for."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("what", choices=["plan", "score", "ablation", "ablation_page", "page"])
  parser.add_argument("--data_dir", default="Task04_Hippocampus")
  parser.add_argument("--workdir", default="run")
  parser.add_argument("--epochs", type=int, default=1, help="of each training of the ablation")
  parser.add_argument("--parts", default=",".join(PARTS), help="of the ablation, with commas")
  parser.add_argument("--note", default="", help="what the page says of how the runs were made")
  given = parser.parse_args()
  workdir = Path(given.workdir)
  if given.what == "plan":
    print("\n".join(f"python -m launch {shlex.join(command)}" for command in plan(given.data_dir, given.workdir)))
  elif given.what == "score":
    score(given.data_dir, workdir)
  elif given.what == "ablation":
    parts = given.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
      parser.error(f"--parts must be of {', '.join(PARTS)}, got {', '.join(unknown)}")
    ablation(given.data_dir, workdir, given.epochs, parts)
  elif given.what == "ablation_page":
    lines = ["# Task04 Hippocampus: parts of the recipe", "", given.note, "", *_ablation(workdir)]
    Path(__file__).with_name("task04_ablation.md").write_text("\n".join(lines))
  else:
    Path(__file__).with_suffix(".md").write_text(page(workdir, given.note))


if __name__ == "__main__":
  main()
