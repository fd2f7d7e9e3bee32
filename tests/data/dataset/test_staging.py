"""A data set appears whole or not at all: interruptions, overwriting, folders of others."""

import gzip
import shutil

import pytest

from nas3d_jax.data.dataset import preprocess as module
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.errors import InputError


@pytest.fixture
def data_dir(tmp_path):
  write_phantoms(tmp_path / "data", cases=4, seed=0, shape=(16, 16, 16))
  return tmp_path / "data"


@pytest.fixture
def out(tmp_path):
  return tmp_path / "run" / "dataset"


def tree(folder):
  """Every file below a folder with its content."""
  return {
    str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
  }


def file_of(data_dir, case, kind):
  return next(data_dir.glob(f"*/Phantom_{case:04d}/*_{kind}.nii.gz"))


def test_overwrite_keeps_the_old_one_until_the_new_one_is_whole(data_dir, out):
  preprocess(data_dir, out, folds=2)
  before = tree(out)
  file_of(data_dir, 1, "t1").write_bytes(b"")
  with pytest.raises(InputError, match="Phantom_0001"):
    preprocess(data_dir, out, folds=2, overwrite=True)
  assert tree(out) == before
  assert [path.name for path in out.parent.iterdir()] == ["dataset"]


class KilledError(Exception):
  """Stands for the end of the process."""


def kill_at(monkeypatch, case):
  """Lets preprocess end at once when it reads this case; returns the names of the cases read."""
  read_case, seen = module.read_case, []

  def read(files, schema):
    if files.name == case:
      raise KilledError
    seen.append(files.name)
    return read_case(files, schema)

  monkeypatch.setattr(module, "read_case", read)
  return seen


def test_an_interrupted_run_goes_on(data_dir, out, tmp_path, monkeypatch):
  whole = preprocess(data_dir, tmp_path / "whole", folds=2)
  kill_at(monkeypatch, "Phantom_0003")
  with pytest.raises(KilledError):
    preprocess(data_dir, out, folds=2, workers=1)
  assert not out.exists()
  monkeypatch.undo()
  path = file_of(data_dir, 2, "t1")  # this file changes meanwhile, so that it is read again
  path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
  seen = kill_at(monkeypatch, None)
  dataset = preprocess(data_dir, out, folds=2, workers=1)
  assert seen[0] == "Phantom_0002"
  assert "Phantom_0001" not in seen
  assert [c.label_counts for c in dataset.cases] == [c.label_counts for c in whole.cases]
  assert [path.name for path in out.parent.iterdir()] == ["dataset"]


def test_leftovers_of_a_case_that_is_gone_do_not_stay(data_dir, out, monkeypatch):
  kill_at(monkeypatch, "Phantom_0003")
  with pytest.raises(KilledError):
    preprocess(data_dir, out, folds=2, workers=1)
  monkeypatch.undo()
  shutil.rmtree(file_of(data_dir, 1, "t1").parent)
  preprocess(data_dir, out, folds=2)
  names = sorted(path.name for path in (out / "cases").iterdir())
  assert names == ["Phantom_0002", "Phantom_0003", "Phantom_0004"]


def test_an_overwrite_cut_short_between_its_renames_is_mended(data_dir, out):
  preprocess(data_dir, out, folds=2)
  before = tree(out)
  out.rename(out.with_name(".dataset.former"))
  preprocess(data_dir, out, folds=2)
  assert tree(out) == before
  assert [path.name for path in out.parent.iterdir()] == ["dataset"]


@pytest.mark.parametrize("name", ["dataset", ".dataset.partial"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_of_others_are_left_alone(data_dir, out, name, overwrite):
  theirs = out.with_name(name)
  theirs.mkdir(parents=True)
  (theirs / "thesis.tex").write_text("x")
  with pytest.raises(InputError, match="move it away"):
    preprocess(data_dir, out, folds=2, overwrite=overwrite)
  assert tree(out.parent) == {f"{name}/thesis.tex": b"x"}


def test_links_in_what_was_begun_are_not_followed(data_dir, out, tmp_path, monkeypatch):
  kill_at(monkeypatch, "Phantom_0003")
  with pytest.raises(KilledError):
    preprocess(data_dir, out, folds=2, workers=1)
  monkeypatch.undo()
  begun, theirs = out.with_name(".dataset.partial"), tmp_path / "theirs"
  for name in ("cases", "records"):
    shutil.rmtree(begun / name)
    (theirs / "Phantom_0001").mkdir(parents=True, exist_ok=True)
    (theirs / "Phantom_0001" / "image.npy").write_text("keep me")
    (theirs / "another").mkdir(exist_ok=True)
    (begun / name).symlink_to(theirs)
  before = tree(theirs)
  preprocess(data_dir, out, folds=2)
  assert tree(theirs) == before
  assert (theirs / "another").is_dir()
  assert not any(path.is_symlink() for path in out.rglob("*"))


def test_a_data_set_on_another_disk_stays_there(data_dir, out, tmp_path):
  (tmp_path / "large").mkdir()
  out.parent.mkdir()
  out.symlink_to(tmp_path / "large")
  for _ in range(2):
    assert len(preprocess(data_dir, out, folds=2, overwrite=True).cases) == 4
    assert out.is_symlink()
    assert (tmp_path / "large" / "manifest.json").exists()
    assert [path.name for path in out.parent.iterdir()] == ["dataset"]


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_overwriting_mends_a_damaged_data_set_as_its_message_says(data_dir, out, name):
  preprocess(data_dir, out, folds=2)
  before = tree(out)
  (out / name).write_text("{")
  with pytest.raises(InputError, match=rf"{name} is no JSON: .* `python -m launch preprocess --overwrite`"):
    preprocess(data_dir, out, folds=2)
  preprocess(data_dir, out, folds=2, overwrite=True)
  assert tree(out).keys() == before.keys()
  assert tree(out)["manifest.json"] == before["manifest.json"]
