"""How long work shows life: lines in a log, by the clock; a bar on a terminal; what compiling shows."""

import io
import re

import jax
import numpy as np
import pytest
from rich.console import Console

from nas3d_jax.runtime import compiling, progress_bar
from nas3d_jax.runtime.compiling import announced
from nas3d_jax.runtime.progress_bar import ProgressBar, stderr_console


class Stream(io.StringIO):
  """What was flushed is what a reader of the log sees."""

  seen = ""

  def flush(self):
    self.seen = self.getvalue()


class Clock:
  seconds = 1000.0

  def __call__(self):
    return self.seconds


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def stream():
  return Stream()


@pytest.fixture
def log(stream, clock):
  """Options of a bar in a log."""
  return dict(console=Console(file=stream), clock=clock)


def test_an_epoch_in_a_log(stream, clock, log):
  with ProgressBar("epoch 3/100", 2680, done=118, unit="step", first=", first step", patches=2, **log) as bar:
    assert stream.seen == "epoch 3/100: step 118 of 2680\n"
    # The first step compiles; it says nothing of the speed of the others.
    clock.seconds += 41
    bar.update(119, hybrid_loss=0.9, kernel_loss=0.95)
    assert stream.seen.splitlines()[1:] == ["epoch 3/100: step 119 of 2680, hybrid loss 0.900, kernel loss 0.950"]
    for step in range(120, 320):
      clock.seconds += 0.25
      bar.update(step, hybrid_loss=0.7, kernel_loss=0.8125)
    # 4 steps a second: 30 s after the line before, and no line since.
    assert stream.seen.splitlines()[2:] == [
      "epoch 3/100: step 239 of 2680, hybrid loss 0.700, kernel loss 0.812, 8.0 patches/s, 10 min 10 s left"
    ]
    clock.seconds += 590.25
    bar.update(2680, kernel_loss=0.5)
    assert len(stream.seen.splitlines()) == 3
  assert stream.seen.splitlines()[3:] == [
    "epoch 3/100: step 2680 of 2680, kernel loss 0.500, 8.0 patches/s, took 11 min 21 s"
  ]


def test_short_work_has_one_line(stream, clock, log):
  with ProgressBar("preprocess", 12, **log) as bar:
    for _ in bar.track(range(12)):
      clock.seconds += 2.4
  assert stream.seen == "preprocess: 0 of 12\n"


def test_each_half_minute_a_line_however_irregular_the_items_are(stream, clock, log):
  with ProgressBar("evaluate", 5, **log) as bar:
    for seconds in (10, 10, 15, 100, 1):
      clock.seconds += seconds
      bar.advance()
  assert stream.seen.splitlines() == [
    "evaluate: 0 of 5",
    "evaluate: 3 of 5, 25 s left",
    "evaluate: 4 of 5, 42 s left",
    "evaluate: 5 of 5, took 2 min 16 s",
  ]


def test_the_work_within_an_item_stands_beside(stream, clock, log):
  with ProgressBar("cases", 2, **log) as bar:
    for case in "AB":
      bar.within(f"patches of {case}")
      for patch in range(1, 5):
        clock.seconds += 16
        bar.within(f"patches of {case}", patch, 4)
      bar.advance()
  assert stream.seen.splitlines() == [
    "cases: 0 of 2",
    "cases: 0 of 2, patches of A: 2 of 4",
    "cases: 0 of 2, patches of A: 4 of 4",
    "cases: 1 of 2, patches of B: 2 of 4",
    "cases: 1 of 2, patches of B: 4 of 4",
    "cases: 2 of 2, took 2 min 8 s",
  ]


def test_what_is_under_way_and_how_much_there_is_may_change(stream, clock, log):
  bar = ProgressBar("report", 2, **log)
  bar.add(1)
  with bar:
    bar.describe("report, networks")
    clock.seconds += 30
    bar.advance()
  assert stream.seen.splitlines()[:2] == ["report: 0 of 3", "report, networks: 1 of 3"]


