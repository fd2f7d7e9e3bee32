"""Keeps from the terminal what a library prints beside the exceptions that it raises.

Orbax restores a checkpoint in an event loop of its own and closes it as soon as one array fails. TensorStore's threads
still call that loop for the other arrays: each prints a traceback through `sys.unraisablehook`, and asyncio logs one a
task, so that the one message on a damaged checkpoint would drown in hundreds of lines. Orbax makes the loop and closes
it, which nothing outside can delay; so hook and loggers are filtered while Orbax works.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_GRACE = 0.1
"""Seconds in which threads whose work is given up come to their end."""
_late = {"times": 0}
"""How often threads were left to themselves."""


@contextlib.contextmanager
def quiet(library: str) -> Iterator[None]:
  """Drops a library's messages to absl's logger, and those of threads and tasks that outlive its event loop.

  Args:
    library: name of its folder.
  """
  hook, before = sys.unraisablehook, _late["times"]

  def unraisable(args: sys.UnraisableHookArgs) -> None:
    if not (isinstance(args.exc_value, RuntimeError) and "Event loop is closed" in str(args.exc_value)):
      hook(args)

  unraisable.is_quiet = True
  sys.unraisablehook = unraisable
  try:
    with (
      _filtered("absl", lambda record: library not in Path(record.pathname).parts),
      _filtered("asyncio", lambda record: "never retrieved" not in record.getMessage()),
    ):
      yield
  finally:
    # After a failed read one hook stays, because threads may be later than any time that one could wait for them.
    stays = _late["times"] > before and not getattr(hook, "is_quiet", False)
    if sys.unraisablehook is unraisable and not stays:
      sys.unraisablehook = hook


def settle() -> None:
  """Waits, inside `quiet`, for the threads of a failed read; call it after the exception is dropped."""
  _late["times"] += 1
  time.sleep(_GRACE)
  gc.collect()


@contextlib.contextmanager
def _filtered(name: str, is_wanted: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
  logger = logging.getLogger(name)
  logger.addFilter(is_wanted)
  try:
    yield
  finally:
    logger.removeFilter(is_wanted)
