"""How far long work is: a bar on a terminal, plain lines anywhere else, as under nohup or SLURM; both on stderr."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")

# Seconds between two lines, and the shortest work whose end has a line.
_EVERY = 30.0
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


class ProgressBar:
  """Work of so many items, shown from the beginning to the end of a `with` block.

  Without a terminal there is a line when the work begins, then at most one in 30 s, and one at the end of work that
  took longer.
  """

  def __init__(
    self,
    what: str,
    total: int,
    *,
    done: int = 0,
    unit: str = "",
    first: str = "",
    patches: int = 0,
    elapsed: bool = False,
    remaining: bool = True,
    silent: bool = False,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Args:
    what: the work.
    total: number of its items.
    done: those of them that were done before.
    unit: what an item is, for the lines.
    first: stands behind `what` on the bar until the first item is done.
    patches: of an item; where it is not 0, the lines tell how many are done in a second.
    elapsed: whether the time since the work began stands behind the bar.
    remaining: whether the time that is left stands behind the bar.
    silent: whether nothing is shown.
    console: where to; None means stderr.
    clock: seconds.
    """
    self._what, self._total, self._done = what, total, done
    self._unit, self._patches, self._clock = unit and f"{unit} ", patches, clock
    self._values: dict[str, float] = {}
    self._inner = ""
    self._console = console or stderr_console()
    self._bar = self._inner_task = None
    self._lines = not silent and not is_live(self._console)
    if not silent and not self._lines:
      times = ([TimeElapsedColumn()] if elapsed else []) + ([TimeRemainingColumn()] if remaining else [])
      columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times
      self._bar = Progress(*columns, console=self._console)
      self._task = self._bar.add_task(f"{what}{first}", total=total, completed=done)

  def __enter__(self) -> ProgressBar:
    self._began = self._shown = self._clock()
    # Items and time after the first one, which may have taken longer because it compiled.
    self._warm: tuple[int, float] | None = None
    if self._bar:
      self._bar.start()
    self._write()
    return self

  def __exit__(self, kind, *error) -> None:
    if self._bar:
      self._bar.stop()
    seconds = self._clock() - self._began
    if kind is None and seconds >= _EVERY:
      self._write(f"took {_spell(seconds)}")

  def update(self, done: int, **values: float) -> None:
    """Sets how many items are done, and numbers for the lines, such as a loss."""
    if done > self._done:
      self._warm = self._warm or (done, self._clock())
      self._inner = ""
    self._done, self._values = done, values
    self.describe(self._what)

  def describe(self, what: str) -> None:
    """Sets what the work is now."""
    self._what = what
    if self._bar:
      self._bar.update(self._task, completed=self._done, description=what)
    self._write_if_due()

  def add(self, items: int) -> None:
    """So many items more there are to be done."""
    self._total += items
    if self._bar:
      self._bar.update(self._task, total=self._total)

  def advance(self) -> None:
    """One more item is done."""
    self.update(self._done + 1)

  def track(self, items: Iterable[Item]) -> Iterator[Item]:
    """The items, each of which is done when the next one is asked for."""
    for item in items:
      yield item
      self.advance()

  def within(self, what: str, done: int = 0, total: int | None = None) -> None:
    """Shows how far the work within the item at hand is; `total` None means that it has not begun."""
    self._inner = what if total is None else f"{what}: {done} of {total}"
    if self._bar:
      if self._inner_task is None:
        self._inner_task = self._bar.add_task(what, total=None)
      if total is None:
        self._bar.reset(self._inner_task)
      self._bar.update(self._inner_task, description=what, completed=done, total=total)
    self._write_if_due()

  def _write_if_due(self) -> None:
    # The line of the last item is that of the end.
    if self._done < self._total and self._clock() - self._shown >= _EVERY:
      self._write()

  def _write(self, ending: str = "") -> None:
    """A line; `ending` stands in place of what is under way."""
    if not self._lines:
      return
    self._shown = self._clock()
    words = [f"{self._what}: {self._unit}{self._done} of {self._total}"]
    words += [self._inner] * bool(self._inner and not ending)
    words += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in self._values.items()]
    done, since = self._warm or (self._done, self._shown)
    if self._done > done and self._shown > since:
      rate = (self._done - done) / (self._shown - since)
      words += [f"{rate * self._patches:.1f} patches/s"] * bool(self._patches)
      ending = ending or f"{_spell((self._total - self._done) / rate)} left"
    write_line(self._console, ", ".join([*words, *[ending] * bool(ending)]))


def stderr_console() -> Console:
  """Stderr, taken for a terminal if it is one, whatever the environment asks for: a log has no use for colours."""
  return Console(stderr=True, force_terminal=bool(sys.stderr and sys.stderr.isatty()))


def is_live(console: Console) -> bool:
  """Whether what is written there can be drawn anew."""
  return console.is_interactive or console.is_jupyter


def write_line(console: Console, line: str) -> None:
  """Writes a line as it is, at once, and as a whole: other threads may write too."""
  console.file.write(f"{line}\n")
  console.file.flush()


def _spell(seconds: float) -> str:
  """Seconds in the largest unit that fits and the one below: 46 s, 5 min 46 s, 2 h 5 min."""
  whole = round(seconds)
  for (unit, length), (lower, part) in itertools.pairwise(_UNITS):
    if whole >= length:
      return f"{whole // length} {unit} {whole % length // part} {lower}"
  return f"{whole} s"
