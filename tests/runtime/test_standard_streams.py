"""Stdout and stderr of a command, as a process: readers that go away, terminals that lack a letter, full disks."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nas3d_jax
from nas3d_jax.runtime import standard_streams

ROOT = Path(nas3d_jax.__file__).parents[1]
SCRIPT = """
import sys
from nas3d_jax.runtime import standard_streams
standard_streams.withstand()
for number in range(3):
  print("line", number, "caf\\u00e9", "x" * 70000)
  print("caf\\u00e9 caf\\udce9", file=sys.stderr)
lost = standard_streams.what_was_lost()
sys.exit(0 if lost is None else 3)
"""


def run(*arguments, **options):
  return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False, timeout=60, **options)


def closed_pipe():
  reading, writing = os.pipe()
  os.close(reading)
  return os.fdopen(writing, "w")


@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_went_away_ends_nothing(stream, unbuffered):
  other = "stderr" if stream == "stdout" else "stdout"
  with closed_pipe() as pipe:
    done = run(*unbuffered, "-c", SCRIPT, **{stream: pipe, other: subprocess.PIPE})
  assert done.returncode == 0
  said = getattr(done, other).decode()
  assert said.count("caf") == (6 if other == "stderr" else 3)
  assert "Error" not in said


def test_characters_that_are_lacking_are_escaped():
  done = run("-c", SCRIPT, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
  assert (done.returncode, done.stderr) == (0, 3 * b"caf\\xe9 caf\\udce9\n")
  assert done.stdout.startswith(rb"line 0 caf\xe9 xxx")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_under_stdout_is_said_once():
  for arguments in (["--help"], ["phantom", "--help"]):
    with open("/dev/full", "w") as full:
      done = run("-m", "launch", *arguments, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    said = b"error: stdout cannot be written to (No space left on device); make room, or print to another file\n"
    assert done.stderr == said


def test_a_stream_that_is_none_of_a_file_stays_and_none_is_made_one(monkeypatch):
  text = io.StringIO()
  monkeypatch.setattr(sys, "stdout", text)
  monkeypatch.setattr(sys, "stderr", None)
  standard_streams.withstand()
  assert sys.stdout is text
  assert sys.stderr.write("gone") == 4
  assert standard_streams.what_was_lost() is None
  monkeypatch.setattr(sys, "stdout", None)
  assert standard_streams.what_was_lost() is None


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "2>&-"])
def test_streams_that_were_closed_before(tmp_path, closed):
  """As of services. No file that is opened gets the number of one of them."""
  script = "import os, sys; from launch.__main__ import command, standard_streams; standard_streams.withstand(); "
  script += f"file = open({str(tmp_path / 'file')!r}, 'w'); assert file.fileno() > 2; os.write(1, b'x'); "
  script += "command(sys.argv[1:])"
  arguments = ["phantom", f"--out={tmp_path}/made", "--cases=1", "--shape=16,16,16"]
  shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", script, *arguments]
  done = subprocess.run(shell, cwd=ROOT, check=False, timeout=60, capture_output=True)
  assert done.returncode == 0
  assert b"Traceback" not in done.stdout + done.stderr
  assert (tmp_path / "file").read_text() == ""
  assert len(list((tmp_path / "made").glob("*/*/*.nii.gz"))) == 5


def test_commands_into_a_pipe_that_nobody_reads(tmp_path):
  made = ["phantom", f"--out={tmp_path}/café", "--cases=1", "--shape=16,16,16"]
  inspected = ["inspect", f"--data_dir={tmp_path}/café", "--json=-"]
  # The case of seed 0 has nothing that `inspect` lists.
  for arguments in ["--help"], ["train", "--help"], made, inspected:
    with closed_pipe() as pipe:
      done = run("-m", "launch", *arguments, stdout=pipe, stderr=subprocess.PIPE)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
  assert len(list((tmp_path / "café").glob("*/*/*.nii.gz"))) == 5
  ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
  done = run("-m", "launch", *made, capture_output=True, env=ascii_only)
  assert (done.returncode, done.stdout) == (0, f"1 cases in {tmp_path}/caf\\xe9\n".encode())
