"""Files whole or not at all, and what is said of a disk that takes no more."""

import errno
import os

import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import refusal, write_whole, writing


@pytest.mark.parametrize(("content", "data"), [("é\n", b"\xc3\xa9\n"), (b"\x00\r\n", b"\x00\r\n"), ("", b"")])
def test_a_file_is_replaced(tmp_path, content, data):
  (tmp_path / "a.json").write_text("old")
  write_whole(tmp_path / "a.json", content)
  assert (tmp_path / "a.json").read_bytes() == data
  assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_one_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch, call):
  (tmp_path / "a.json").write_text("old")

  def fail(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, call, fail)
  with pytest.raises(InputError, match=r"written to \(No space left on device\); make room"), writing(tmp_path):
    write_whole(tmp_path / "a.json", "new")
  assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.json": "old"}


def test_a_full_disk_leaves_the_old_one_and_nothing_else(small_disk):
  write_whole(small_disk / "a.json", "old")
  with pytest.raises(InputError, match="No space left on device"), writing(small_disk):
    write_whole(small_disk / "a.json", "x" * 10_000_000)
  assert {path.name: path.read_text() for path in small_disk.iterdir()} == {"a.json": "old"}
  write_whole(small_disk / "a.json", "new")


@pytest.mark.parametrize(
  ("error", "message"),
  [
    (OSError(errno.ENOSPC, "", "out/x"), r"^out cannot be written to \(out/x: No space left on device\); make room"),
    (OSError(errno.EDQUOT, ""), r"^out cannot be written to \(Disk quota exceeded\); make room"),
    (OSError(errno.EFBIG, ""), r"\(File too large\); make room"),
    (OSError(errno.EROFS, "", b"out/x"), r"\(out/x: Read-only file system\); correct the permissions"),
    (PermissionError(errno.EACCES, ""), r"\(Permission denied\); correct the permissions"),
    (ValueError("RESOURCE_EXHAUSTED: [OS error 28: ENOSPC No space left on device]"), r"\(No space left on device\)"),
  ],
)
def test_what_a_disk_says_becomes_one_message(error, message):
  with pytest.raises(InputError, match=message) as caught, writing("out"):
    raise error
  assert caught.value.__cause__ is error
  assert str(caught.value).endswith("and run the same command again; what was saved before is whole")


@pytest.mark.parametrize(
  "error", [OSError(errno.EIO, "Input/output error"), FileNotFoundError(errno.ENOENT, ""), ValueError("no"), OSError()]
)
def test_other_errors_stay_what_they_are(error):
  with pytest.raises(type(error)) as caught, writing("out"):
    raise error
  assert caught.value is error


def test_an_error_is_not_told_twice():
  own = InputError("out cannot be written to (No space left on device)")
  with pytest.raises(InputError) as caught, writing("over"):
    raise own
  assert caught.value is own


def test_without_a_folder_the_file_is_named():
  assert str(refusal(OSError(errno.EROFS, "", "a/b"))).startswith("a file or folder cannot be used (a/b: Read-only")
