"""Signals: what is unsaved is saved, where nothing is the end comes at once, and the exit code says which signal."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from launch.__main__ import main
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.runtime.distributed import StopTogether
from nas3d_jax.runtime.stopping import Stop, StopBySignal, Stopped, _tell
from tests.support.runs import StopAt, steps_kept

ROOT = Path(__file__).parents[2]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# In C for minutes, as a compiler is: no handler of Python's runs, and no system call is cut short.
COMPILE = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2 * 10**9)"
LOOP = """
for step in range(1, 1000):
  if step == {after}:
    print("ready", flush=True)
  if step == {compiling}:
    {compile}
  time.sleep(0.1)
  done = step
  stop.hold()
  if {save_each}:
    save()
  stop.check(save)
"""
SCRIPT = """
import hashlib, signal, time
from nas3d_jax.runtime.stopping import StopBySignal
signal.signal(signal.SIGINT, signal.default_int_handler)
done = 0
def save():
  print("saved", done)
  writing = time.monotonic() + {writing}
  stop.release(lambda: time.monotonic() < writing)
with StopBySignal("sail on") as stop:
{body}
"""


class Process:
  """A script in a process of its own; `said` is what it wrote to stdout after "ready", `told` to stderr."""

  def __init__(self, script, **pipes):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE) | pipes
    # Buffered, so that what is still in the buffer is seen to be written.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", script]
    self._process = subprocess.Popen(command, cwd=ROOT, env=environment, bufsize=0, **pipes)
    while (line := self._process.stdout.readline()) != b"ready\n":
      assert line, self._process.communicate()

  def send(self, number):
    self._process.send_signal(number)

  def wait(self):
    """Exit code, and seconds until it ended."""
    start = time.monotonic()
    try:
      self.said, self.told = (None if text is None else text.decode() for text in self._process.communicate(timeout=10))
    finally:
      self._process.kill()
    return self._process.returncode, time.monotonic() - start


def stoppable(body, *, writing=0.0, **pipes):
  """Runs the lines of `body` where signals ask `stop`; a checkpoint takes `writing` seconds."""
  return Process(SCRIPT.format(body=textwrap.indent(body, "  "), writing=writing), **pipes)


def loop(after=3, compiling=0, save_each=False):
  return LOOP.format(after=after, compiling=compiling, compile=COMPILE, save_each=save_each)


@pytest.mark.parametrize("number", CODES)
def test_a_loop_finishes_its_step_saves_and_says_how_to_go_on(number):
  process = stoppable(loop())
  process.send(number)
  assert process.wait()[0] == CODES[number]
  name = number.name
  assert process.said == "saved 3\n"
  assert process.told == f"{name}: stopping when the step in progress is done and saved; once more stops at once\n"


def test_an_uncaught_stop_is_an_exit_with_its_code_and_a_message():
  stopped = Stopped(signal.SIGTERM, "sail on")
  assert (stopped.code, str(stopped)) == (143, "stopped by SIGTERM; all that was done is saved. To go on: sail on")
  assert isinstance(stopped, SystemExit)


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("body", [f"print('ready', flush=True)\nprint('so far')\n{COMPILE}", loop(1, compiling=1)])
def test_with_nothing_to_save_a_wait_in_c_ends_at_once(number, body):
  process = stoppable(body)
  time.sleep(0.1)
  process.send(number)
  code, seconds = process.wait()
  assert code == CODES[number]
  assert seconds < 1
  assert process.said == ("so far\n" if "so far" in body else "")
  assert process.told == f"stopped by {number.name}; nothing was left to save. To go on: sail on\n"


def test_a_checkpoint_that_is_being_written_is_finished_first():
  process = stoppable(loop(3, compiling=3, save_each=True), writing=1.0)
  process.send(signal.SIGTERM)
  code, seconds = process.wait()
  assert code == 143
  # Begun just before.
  assert 0.5 < seconds < 2
  assert "nothing was left to save" in process.told


def test_a_second_signal_ends_it_at_once_but_the_same_sent_twice_is_one():
  process = stoppable(loop(3, compiling=3))
  for _ in range(2):
    # As `timeout` does, to the process and to its group.
    process.send(signal.SIGTERM)
    time.sleep(0.1)
  assert process._process.poll() is None
  time.sleep(0.6)
  process.send(signal.SIGINT)
  code, seconds = process.wait()
  assert code == 130
  assert seconds < 1
  assert process.said == "", "nothing was saved"
  assert process.told.splitlines()[1:] == ["stopped by SIGINT; what was saved last is whole. To go on: sail on"]


def test_the_cursor_of_a_terminal_is_shown_again():
  ours, theirs = pty.openpty()
  process = stoppable(f"print('ready', flush=True)\n{COMPILE}", stderr=theirs)
  os.close(theirs)
  process.send(signal.SIGINT)
  assert process.wait()[0] == 130
  assert os.read(ours, 1000).decode().startswith("\x1b[?25h\r\nstopped by SIGINT")
  os.close(ours)


def test_a_signal_that_was_ignored_stays_so_and_all_is_as_before_at_the_end(monkeypatch):
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  threads = threading.active_count()
  try:
    terminate = signal.getsignal(signal.SIGTERM)
    with StopBySignal("sail on") as stop:
      assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
      assert signal.getsignal(signal.SIGTERM) != terminate
      assert stop.requested() is None
    assert signal.getsignal(signal.SIGTERM) == terminate
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads
  finally:
    signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_can_ask():
  handlers = []

  def work():
    with StopBySignal("sail on"):
      handlers.append(signal.getsignal(signal.SIGTERM))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert handlers == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("unsaved", [True, False])
def test_another_may_ask_and_what_is_saved_is_not_saved_again(unsaved):
  stop, saved, seen = StopAt(2), [], []
  if unsaved:
    stop.hold()
  with pytest.raises(Stopped, match="To go on: run the same command again"):
    for item in stop.between("abc", lambda: saved.append(len(seen))):
      seen.append(item)
  assert seen == ["a", "b"]
  assert saved == [2] * unsaved


def test_nobody_asks():
  assert list(Stop().between("ab", list)) == ["a", "b"]


STAGE = """
import hashlib, importlib, runpy, sys
def hang(*_, **__):
  print("ready", flush=True)
  {compile}
{patch}
sys.argv = ["launch", *{arguments}]
runpy.run_module("launch", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
  ("stage", "patch", "flags"),
  [
    # In worker threads, for which the main thread waits.
    ("preprocess", "data.dataset.preprocess').read_case", "--workdir={} --folds=2"),
    ("predict", "inference.predict').predict_cases", "--checkpoint={} --out={}/out"),
  ],
)
def test_a_stage_that_saves_nothing_ends_at_once(tmp_path, stage, patch, flags):
  write_phantoms(tmp_path / "data", cases=2, seed=0, shape=(24, 24, 24))
  arguments = [stage, *flags.format(*[tmp_path] * 2).split(), f"--data_dir={tmp_path / 'data'}"]
  patch = f"importlib.import_module('nas3d_jax.{patch} = hang"
  process = Process(STAGE.format(compile=COMPILE, patch=patch, arguments=arguments))
  process.send(signal.SIGTERM)
  code, seconds = process.wait()
  assert code == 143
  assert seconds < 2
  command = shlex.join(["python", "-m", "launch", *arguments])
  assert process.told.splitlines()[-1] == f"stopped by SIGTERM; nothing was left to save. To go on: {command}"
  if stage == "preprocess":
    assert main(arguments) == 0