def test_work_that_fails_does_not_say_how_long_it_took(stream, clock, log):
  with pytest.raises(ValueError, match="no"), ProgressBar("evaluate", 2, **log):
    clock.seconds += 99
    raise ValueError("no")
  assert stream.seen == "evaluate: 0 of 2\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_other_processes_than_the_first_are_silent(stream, clock, terminal):
  with ProgressBar("cases", 2, silent=True, console=Console(file=stream, force_terminal=terminal), clock=clock) as bar:
    clock.seconds += 99
    bar.within("patches", 1, 2)
    bar.advance()
  assert stream.getvalue() == ""


def test_a_terminal_has_the_bar(stream, clock):
  console = Console(file=stream, force_terminal=True, force_interactive=True, width=80, _environ={})
  with ProgressBar("epoch 1/3", 4, unit="step", first=", first step", console=console, clock=clock) as bar:
    clock.seconds += 99
    bar.update(1, loss=0.5)
    bar.within("patches of A", 1, 2)
    bar.update(3)
  drawn = stream.getvalue()
  assert "epoch 1/3, first step ━" in re.sub(r"\x1b\[[0-9;]*m", "", drawn)
  last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).splitlines()[-2:]
  assert re.match(r"epoch 1/3 +━.* 3/4", last[0]), drawn
  assert re.match(r"patches of A ━.* 1/2", last[1]), drawn
  assert "step 1 of 4" not in drawn


@pytest.mark.parametrize(
  ("seconds", "words"),
  [(0.4, "0 s"), (59.6, "1 min 0 s"), (346, "5 min 46 s"), (7530, "2 h 5 min"), (273600, "3 d 4 h")],
)
def test_times(seconds, words):
  assert progress_bar._spell(seconds) == words


def test_a_log_has_no_colours_whatever_the_environment_asks_for(monkeypatch, capsys):
  monkeypatch.setenv("FORCE_COLOR", "1")
  with ProgressBar("headers", 3, unit="[bold]"):
    pass
  assert capsys.readouterr().err == "headers: [bold] 0 of 3\n"


class Terminal(Stream):
  def isatty(self):
    return True


@pytest.fixture
def doubled():
  """A program that was not compiled before."""
  return announced("the toy step", jax.jit(lambda number, scale: number * scale + 3))


def test_a_program_says_once_a_shape_that_it_is_compiled(doubled, capsys):
  for length in (2, 2, 3, 3, 2):
    assert doubled(np.ones(length), 2).tolist() == [5] * length
  begun = "compiling the toy step ... (takes a minute or more the first time)"
  assert capsys.readouterr().err.splitlines() == [begun, "compiled in 0 s"] * 2


def test_one_from_the_cache_does_not_say_that_it_was_compiled(doubled, capsys, monkeypatch):
  hit = announced("the toy step", lambda: jax.monitoring.record_event(compiling._CACHE_HIT))
  hit()
  assert capsys.readouterr().err.splitlines()[1] == "ready, from the cache, in 0 s"


def test_one_that_cannot_be_compiled_is_not_ready(capsys):
  def fail():
    raise MemoryError

  step = announced("the toy step", fail)
  for _ in range(2):
    with pytest.raises(MemoryError):
      step()
  assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["compiling"] * 2


def test_neither_a_terminal_nor_another_process_is_shown_these_lines(doubled, capsys, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(compiling, "is_silent", lambda: True)
    doubled(np.ones(2), 2)
  terminal = Terminal()
  monkeypatch.setattr(compiling, "stderr_console", lambda: Console(file=terminal, force_interactive=True))
  doubled(np.ones(3), 2)
  assert (terminal.getvalue(), capsys.readouterr().err) == ("", "")


def test_stderr_is_a_terminal_if_it_is_one(monkeypatch):
  monkeypatch.delenv("TERM", raising=False)
  monkeypatch.setattr("sys.stderr", Terminal())
  assert progress_bar.is_live(stderr_console())
  monkeypatch.setattr("sys.stderr", Stream())
  assert not progress_bar.is_live(stderr_console())
