"""However a command ends, its process ends at once, with its own code and one message."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A training with a toy network that says when its stage is over, and what comes after that.
TRAIN = """
import os, sys, time
import launch.__main__ as launcher
import nas3d_jax.training.search
from tests.support.toy import ToySupernet
nas3d_jax.training.search.Supernet = ToySupernet
main = launcher.main
def timed(*arguments):
  try:
    return main(*arguments)
  finally:
    os.write(3, str(time.time()).encode())
launcher.main = timed
launcher.command(sys.argv[1:])
"""
SIZES = ["--patch_size=16", "--kernels=1", "--nodes=1", "--depth=2", "--epochs=1", "--platform=cpu"]


def run(script, *arguments, stdout=subprocess.PIPE):
  """Exit code, stderr, and seconds from the end of the stage to that of the process, None where it did not say."""
  told, tell = os.pipe()
  # The script writes to descriptor 3.
  command = ["bash", "-c", f'exec "$@" 3>&{tell}', "-", sys.executable, "-c", script, *map(str, arguments)]
  done = subprocess.run(
    command, cwd=ROOT, check=False, stdout=stdout, stderr=subprocess.PIPE, text=True, pass_fds=[tell], timeout=60
  )
  end = time.time()
  os.close(tell)
  with os.fdopen(told) as pipe:
    said = pipe.read()
  return done.returncode, done.stderr, end - float(said) if said else None


@pytest.mark.parametrize("inodes", [8, 12, 25])
def test_a_disk_without_room_for_a_file_is_one_message_and_the_end(workdir, make_disk, inodes):
  (workdir / "search").symlink_to(make_disk(f"nr_inodes={inodes}"))
  code, told, seconds = run(TRAIN, "search", f"--workdir={workdir}", *SIZES)
  assert code == 2, told
  assert seconds < 2
  *_, last = told.splitlines()
  assert last.startswith(f"error: {workdir}/search") and "cannot be written to (" in last, told
  assert "No space left on device); make room" in last
  assert "Traceback" not in told and "Error" not in told


WAITING = """
import sys, threading
import launch.__main__ as launcher
from nas3d_jax.errors import InputError
def main(*_):
  print("said")
  threading.Thread(target=threading.Event().wait).start()
  {ending}
launcher.main = main
launcher.command([])
"""


@pytest.mark.parametrize(
  ("ending", "code", "last"),
  [
    ("return 0", 0, ""),
    ("return 2", 2, ""),
    ("{}['x']", 1, "KeyError: 'x'"),
    ("sys.exit(5)", 5, ""),
  ],
)
def test_threads_that_wait_are_not_waited_for(ending, code, last):
  found, told, _ = run(WAITING.format(ending=ending))
  assert (found, told.strip().splitlines()[-1:]) == (code, [last] if last else [])


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_did_not_arrive_is_no_success(monkeypatch, unbuffered):
  monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
  if not os.path.exists("/dev/full"):
    pytest.skip("there is no /dev/full")
  with open("/dev/full", "w") as full:
    code, told, _ = run(WAITING.format(ending="return 0"), stdout=full)
  assert code == 2
  assert told.startswith("error: stdout cannot be written to (No space left on device); make room")
  assert told.count("\n") == 1
