"""Flags of the options of a configuration, those that several stages share, and the line on the device at the start."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

from absl import flags

from nas3d_jax.runtime.stopping import Stop

from .parsers import LengthsParser, LengthsSerializer, PathParser

# They count as flags of the stage that has them defined, whose help then lists them.
flags.disclaim_key_flags()

Config = TypeVar("Config")
PLATFORM_HELP = "cpu, gpu or another of JAX's platforms; not given: an accelerator if there is one"
_HOSTS = ("coordinator", "processes", "process")


def define_path(values: flags.FlagValues, name: str, help: str) -> None:
  """Defines a flag that is a path on `values`, for the module that calls."""
  flags.DEFINE(PathParser(), name, None, help, values, flags.ArgumentSerializer())


def define_paths(
  values: flags.FlagValues, name: str, help: str, default: tuple[str, ...] = (), *, named: bool = False
) -> None:
  """The same of a flag of several paths; `named`: whether each may stand behind NAME=."""
  define_list(name, list(default), help, values, PathParser(named))


def define_options(values: flags.FlagValues, config: type) -> None:
  """Defines the flags of a configuration's options, see `nas3d_jax.options`, on `values`, for the module that calls."""
  from nas3d_jax.options import options_of

  for name, option in options_of(config).items():
    default, own = None if option.default is dataclasses.MISSING else option.default, dict(flag_values=values)
    if option.choices:
      flags.DEFINE_enum(name, default, option.choices, option.help, **own)
    elif option.lengths:
      flags.DEFINE(LengthsParser(auto=option.auto), name, default, option.help, values, LengthsSerializer())
    elif option.kind is bool:
      flags.DEFINE_bool(name, default, option.help, **own)
    elif option.kind is int:
      flags.DEFINE_integer(name, default, option.help, lower_bound=option.least, **own)
    elif option.kind is float:
      low, high = option.least if option.above is None else option.above, option.below
      low, high = (bound if bound is None else float(bound) for bound in (low, high))
      # A flag cannot leave out its bounds; the check of the configuration does, and knows the upper ones.
      flags.DEFINE_float(name, default, option.help, lower_bound=low, upper_bound=high, **own)
    elif option.path and option.kind is tuple:
      define_paths(values, name, option.help, option.default, named=option.named)
    elif option.path:
      define_path(values, name, option.help)
    elif option.kind is tuple:
      define_list(name, None if default is None else list(default), option.help, values)
    else:
      flags.DEFINE_string(name, default if default is None else str(default), option.help, **own)


class _Listed(flags.MultiFlag):
  """A flag that takes a list: given again, with commas, or both. A path that is there is taken whole."""

  def _parse(self, arguments: Any) -> list[str]:
    texts = [arguments] if isinstance(arguments, str) else arguments
    # An empty path is refused by its parser; an empty list is one without values.
    whole = [text for text in texts if _is_path(text) or (not text and isinstance(self.parser, PathParser))]
    parts = [part for text in texts for part in ([text] if text in whole else _split(text))]
    return [flags.Flag._parse(self, part) for part in parts]


def _split(text: str) -> list[str]:
  return [part.strip() for part in text.split(",")] if text.strip() else []


def _is_path(text: str) -> bool:
  """Whether a path of this name, commas and all, is there; of NETWORK/SPLIT=FILE, the file counts."""
  return "," in text and any(os.path.lexists(path) for path in (text, text.partition("=")[2]) if path)


def define_list(
  name: str, default: list[str] | None, help: str, values: flags.FlagValues, parser: flags.ArgumentParser | None = None
) -> None:
  """Defines a flag of several values on `values`, for the module that calls; the parser reads each."""
  parser = parser or flags.ArgumentParser()
  flags.DEFINE_flag(_Listed(parser, flags.ArgumentSerializer(), name, default, help), values)


def define_schema(values: flags.FlagValues, of: str = "", otherwise: str = "found out") -> None:
  """Defines the flag on `values`, for the module that calls; see `schema_help`."""
  from nas3d_jax.inference.config import schema_help

  define_path(values, "schema", schema_help(of, otherwise))


