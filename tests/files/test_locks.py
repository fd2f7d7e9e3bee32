"""One writer a folder: others are refused with the name of the one, and a dead one holds nothing."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.files import locks
from nas3d_jax.files.locks import LOCK, holds_nothing, locked

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from nas3d_jax.files.locks import locked
with locked(sys.argv[1]):
  print("locked", flush=True)
  sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
  """Another process that holds the lock of a folder until it is told, or killed."""
  pytest.importorskip("fcntl")
  command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
  process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == "locked\n"
  yield process
  process.kill()
  process.communicate()


def test_another_process_is_named(holder, tmp_path):
  with pytest.raises(InputError) as error, locked(tmp_path / "run"):
    pass
  message = str(error.value)
  assert f"another process ({holder.pid} on " in message
  assert f"writes to {tmp_path / 'run'}; wait for it, or give another folder" in message
  assert ", since 2" in message
  with locked(tmp_path / "run", ".other"):
    pass


def test_a_lock_ends_with_its_process(holder, tmp_path):
  holder.communicate("go on\n")
  with locked(tmp_path / "run"):
    assert str(os.getpid()) in (tmp_path / "run" / LOCK).read_text()
  assert not (tmp_path / "run").exists()


def test_a_killed_process_leaves_no_lock(holder, tmp_path):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  assert (tmp_path / "run" / LOCK).exists()
  assert holds_nothing(tmp_path / "run")
  with locked(tmp_path / "run"):
    text = (tmp_path / "run" / LOCK).read_text()
    assert text.startswith(f"{os.getpid()} on ")
    assert len(text.splitlines()) == 1
  assert list((tmp_path / "run").iterdir()) == []


def test_the_same_process_has_one_writer_too(tmp_path):
  pytest.importorskip("fcntl")
  with locked(tmp_path), pytest.raises(InputError, match=rf"another process \({os.getpid()} on "), locked(tmp_path):
    pass
  with locked(tmp_path):
    pass


def test_a_folder_is_made_and_goes_if_nothing_was_put_into_it(tmp_path):
  with locked(tmp_path / "a" / "b"):
    assert holds_nothing(tmp_path / "a" / "b")
  assert list(tmp_path.iterdir()) == []
  with locked(tmp_path / "a" / "b"):
    (tmp_path / "a" / "b" / "kept").touch()
  assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["kept"]


def test_a_lock_goes_with_an_error(tmp_path):
  with pytest.raises(KeyboardInterrupt), locked(tmp_path):
    raise KeyboardInterrupt
  assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_message_and_leaves_no_folder(small_disk):
  (small_disk / "others").write_bytes(bytes(10))
  with contextlib.suppress(OSError), (small_disk / "others").open("ab") as file:
    while True:
      file.write(bytes(4096))
  with pytest.raises(InputError, match=r"run cannot be written to \(No space left on device\)"), (
    locked(small_disk / "run")
  ):
    pass
  assert os.listdir(small_disk) == ["others"]


def test_a_file_in_the_way(tmp_path):
  (tmp_path / "out").write_text("mine")
  with pytest.raises(InputError, match="out must be a folder, but there is a file"), locked(tmp_path / "out"):
    pass


def test_without_fcntl_there_is_no_lock(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, "fcntl", None)
  with locked(tmp_path), locked(tmp_path, ".other"):
    pass


@pytest.mark.parametrize(("name", "nothing"), [(".lock", True), (".config.json.partial", True), ("x", False)])
def test_what_counts_as_nothing(tmp_path, name, nothing):
  (tmp_path / name).touch()
  assert holds_nothing(tmp_path) is nothing
