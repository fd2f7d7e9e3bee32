"""Keeps from the terminal what a library says beside the exceptions that it raises."""

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


@contextlib.contextmanager
def quiet(library: str) -> Iterator[None]:
  """Drops what a library says through absl's logger, and what its threads say when one failure fails many of them.

  Those that come late find their event loop closed, which Python calls unraisable, and asyncio logs each exception that
  no one has waited for.

  Args:
    library: name of its folder.
  """
  hook = sys.unraisablehook

  def unraisable(args: sys.UnraisableHookArgs) -> None:
    if not (isinstance(args.exc_value, RuntimeError) and "Event loop is closed" in str(args.exc_value)):
      hook(args)

  sys.unraisablehook = unraisable
  try:
    with (
      _filtered("absl", lambda record: library not in Path(record.pathname).parts),
      _filtered("asyncio", lambda record: "never retrieved" not in record.getMessage()),
    ):
      yield
  finally:
    if sys.unraisablehook is unraisable:
      sys.unraisablehook = hook


def settle() -> None:
  """Waits, while it is still quiet, for the threads of what has failed; best when its exception is dropped already."""
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
