"""Task04_Hippocampus of the Medical Segmentation Decathlon: search, five folds of two networks, and a page of them.

    python -m benchmarks.task04 plan --data_dir=FOLDER --workdir=RUN     the commands, in their order, to be run
    python -m benchmarks.task04 page --data_dir=FOLDER --workdir=RUN     benchmarks/task04.md, from what they left

A fold that was not trained, or not to its end, is named as missing in the page.
"""

from __future__ import annotations

import shlex

PATCH, FOLDS = "40,56,40", 5
RECIPE = f"--patch_size={PATCH} --recipe=modern --mirror=D"
SEARCH = f"search {RECIPE} --fold=0 --kernels=4 --depth=2 --batch_size=4 --dropout=0 --epochs=24 --min_count=24"
RATES = "--hybrid_learning_rate=3e-3 --kernel_learning_rate=3e-3"
TRAIN = {
  "searched": f"train {RECIPE} --batch_size=8 --depth=2",
  "plain_unet": f"train {RECIPE} --batch_size=8 --network=plain_unet --filters=16 --levels=4",
}
EPOCHS = 150
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
