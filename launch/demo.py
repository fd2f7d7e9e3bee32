"""Runs all stages on made-up cases at toy size, and shows the command of each.

Minutes on two cores. It shows that everything works; scores of so short a training mean nothing.
"""

from __future__ import annotations

from absl import flags

from launch.device import PLATFORM_HELP

REQUIRED = ("workdir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  flags.DEFINE_string("workdir", None, "folder to write everything to", flag_values=values)
  flags.DEFINE_string("platform", None, PLATFORM_HELP, flag_values=values)


def commands(workdir: str, platform: str | None) -> list[list[str]]:
  """The command lines of the demo, after `python -m launch`, in order."""
  data, run = f"{workdir}/data", f"--workdir={workdir}"
  device = [f"--platform={platform}"] if platform else []
  network = ["--nodes=2", "--depth=2", "--patch_size=32", *device]
  predictions = f"{workdir}/predictions"
  return [
    ["phantom", f"--out={data}", "--cases=4", "--shape=64,64,48"],
    ["preprocess", f"--data_dir={data}", run, "--folds=2"],
    ["search", run, "--epochs=3", *network],
    ["train", run, "--fold=0", "--epochs=10", *network],
    ["predict", run, "--fold=0", f"--data_dir={data}", f"--out={predictions}", *device],
    ["evaluate", f"--predictions={predictions}", f"--data_dir={data}", f"--out={workdir}/scores"],
  ]


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code of the first command that fails, else 0."""
  from launch.__main__ import main as launch

  for command in commands(values["workdir"].value, values["platform"].value):
    print("\n$ python -m launch", *command, flush=True)
    if code := launch(command):
      return code
  print(f"\nEverything is in {values['workdir'].value}")
  return 0
