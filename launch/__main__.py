"""Lists the stages, or runs one: `python -m launch STAGE --flags`.

A stage is a module of this package with `REQUIRED`, the names of the flags that must be given,
`define(values)`, which defines its flags, and `main(values)`, which returns the exit code; where it
has `notes()`, their text ends its help. Only `main` and `notes` import what takes long, so that
help comes at once. `main` of a stage that saves when it is stopped is `main(values, stop)`.

Exit codes: 0 all is done, 1 a fault of the program or what `inspect` found, 2 a wrong input, 130
stopped by Ctrl-C (SIGINT), 143 by SIGTERM. Search and training finish the step in progress and save
it first; everything else, and a compilation, ends at once, as a second signal does in any case. The
last line on stderr says how to go on.
"""

from __future__ import annotations

import difflib
import importlib
import os
import shlex
import sys
import textwrap
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from absl import flags

from nas3d_jax.files.atomic import refusal
from nas3d_jax.runtime import standard_streams
from nas3d_jax.runtime.ending import end
from nas3d_jax.runtime.lack_of_memory import is_lack_of_memory
from nas3d_jax.runtime.program import PROGRAM, as_typed
from nas3d_jax.runtime.stopping import Stop, StopBySignal, Stopped
from nas3d_jax.version import __version__

from .flags import named_path, unwritable

STAGES = (
  "phantom", "inspect", "preprocess", "search", "train", "predict", "evaluate", "report", "experiment", "demo",
  "export", "convert", "watch",
)

_SAVING = ("search", "train", "experiment", "demo")
# Stages that start anew with --overwrite, which is not how they go on.
_ANEW = ("search", "train", "predict")

_DONE, _FAILED, _WRONG_INPUT, _INTERRUPTED = 0, 1, 2, 130
_NO_MEMORY = (
  "memory is used up{}; let the process have more (ulimit -v, what the queue grants, a GPU that nothing else uses), or "
  "ask for less, as by a smaller --patch_size; what was saved before is whole"
)
_HELP = ("--help", "-help", "-h", "-?", "--helpshort")
_HELPFULL = ("--helpfull", "-helpfull")


def main(arguments: Sequence[str], stop: Stop | None = None) -> int:
  """Runs a command.

  Args:
    arguments: the command line after `python -m launch`.
    stop: what may ask it to stop; with None, only Ctrl-C does, without saving.

  Returns:
    The exit code: 0, 1 where inspect found something, 2 for a wrong input, 130 or 143 where a signal ended it.
  """
  code = _command(arguments, stop)
  if lost := standard_streams.what_was_lost():
    return _complain(f"stdout cannot be written to ({lost.strerror}); make room, or print to another file")
  return code


def _command(arguments: Sequence[str], stop: Stop | None) -> int:
  # XLA reports as errors on stderr what is none: that a program in the cache was compiled with
  # features such as "prefer-no-gather", on this same machine. True errors come as exceptions. It
  # has to be said before JAX is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  if not arguments or arguments[0] in _HELP + _HELPFULL:
    print(_overview())
    return _DONE
  if arguments[0] == "--version":
    print(f"nas3d_jax {__version__}")
    return _DONE
  try:
    os.getcwd()
  except OSError as error:
    return _complain(f"the current folder is not there ({error.strerror}); cd to one that is, and run it again")
  name, *rest = arguments
  if name not in STAGES:
    near = difflib.get_close_matches(name, STAGES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(STAGES)}"
    return _complain(f"no stage {name!r}; {hint}")
  stage = importlib.import_module(f".{name}", __package__)
  values = flags.FlagValues()
  stage.define(values)
  if any(argument in _HELP + _HELPFULL for argument in rest):
    print(_help(name, stage, values, full=any(argument in _HELPFULL for argument in rest)))
    return _DONE
  try:
    surplus = values([name, *_given(values, rest)])[1:]
  except flags.Error as error:
    message = str(error).removeprefix("ERROR:: ")
    return _complain(f"{message} (python -m launch {name} --help)")
  missing = [flag for flag in stage.REQUIRED if values[flag].value in (None, [])]
  if surplus:
    return _complain(f"what is {surplus[0]!r}? Flags are written --name=value")
  if missing:
    return _complain(f"--{missing[0]} is missing (python -m launch {name} --help)")
  if wrong := unwritable(values):
    return _complain(wrong)
  return _run(stage, (values, stop or Stop()) if name in _SAVING else (values,))


