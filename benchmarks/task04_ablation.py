"""Parts of the recipe on Task04_Hippocampus: short trainings, alike but for one part, and a page.

    python -m benchmarks.task04_ablation run --data_dir=FOLDER --workdir=RUN  trains what is left of --parts (--epochs)
    python -m benchmarks.task04_ablation page --workdir=RUN                   adds it to its JSON, and writes the page

The run directory holds `dataset` and `search` of `benchmarks.task04`. Fold 0 is left out of the trainings, and judges.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from pathlib import Path
from typing import Any

from benchmarks import task04
from benchmarks.task04 import RECIPE, REGIONS, launch, table

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


def run(data_dir: str, workdir: Path, epochs: int, parts: list[str]) -> None:
  """Trains, predicts and scores once for each of these parts; what is there already is left."""
  cases = ",".join(task04.fold_cases(workdir, 0))
  for name in parts:
    own = _folder(workdir, name)
    if (own / "scores" / "scores.csv").exists():
      continue
    own.mkdir(parents=True, exist_ok=True)
    for part in ("dataset", "search"):
      if not (own / part).exists():
        (own / part).symlink_to((workdir / part).resolve())
    flags = shlex.split(f"{RECIPE} {SHORT} {PARTS[name]}")
    launch("train", *flags, f"--epochs={epochs}", f"--workdir={own}")
    common = [f"--data_dir={data_dir}", f"--cases={cases}", "--overwrite"]
    launch("predict", *common, f"--workdir={own}", "--fold=0", f"--out={own / 'predicted'}")
    launch("evaluate", *common, f"--predictions={own / 'predicted'}", f"--out={own / 'scores'}")


def collect(workdir: Path) -> list[dict[str, Any]]:
  """What each finished training gave; needs the runs."""
  records = []
  for name in PARTS:
    own = _folder(workdir, name)
    if (own / "scores" / "scores.csv").exists():
      run = own / "train" / "0"
      epochs, device = task04.settings(run)["epochs"], task04.device(task04.last_session(run))
      _, dice, _ = task04.means(own / "scores")
      records.append({"training": name, "epochs": epochs, "device": device, "dice": dice})
  return records


def merged(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Both, each training once and the later one of it, in the order of the tables."""
  found = {(record["epochs"], record["training"]): record for record in [*before, *now]}
  return [found[key] for key in sorted(found, key=lambda key: (key[0], list(PARTS).index(key[1])))]


def page(records: list[dict[str, Any]], note: str) -> str:
  """What the trainings gave, in Markdown, with a note on how they were made."""
  lines = [
    "# Task04 Hippocampus: parts of the recipe",
    "",
    "Made by `python -m benchmarks.task04_ablation page` from the runs. One part of the recipe off at a time: short "
    f"trainings of the network of [task04.md](task04.md) with fewer kernels (`{RECIPE} {SHORT}`), one seed. The best "
    "checkpoint of each is scored on fold 0, whose validation loss chose it. Differences of a point or two may be "
    "chance; what needs time to pay, such as augmentation, cannot show in trainings this short.",
    "",
    *([note, ""] if note else []),
  ]
  for epochs in dict.fromkeys(record["epochs"] for record in records):
    found = [record for record in records if record["epochs"] == epochs]
    rows = []
    for record in found:
      flags, dice = PARTS[record["training"]], list(record["dice"].values())
      values = [f"{100 * value:.2f}" for value in (*dice, statistics.mean(dice))]
      rows.append([record["training"], f"`{flags}`" if flags else "", *values])
    left = [name for name in PARTS if name not in {record["training"] for record in found}]
    lines += [
      f"## {250 * epochs:,} updates",
      "",
      f"On {', '.join(dict.fromkeys(record['device'] for record in found))}.",
      "",
      table(["training", "flags", *(f"Dice {r}" for r in REGIONS), "mean"], rows),
      "",
      f"Not trained to this length: {', '.join(left) or 'none'}.",
      "",
    ]
  return "\n".join(lines)


def _folder(workdir: Path, name: str) -> Path:
  """Where the training of a part lies."""
  return workdir / "ablation" / name.replace(" ", "_").replace("'", "").replace(",", "")


def main() -> None:
  """Does what the command line asks for."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("what", choices=["run", "page"])
  parser.add_argument("--data_dir", default="Task04_Hippocampus")
  parser.add_argument("--workdir", default="run")
  parser.add_argument("--epochs", type=int, default=4, help="of each training")
  parser.add_argument("--parts", default=",".join(PARTS), help="which to train, with commas")
  parser.add_argument("--note", default="", help="what the page says of how the runs were made")
  given = parser.parse_args()
  workdir, parts = Path(given.workdir), given.parts.split(",")
  if unknown := sorted(set(parts) - set(PARTS)):
    parser.error(f"--parts must be of {', '.join(PARTS)}, got {', '.join(unknown)}")
  if given.what == "run":
    run(given.data_dir, workdir, given.epochs, parts)
  else:
    store = Path(__file__).with_suffix(".json")
    records = merged(task04.read_store(store, []), collect(workdir))
    store.write_text("[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n")
    Path(__file__).with_suffix(".md").write_text(page(records, given.note))


if __name__ == "__main__":
  main()
