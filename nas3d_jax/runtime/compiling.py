"""What compiling shows where there is no terminal: a line when it begins and one when it ends.

On a terminal the bar is there, and says that it waits for the first step.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jax import monitoring

from nas3d_jax.runtime.distributed import is_silent
from nas3d_jax.runtime.progress_bar import is_live, stderr_console, write_line

_CACHE_HIT = "/jax/compilation_cache/cache_hits"


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
  """Shows that a program is compiled within the block, or read from the cache of compiled programs."""
  console = stderr_console()
  if is_silent() or is_live(console):
    yield
    return
  thread, hits = threading.get_ident(), []

  def listen(event: str, **_: Any) -> None:
    # Other threads compile programs of their own.
    if event == _CACHE_HIT and threading.get_ident() == thread:
      hits.append(event)

  write_line(console, f"compiling {what} ... (takes a minute or more the first time)")
  began = time.monotonic()
  monitoring.register_event_listener(listen)
  try:
    yield
  finally:
    monitoring.unregister_event_listener(listen)
  seconds = time.monotonic() - began
  write_line(console, f"{'ready, from the cache,' if hits else 'compiled'} in {seconds:.0f} s")


def announced(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
  """A jitted function that shows when a call compiles it.

  Args:
    what: it is.
    function: jitted, and not called yet; compiled anew where an argument that is an array has another shape.

  Returns:
    A function of the same arguments, by position; it is for calls alone, not for use in another program.
  """
  seen = set()

  def call(*arguments: Any) -> Any:
    shapes = tuple(getattr(argument, "shape", None) for argument in arguments)
    if shapes in seen:
      return function(*arguments)
    with compiling(what):
      result = function(*arguments)
    seen.add(shapes)
    return result

  return call
