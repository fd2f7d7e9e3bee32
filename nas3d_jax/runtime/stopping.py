"""Stops a loop by a signal: it saves first what is unsaved; where nothing is, the process ends at once.

Python runs the handler of a signal between two bytecodes of the main thread, which may wait minutes for the compiler.
Here the signal wakes a thread of its own through a descriptor instead. That thread ends the process where nothing is to
be saved, which does no harm at any moment: files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

# Seconds within which further signals count as the first: `timeout` and a terminal send the same one twice.
_ONE = 0.5
# Seconds between two looks at a checkpoint that is being written, and that stdout may take to be flushed.
_LOOK, _FLUSH = 0.02, 0.5
_SHOW_CURSOR = "\x1b[?25h"


class Stopped(SystemExit):
  """Raised in a loop that was asked to stop, when all is saved; `code` is 128 and the number of the signal."""

  def __init__(self, number: int, again: str):
    super().__init__(128 + number)
    self._message = f"stopped by {_name(number)}; all that was done is saved. To go on: {again}"

  def __str__(self) -> str:
    return self._message


class Stop:
  """What a loop asks whether to stop, and informs of what is saved. This one never stops; others override `requested`.

  Attributes:
    again: how to go on later, for the message.
    once_saved: what replaces `again` as soon as something is saved; None where `again` stays.
  """

  def __init__(self, again: str = "run the same command again", once_saved: str | None = None):
    self.again, self.once_saved = again, once_saved
    self._unsaved = False
    self._writing: Callable[[], bool] = lambda: False

  def requested(self) -> int | None:
    """The number of the signal that asked to stop; None where none did. `check` asks once, wherever it stands."""
    return None

  def hand_over(self, number: int) -> None:
    """From here on `number`, a signal that something else in this process heeds, is what stops several processes."""

  def hold(self) -> None:
    """From here on there is something to save: a stop waits for the next `check`."""
    self._unsaved = True

  def release(self, writing: Callable[[], bool]) -> None:
    """All is saved, or will be as soon as `writing` returns False; it may be called in another thread."""
    self.again = self.once_saved or self.again
    self._writing = writing
    self._unsaved = False

  def check(self, save: Callable[[], None]) -> None:
    """The place to stop, between two steps: saves if there is something to save, by a `save` that calls `release`.

    Raises:
      Stopped: a stop was asked for.
    """
    number = self.requested()
    if number is None:
      return
    if self._unsaved:
      save()
    raise Stopped(number, self.again)

  def between(self, items: Iterable[Item], save: Callable[[], None]) -> Iterator[Item]:
    """The items, with a `check` before each."""
    for item in items:
      self.check(save)
      yield item


class StopBySignal(Stop):
  """Lets signals ask, as a context manager in the main thread; in another thread, nothing can.

  The first signal ends the process at once where nothing is held, after a checkpoint that is being written is whole;
  else the loop saves and raises `Stopped`. A second one ends it at once in any case. The exit code is 128 and the
  number of the signal: 130 for SIGINT (Ctrl-C), 143 for SIGTERM. A signal that was ignored before stays ignored.

  Args:
    again: how to go on later.
    once_saved: see `Stop`.
    signals: those that stop.
  """

  def __init__(
    self, again: str, once_saved: str | None = None, signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM)
  ):
    super().__init__(again, once_saved)
    self._signals = signals
    self._asked: int | None = None
    self._heir: int | None = None
    self._restore = contextlib.ExitStack()

  def requested(self) -> int | None:
    """The number of the first signal, None before."""
    return self._asked

  def hand_over(self, number: int) -> None:
    """A first signal is sent to this process again as `number`; a second one still ends it at once."""
    self._heir = number

  def __enter__(self) -> StopBySignal:
    if threading.current_thread() is not threading.main_thread():
      return self
    ours, wake = socket.socketpair()
    watcher = threading.Thread(target=self._watch, args=(ours,), name="stop", daemon=True)
    wake.setblocking(False)
    watcher.start()
    for close in (ours.close, watcher.join, wake.close):
      self._restore.callback(close)
    self._restore.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False))
    for number in self._signals:
      if signal.getsignal(number) not in (signal.SIG_IGN, None):
        self._restore.callback(signal.signal, number, signal.signal(number, _nothing))
        # So that a file being written in another thread does not see an error.
        signal.siginterrupt(number, False)
    return self

  def __exit__(self, *error: object) -> None:
    self._restore.close()

  def _watch(self, wakened: socket.socket) -> None:
    """Runs in its own thread until the other end is closed, or ends the process."""
    first = at_once = None
    while True:
      wakened.settimeout(_LOOK if at_once else None)
      with contextlib.suppress(TimeoutError):
        numbers = wakened.recv(64)
        if not numbers:
          return
        for number in filter(self._signals.__contains__, numbers):
          if first is None and self._heir is not None:
            first = time.monotonic()
            _tell(f"{_name(number)}: all processes stop after the same step, saved; once more stops this one at once")
            os.kill(os.getpid(), self._heir)
          elif first is None:
            first, self._asked = time.monotonic(), number
            at_once = not self._unsaved
            if not at_once:
              _tell(f"{_name(number)}: stopping when the step in progress is done and saved; once more stops at once")
          elif time.monotonic() - first > _ONE:
            self._end(number, "what was saved last is whole")
      if at_once and not self._writing():
        self._end(self._asked, "nothing was left to save")

  def _end(self, number: int, saved: str) -> None:
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(_FLUSH)
    # Right before the end, so that it is the last line: the main thread goes on until then.
    _tell(f"stopped by {_name(number)}; {saved}. To go on: {self.again}")
    os._exit(128 + number)


def _tell(text: str) -> None:
  """One line on stderr, past Python's buffer, whose lock the main thread may hold; below a progress bar."""
  with contextlib.suppress(OSError):
    start = f"{_SHOW_CURSOR}\n" if os.isatty(2) else ""
    os.write(2, f"{start}{text}\n".encode("utf-8", "surrogateescape"))


def _name(number: int) -> str:
  return signal.Signals(number).name


def _nothing(*_: object) -> None:
  """A handler in Python, without which nothing would be written to the descriptor."""
