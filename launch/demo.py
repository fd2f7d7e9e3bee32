"""Runs all stages on made-up cases at toy size, and shows the command of each.

Minutes on two cores, most of them for compiling. It trains on six cases and scores two others. It
shows that everything works; scores on such cases say nothing of patients. Run again, it reuses what
is there.
"""

from __future__ import annotations

from absl import flags

from nas3d_jax.runtime.program import PROGRAM
from nas3d_jax.runtime.stopping import Stop

from .flags import PLATFORM_HELP, define_path

REQUIRED = ("workdir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  define_path(values, "workdir", "folder to write everything to")
  flags.DEFINE_string("platform", None, PLATFORM_HELP, flag_values=values)


def commands(workdir: str, platform: str | None) -> list[list[str]]:
  """The command lines of the demo, after `python -m launch`, in order.

  The network is the smallest that has every part, because compiling is what takes the time; the
  learning rate and the dropout are what so small a network needs to learn in a minute.
  """
  cases, unseen = (f"{workdir}/{name}" for name in ("cases", "unseen"))
  predictions, scores = (f"{workdir}/{name}/searched/test" for name in ("predictions", "scores"))
  run, shape = f"--workdir={workdir}", "--shape=64,64,48"
  device = [f"--platform={platform}"] if platform else []
  network = ["--nodes=1", "--depth=2", "--patch_size=32", *device]
  return [
    ["phantom", f"--out={cases}", "--cases=6", "--seed=0", shape],
    ["phantom", f"--out={unseen}", "--cases=2", "--seed=1", shape],
    ["preprocess", f"--data_dir={cases}", run, "--folds=2"],
    ["search", run, "--epochs=3", *network],
    ["train", run, "--fold=0", "--epochs=40", "--learning_rate=0.004", "--dropout=0.1", *network],
    ["predict", run, "--fold=0", f"--data_dir={unseen}", f"--out={predictions}", *device],
    ["evaluate", f"--predictions={predictions}", f"--data_dir={unseen}", f"--out={scores}"],
    ["report", run, f"--test_dir={unseen}"],
  ]


def main(values: flags.FlagValues, stop: Stop) -> int:
  """Runs the stage; returns the exit code of the first command that fails, else 0."""
  from .__main__ import main as launch

  workdir = values["workdir"].value
  for command in commands(workdir, values["platform"].value):
    print(f"\n$ {PROGRAM}", *command, flush=True)
    if code := launch(command, stop):
      return code
  print(_whereabouts(workdir))
  return 0


def _whereabouts(workdir: str) -> str:
  files = {
    "cases, unseen": "the made-up cases, to train on and to score",
    "dataset": "the cases as preprocess wrote them",
    "search/genotype.json": "the cells that were found",
    "search, train/0": "metrics.jsonl and checkpoints of the search and of the training",
    "predictions/searched/test": "label volumes, to open in any NIfTI viewer over those of unseen",
    "scores/searched/test": "scores.csv and scores.json, every case and region",
    "report/index.html": "figures and tables of all this, to open in a browser",
  }
  return "\n".join([f"\nIn {workdir}:", *(f"  {name:27}{text}" for name, text in files.items())])
