"""Run directories whose paths could be taken for patterns."""

import shutil

import numpy as np
import pytest

from nas3d_jax.checkpointing import literal_paths
from nas3d_jax.checkpointing.checkpoints import Checkpoints, open_run, read_variables
from nas3d_jax.errors import InputError

TREE = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}}
NAMES = ["run [1]", "run*", "a?b", "{x,y}", "back\\slash", "[!a]"]


def save(folder, steps=(1,)):
  with Checkpoints(folder) as checkpoints:
    for step in steps:
      checkpoints.save(
        step, variables=TREE, training={"step": np.int32(step)}, metadata={}, iterators={}, best_metric=None
      )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_there_comes_back(tmp_path, name):
  save(tmp_path / name / "checkpoints", steps=(1, 2))
  folder = open_run(tmp_path / name, "last")
  assert folder.name == "2"
  np.testing.assert_array_equal(read_variables(folder)["params"]["a"], TREE["params"]["a"])
  assert not list(tmp_path.rglob("*orbax-checkpoint-tmp*"))


def test_what_was_never_joined_is_read_all_the_same(tmp_path, monkeypatch):
  """A run that an earlier version left in such a folder."""
  monkeypatch.setattr(literal_paths, "_SPECIAL", frozenset())
  with pytest.raises(InputError, match="does not come back as it was"), monkeypatch.context() as patch:
    patch.setattr(literal_paths, "_JOINED", "_METADATA")  # as if everything were joined
    save(tmp_path / "run [1]" / "checkpoints")
  monkeypatch.undo()
  folder = open_run(tmp_path / "run [1]", "last")
  assert not (folder / "params" / "manifest.ocdbt").exists()
  np.testing.assert_array_equal(read_variables(folder)["params"]["a"], TREE["params"]["a"])
  moved = shutil.move(tmp_path / "run [1]", tmp_path / "run")
  np.testing.assert_array_equal(read_variables(open_run(moved, "last"))["params"]["a"], TREE["params"]["a"])


def test_temporary_folders_must_not_look_like_patterns_either(tmp_path, monkeypatch):
  (tmp_path / "tmp*").mkdir()
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp*"))
  with pytest.raises(InputError, match=r"TMPDIR must be a path without any of \* \?"):
    save(tmp_path / "run [1]" / "checkpoints")
