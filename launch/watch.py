"""Draws the report's figures of search and training while these are under way.

The page, watch/index.html of the run directory, reads itself again in the browser, and is drawn anew whenever an epoch
is over. It only reads the run, needs no device, and goes on until it is stopped by Ctrl-C.
"""

from __future__ import annotations

from absl import flags

from .flags import define_path

REQUIRED = ("workdir",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  define_path(values, "workdir", "run directory of what is in progress")
  define_path(values, "out", "folder to write to; not given: watch/ of the run directory")
  flags.DEFINE_float("every", 30.0, "seconds between two looks at the run", flag_values=values)
  flags.DEFINE_bool("once", False, "draw what is there now, and end", flag_values=values)


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code."""
  from nas3d_jax.report.watch import watch

  given = {name: values[name].value for name in ("workdir", "out", "every", "once")}
  print(watch(**given))
  return 0
