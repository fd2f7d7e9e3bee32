"""Lists the stages, or runs one: `python -m launch STAGE --flags`.

A stage is a module of this package with `REQUIRED`, the names of the flags that must be given,
`define(values)`, which defines its flags, and `main(values)`, which returns the exit code; where it
has `notes()`, their text ends its help. Only `main` and `notes` import what takes long, so that
help comes at once.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType

from absl import flags

STAGES = ("phantom", "preprocess", "search", "train", "predict", "evaluate", "report", "experiment", "demo")

_DONE, _WRONG_INPUT, _INTERRUPTED = 0, 2, 130
_HELP = ("--help", "-help", "-h", "-?", "--helpshort")
_HELPFULL = ("--helpfull", "-helpfull")


def main(arguments: Sequence[str]) -> int:
  """Runs a command.

  Args:
    arguments: the command line after `python -m launch`.

  Returns:
    The exit code: 0, 2 for a wrong input, 130 where Ctrl-C ended it.
  """
  # XLA reports as errors on stderr what is none: that a program in the cache was compiled with
  # features such as "prefer-no-gather", on this same machine. True errors come as exceptions. It
  # has to be said before JAX is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  if not arguments or arguments[0] in _HELP + _HELPFULL:
    print(_overview())
    return _DONE
  name, *rest = arguments
  if name not in STAGES:
    near = difflib.get_close_matches(name, STAGES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(STAGES)}"
    return _complain(f"no stage {name!r}; {hint}")
  stage = importlib.import_module(f"launch.{name}")
  values = flags.FlagValues()
  stage.define(values)
  if any(argument in _HELP + _HELPFULL for argument in rest):
    print(_help(name, stage, values, full=any(argument in _HELPFULL for argument in rest)))
    return _DONE
  try:
    surplus = values([name, *rest])[1:]
  except flags.Error as error:
    message = str(error).removeprefix("ERROR:: ")
    return _complain(f"{message} (python -m launch {name} --help)")
  missing = [flag for flag in stage.REQUIRED if values[flag].value in (None, [])]
  if surplus:
    return _complain(f"what is {surplus[0]!r}? Flags are written --name=value")
  if missing:
    return _complain(f"--{missing[0]} is missing (python -m launch {name} --help)")
  return _run(stage, values)


def _run(stage: ModuleType, values: flags.FlagValues) -> int:
  from nas3d_jax.errors import InputError
  from nas3d_jax.writing import refusal

  try:
    return stage.main(values)
  except InputError as error:
    return _complain(str(error))
  except OSError as error:
    refused = refusal(error)
    if refused is None:
      raise
    return _complain(str(refused))
  except KeyboardInterrupt:
    print("\ninterrupted; the same command goes on from what is saved", file=sys.stderr)
    return _INTERRUPTED


def _overview() -> str:
  about = {name: importlib.import_module(f"launch.{name}").__doc__ or "" for name in STAGES}
  lines = [f"  {name:12}{text.splitlines()[0]}" for name, text in about.items()]
  last = "python -m launch STAGE --help lists the flags of a stage."
  return "\n".join(["python -m launch STAGE --flags", "", *lines, "", last])


def _help(name: str, stage: ModuleType, values: flags.FlagValues, *, full: bool) -> str:
  usage = " ".join(["python -m launch", name, *(f"--{flag}=..." for flag in stage.REQUIRED)])
  listed = values.get_help() if full else values.module_help(stage.__name__)
  notes = f"\n\n{textwrap.fill(stage.notes(), 100)}" if hasattr(stage, "notes") else ""
  return f"{(stage.__doc__ or '').strip()}\n\n  {usage}\n{listed}{notes}"


def _complain(message: str) -> int:
  print(f"error: {message}", file=sys.stderr)
  return _WRONG_INPUT


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
