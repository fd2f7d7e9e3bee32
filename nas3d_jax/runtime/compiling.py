"""Programs that are compiled once a process, and what compiling shows where there is no terminal.

That is a line when it begins and one when it ends. On a terminal the bar is there, and says that it waits for the first
step.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np
from jax import monitoring

from nas3d_jax.runtime.distributed import is_silent
from nas3d_jax.runtime.progress_bar import is_live, stderr_console, write_line

_CACHE_HIT = "/jax/compilation_cache/cache_hits"

# Jitted function -> the shapes for which it is compiled.
_compiled: weakref.WeakKeyDictionary[Callable[..., Any], set[Any]] = weakref.WeakKeyDictionary()


# A network in training has up to six: loss, schedule, optimizer, steps of training, validation and prediction.
@functools.lru_cache(maxsize=16)
def shared(make: Callable[..., Any], *arguments: Hashable, **options: Hashable) -> Any:
  """What `make` returns: the same object for equal arguments.

  The folds of an experiment take the same step then. A step of its own for each would be traced again, and read from
  the cache of compiled programs or compiled anew.

  Args:
    make: of a step, or of something that is an argument of one.
    *arguments: of it. What is not compared by value, such as a function, should be shared itself.
    **options: of it.
  """
  return make(*arguments, **options)


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
  """Shows that a program is compiled within the block, or read from the cache of compiled programs.

  Python collects no garbage meanwhile: it finds next to none, and takes a fourth of the time of tracing a network.
  """
  console = stderr_console()
  if is_silent() or is_live(console):
    with _garbage_left():
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
    with _garbage_left():
      yield
  finally:
    monitoring.unregister_event_listener(listen)
  seconds = time.monotonic() - began
  write_line(console, f"{'ready, from the cache,' if hits else 'compiled'} in {seconds:.0f} s")


@contextlib.contextmanager
def _garbage_left() -> Iterator[None]:
  collects = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if collects:
      gc.enable()


def announced(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
  """A jitted function that shows when a call compiles it.

  Args:
    what: it is.
    function: jitted, and called by way of this alone; compiled anew where an argument that is an array has another
      shape.

  Returns:
    A function of the same arguments, by position; it is for calls alone, not for use in another program.
  """
  seen = _compiled.setdefault(function, set())

  def call(*arguments: Any) -> Any:
    shapes = tuple(argument.shape for argument in arguments if isinstance(argument, jax.Array | np.ndarray))
    if shapes in seen:
      return function(*arguments)
    with compiling(what):
      result = function(*arguments)
    seen.add(shapes)
    return result

  return call
