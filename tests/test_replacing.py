"""Writing the checkpoint of a step again: at every moment there is one of that step, or it comes back."""

import os

import numpy as np
import pytest
from runs import arrays

from nas3d_jax.checkpoints import Checkpoints
from nas3d_jax.replacing import set_aside, settle


def save(store, step, value, metric=None):
  items = dict(variables={"params": {"x": np.float32(value)}}, training={"step": np.int32(step)})
  store.save(step, **items, metadata={}, iterators={}, best_metric=metric)


def value_of(folder):
  return arrays(folder)["params/params/x"]


def test_a_step_can_be_saved_again_and_be_the_best(tmp_path):
  with Checkpoints(tmp_path) as store:
    save(store, 1, 1.0, metric=0.5)
    save(store, 2, 2.0)
    save(store, 2, 3.0, metric=0.25)
    store.wait()
    assert (store.latest_step(), store.best_step()) == (2, 2)
  assert value_of(tmp_path / "2") == 3
  assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("finished", [False, True])
def test_what_is_left_of_it_when_it_is_cut_short(tmp_path, finished):
  with Checkpoints(tmp_path) as store:
    save(store, 2, 1.0)
  set_aside(tmp_path, 2)
  if finished:
    with Checkpoints(tmp_path / "other") as store:
      save(store, 2, 2.0)
    os.replace(tmp_path / "other" / "2", tmp_path / "2")
    (tmp_path / "other").rmdir()
  with Checkpoints(tmp_path) as store:
    assert store.latest_step() == 2
  assert value_of(tmp_path / "2") == (2 if finished else 1)
  assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_other_files_are_left_alone(tmp_path):
  for name in (".1", "1.former", ".lock"):
    (tmp_path / name).mkdir()
  settle(tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == {".1", "1.former", ".lock"}