def named_path(values: flags.FlagValues, message: str) -> str | None:
  """The flag, or flags, of the longest path that a message speaks of; None where it names it itself, or speaks of none.

  `--a or --b` where several have that path.
  """
  spoken: dict[str, list[str]] = {}
  for name in values:
    for path in _texts(values[name].value) if isinstance(values[name].parser, PathParser) else ():
      forms = {path, os.path.abspath(path), os.path.join(os.getcwd(), path)}
      if any(f"{form}/" in message or repr(form) in message or (os.sep in form and form in message) for form in forms):
        spoken.setdefault(os.path.abspath(path), []).append(name)
  names = spoken[max(spoken, key=len)] if spoken else []
  if not names or any(re.search(rf"\b{name}\b", message) for name in names):
    return None
  return " or ".join(f"--{name}" for name in names)


def unwritable(values: flags.FlagValues) -> str | None:
  """What is wrong with the first flag whose text no file could hold, and no path; None where all are well."""
  for name in values:
    for text in _texts(values[name].value):
      if "\0" in text or not _is_unicode(text):
        what = "has the character NUL" if "\0" in text else "is not UTF-8"
        return f"--{name} must be a text that a file can hold, got {text!r:.200}, which {what}; write it otherwise"
  return None


def _texts(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, list):
    yield from (text for text in value if isinstance(text, str))


def _is_unicode(text: str) -> bool:
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True


def build(config: type[Config], values: flags.FlagValues, **changes: Any) -> Config:
  """A configuration of the flags that `define_options` defined.

  Args:
    config: its class.
    values: the flags.
    **changes: options whose flags have to be read first.

  Raises:
    InputError: a value is wrong, or two of them do not go together.
  """
  from nas3d_jax.options import from_options, options_of

  given = {name: values[name].value for name in options_of(config)}
  given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
  return from_options(config, given | changes)


def parse_fold(text: str) -> int | Literal["all"]:
  """`"2"` -> 2, `"all"` -> "all".

  Raises:
    InputError: it is neither.
  """
  from nas3d_jax.errors import InputError

  if text == "all":
    return "all"
  if not text.isdecimal():
    raise InputError(f"--fold must be the number of a fold, from 0, or all, got {text!r}")
  return int(text)


def define_platform(values: flags.FlagValues, *, hosts: bool = False) -> None:
  """Defines the flags of the platform and of the processes on `values`, for the module that calls.

  Args:
    values: where.
    hosts: whether several processes may share the run.
  """
  own = dict(flag_values=values)
  flags.DEFINE_string("platform", None, PLATFORM_HELP, **own)
  if hosts:
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process; not given: found out", **own)
    flags.DEFINE_integer("processes", None, "processes of the run; 1: this one alone", lower_bound=1, **own)
    flags.DEFINE_integer("process", None, "number of this process, from 0", lower_bound=0, **own)


def start(values: flags.FlagValues, stop: Stop | None = None) -> Stop:
  """Joins the other processes, chooses the device, turns on the cache of compiled programs; the first process says so.

  Args:
    values: the flags.
    stop: what may ask this process to stop.

  Returns:
    The same, or what may ask all processes of the run to stop where there are several.

  Raises:
    InputError: the device is not to be had, or the other processes did not come.
  """
  import jax

  from nas3d_jax.runtime import devices

  platform, stop = values["platform"].value, stop or Stop()
  devices.set_xla_flags(platform)
  processes = 1
  if "coordinator" in values:
    from nas3d_jax.runtime.distributed import StopTogether, join

    devices.choose_platform(platform)
    processes = join(**{name: values[name].value for name in _HOSTS})
    stop = StopTogether(stop) if processes > 1 else stop
  report = devices.select(platform)
  devices.enable_compilation_cache()
  if report.platform == "cpu":
    devices.keep_freed_memory()
  if jax.process_index() == 0:
    print(report, *[f"({processes} processes)"] * (processes > 1), flush=True)
  return stop