TOY = """
from tests.support.toy import ToySupernet
search = importlib.import_module("nas3d_jax.training.search")
search.Supernet = ToySupernet
session = importlib.import_module("nas3d_jax.training.session")
session.run_epoch = lambda *a, run=session.run_epoch, **k: (print("ready", flush=True), run(*a, **k))
"""


@pytest.mark.parametrize("command", ["search", "demo"])
def test_a_search_is_saved_and_names_the_command_that_goes_on(workdir, command):
  sizes = ["--patch_size=16", "--kernels=1", "--nodes=1", "--depth=2", "--epochs=999"]
  search = ["search", f"--workdir={workdir}", *sizes]
  patch = TOY
  if command == "demo":
    patch += f"import launch.demo\nlaunch.demo.commands = lambda *_: [{search}]"
  arguments = [*search, "--overwrite"] if command == "search" else ["demo", f"--workdir={workdir}"]
  process = Process(STAGE.format(compile=COMPILE, patch=patch, arguments=arguments))
  # Until there is something to save.
  while not (workdir / "search" / "metrics.jsonl").exists():
    time.sleep(0.02)
  process.send(signal.SIGINT)
  code, seconds = process.wait()
  assert code == 130, process.told
  assert seconds < 5
  again = [*search, "--nooverwrite"] if command == "search" else arguments
  # Not always the last line, because the main thread draws its progress until the end; and where the signal comes
  # between two steps with all saved, either thread may be the first to say it, or both.
  ending = f". To go on: {shlex.join(['python', '-m', 'launch', *again])}"
  assert any(line.endswith(ending) for line in process.told.splitlines()), process.told
  assert steps_kept(workdir / "search")


def test_how_to_go_on_changes_when_something_is_saved():
  for stop in (StopBySignal("train --overwrite", "train"), Stop("train --overwrite", "train")):
    assert stop.again == "train --overwrite"
    stop.hold()
    assert stop.again == "train --overwrite"
    stop.release(lambda: False)
    assert stop.again == "train"
  own = Stop("train --overwrite", "train")
  together = StopTogether(own)
  together.release(lambda: False)
  assert (together.again, own.again) == ("train", "train")
  stop = Stop("sail on")
  stop.release(lambda: False)
  assert stop.again == "sail on"


def test_the_last_line_holds_names_that_are_not_utf_8(capfdbinary):
  _tell("python -m launch search --workdir=caf\udce9")
  assert capfdbinary.readouterr().err == b"python -m launch search --workdir=caf\xe9\n"