def _given(values: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
  """The arguments, those of flag files among them; editors on Windows put a byte order mark in front of such a file."""
  read = values.read_flags_from_files(arguments, force_gnu=False)
  comments = ("\ufeff#", "\ufeff//")
  return [argument.removeprefix("\ufeff") for argument in read if not argument.startswith(comments)]


def _run(stage: ModuleType, arguments: tuple[Any, ...]) -> int:
  """The exit code of a stage; of several processes that share it, one that fails ends at once."""
  try:
    code = _code(stage, arguments)
  except Exception:
    _leave(_FAILED, traceback.format_exc())
    raise
  if code == _WRONG_INPUT:
    _leave(code)
  return code


def _leave(code: int, said: str = "") -> None:
  if "jax" in sys.modules:
    from nas3d_jax.runtime.distributed import leave

    leave(code, said)


def _code(stage: ModuleType, arguments: tuple[Any, ...]) -> int:
  from nas3d_jax.errors import InputError

  try:
    return stage.main(*arguments)
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    return stopped.code
  except InputError as error:
    return _complain(_with_flag(str(error), arguments[0]))
  except OSError as error:
    refused = refusal(error)
    if refused is None:
      raise
    return _complain(str(refused))
  except Exception as error:
    if not is_lack_of_memory(error):
      raise
    return _complain(_NO_MEMORY.format(_first_line(error)))
  except KeyboardInterrupt:
    print("\ninterrupted; the same command goes on from what is saved", file=sys.stderr)
    return _INTERRUPTED


def _first_line(error: Exception) -> str:
  lines = str(error).splitlines()
  return f" ({lines[0]:.200})" if lines else ""


def _with_flag(message: str, values: flags.FlagValues) -> str:
  """A message of the library, which knows no flags, with that of the path that it speaks of."""
  flag = None if "\n  " in message else named_path(values, message)
  return message if flag is None else f"{message} ({flag})"


def _overview() -> str:
  about = {name: importlib.import_module(f".{name}", __package__).__doc__ or "" for name in STAGES}
  # Python leaves texts out with -OO.
  lines = [f"  {name:12}{text.partition(chr(10))[0]}".rstrip() for name, text in about.items()]
  last = "python -m launch STAGE --help lists the flags of a stage."
  return as_typed("\n".join(["python -m launch STAGE --flags", "", *lines, "", last]))


def _help(name: str, stage: ModuleType, values: flags.FlagValues, *, full: bool) -> str:
  usage = " ".join(["python -m launch", name, *(f"--{flag}=..." for flag in stage.REQUIRED)])
  listed = values.get_help() if full else values.module_help(stage.__name__)
  notes = f"\n\n{textwrap.fill(stage.notes(), 100)}" if hasattr(stage, "notes") else ""
  return as_typed(f"{(stage.__doc__ or '').strip()}\n\n  {usage}\n{listed}{notes}")


def again(arguments: Sequence[str]) -> tuple[str, str]:
  """The command that goes on with what this one left: as long as nothing is saved, and from then on.

  Before that --overwrite stays: what it deletes may still be there. Predictions are saved one by one, and unheard.
  """
  given = arguments
  flags_given = [argument.lstrip("-").partition("=")[0] for argument in arguments]
  if arguments and arguments[0] in _ANEW and {"overwrite", "flagfile"} & set(flags_given):
    kept = [argument for argument, flag in zip(arguments, flags_given, strict=True) if flag != "overwrite"]
    arguments = [*kept, "--nooverwrite"]
  first = given if given and given[0] in _SAVING else arguments
  return tuple(f"{PROGRAM} {shlex.join(command)}".rstrip() for command in (first, arguments))


def _complain(message: str) -> int:
  shown = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in as_typed(message))
  print(f"error: {shown}", file=sys.stderr)
  return _WRONG_INPUT


def command(arguments: Sequence[str]) -> NoReturn:
  """Runs a command line and ends the process with its exit code, even where threads of a failed write still wait."""
  code = _FAILED
  with StopBySignal(*again(arguments)) as by_signal:
    try:
      code = main(arguments, by_signal)
      sys.stdout.flush()
    except BrokenPipeError:
      pass  # whoever read it has what they wanted
    except SystemExit as left:
      code = left.code if isinstance(left.code, int) else _FAILED
    except Exception as error:
      # A full disk behind stdout is met outside of the stages too.
      refused = refusal(error, "stdout") if isinstance(error, OSError) else None
      if is_lack_of_memory(error):
        code = _complain(_NO_MEMORY.format(_first_line(error)))
      elif refused is None:
        traceback.print_exc()
      else:
        code = _complain(str(refused))
    if _is_one_of_several():
      # JAX lets the processes leave each other at the end of Python.
      sys.exit(code)
    end(code)


def _is_one_of_several() -> bool:
  if "jax" not in sys.modules:
    return False
  from nas3d_jax.runtime.distributed import is_one_of_several

  return is_one_of_several()


def run() -> NoReturn:
  """The program, with the command line that it was started with."""
  standard_streams.withstand()
  command(sys.argv[1:])


if __name__ == "__main__":
  run()
