"""What lies under our names as a link, in a folder received from others, is not written through."""

import os

import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import whole, write_whole
from nas3d_jax.files.locks import LOCK, locked
from nas3d_jax.files.own_files import open_kept, open_new, own_folder, remove


@pytest.fixture
def theirs(tmp_path):
  """A folder with a file that is not ours, to which links lead; it has to stay as it is."""
  folder = tmp_path / "theirs"
  (folder / "inside").mkdir(parents=True)
  (folder / "file").write_text("keep me")
  yield folder
  assert (folder / "file").read_text() == "keep me"
  assert sorted(path.name for path in folder.iterdir()) == ["file", "inside"]


@pytest.fixture
def ours(tmp_path):
  (tmp_path / "ours").mkdir()
  return tmp_path / "ours"


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_is_written_beside_the_link(theirs, ours, link):
  for name in (".a.json.partial", "a.json"):
    link(theirs / "file", ours / name)
  write_whole(ours / "a.json", "new")
  assert (ours / "a.json").read_text() == "new"
  assert os.listdir(ours) == ["a.json"]
  with open_new(ours / "a.json") as file:
    file.write(b"newer")
  assert (ours / "a.json").read_text() == "newer"


def test_a_lock_takes_the_place_of_a_link(theirs, ours):
  (ours / LOCK).symlink_to(theirs / "file")
  with locked(ours):
    assert not (ours / LOCK).is_symlink()
  (ours / LOCK).symlink_to(theirs / "not there")
  with locked(ours):
    pass
  assert list(ours.iterdir()) == []


def test_a_lock_with_a_second_name_is_refused(theirs, ours):
  os.link(theirs / "file", ours / LOCK)
  with pytest.raises(InputError, match=r"\.lock must be a file of its own, without a second name"), locked(ours):
    pass


@pytest.mark.parametrize("name", ["file", "not there"])
def test_nothing_is_appended_through_a_link(theirs, ours, name):
  (ours / "log").symlink_to(theirs / name)
  with pytest.raises(InputError, match=rf"log is a link to .*{name}; nothing is written through it: remove it"):
    open_kept(ours / "log", append=True)


def test_what_is_appended_comes_at_the_end(ours):
  for text in (b"a", b"b"):
    with open_kept(ours / "log", append=True) as file:
      file.write(text)
  assert (ours / "log").read_bytes() == b"ab"


def test_folders(theirs, ours):
  (ours / "cases").symlink_to(theirs, target_is_directory=True)
  assert list(own_folder(ours / "cases").iterdir()) == []
  assert not (ours / "cases").is_symlink()
  (ours / "cases" / "link").symlink_to(theirs, target_is_directory=True)
  remove(ours / "cases" / "link")
  assert list((ours / "cases").iterdir()) == []
  (ours / "cases" / "link").symlink_to(theirs, target_is_directory=True)
  (ours / "a file").touch()
  for name in ("cases", "a file", "not there"):
    remove(ours / name)
  assert list(ours.iterdir()) == []


def test_one_that_another_process_writes_too_is_left_to_it(ours):
  (ours / "a.json").write_text("old")
  with pytest.raises(FileExistsError, match="another process"), whole(ours / "a.json") as file:
    file.write(b"half")
    open_new(ours / ".a.json.partial").close()
  assert (ours / "a.json").read_text() == "old"
