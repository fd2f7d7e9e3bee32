"""Folders of checkpoints: which count, which are kept, removed and set aside."""

import os

import numpy as np
import pytest

from nas3d_jax.checkpointing.checkpoints import Checkpoints
from nas3d_jax.checkpointing.step_folders import StepFolders, clear_up, is_step, set_aside, settle, steps_in
from nas3d_jax.errors import DamagedCheckpoint
from tests.support.runs import arrays


def make(folder, metrics):
  """A folder of steps, and their metrics as `StepFolders` reads them; an exception cannot be read."""
  for step in metrics:
    (folder / str(step) / "params").mkdir(parents=True)
    (folder / str(step) / "metadata").mkdir()

  def metric(path):
    value = metrics[int(path.name)]
    if isinstance(value, Exception):
      raise value
    return value

  return metric


BAD = DamagedCheckpoint("metrics are damaged")


def names(folder):
  return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
  ("metrics", "best", "left"),
  [
    ({}, None, []),
    ({1: None}, None, ["1"]),
    ({1: 3.0, 2: 4.0, 3: 5.0, 4: 6.0}, 1, ["1", "3", "4"]),
    ({1: 3.0, 2: 3.0, 10: 5.0, 11: 4.0}, 2, ["10", "11", "2"]),
    ({1: None, 2: None, 3: None}, None, ["2", "3"]),
    ({1: float("nan"), 2: 9.0, 3: 10.0, 4: None}, 2, ["2", "3", "4"]),
    ({1: BAD, 2: 9.0, 3: 10.0, 4: 11.0, 5: 12.0}, 2, ["1", "2", "4", "5"]),
  ],
)
def test_the_last_two_and_the_best_stay_and_what_cannot_be_rated(tmp_path, metrics, best, left):
  steps = StepFolders(tmp_path, make(tmp_path, metrics))
  assert steps.best == best
  assert steps.last == max(metrics, default=None)
  steps.remove_superseded()
  assert names(tmp_path) == left
  assert sorted(map(str, steps.metrics)) == left


def test_the_best_cannot_be_told_without_the_metric_of_one(tmp_path):
  steps = StepFolders(tmp_path, make(tmp_path, {1: 2.0, 2: BAD, 3: 4.0}))
  with pytest.raises(DamagedCheckpoint, match=r"^metrics are damaged\. .*the other steps are: 1, 3$"):
    steps.rated_best()
  steps.set_aside(2)
  assert steps.rated_best() == 1


def test_what_is_set_aside_gives_its_step_free_and_nothing_is_lost(tmp_path):
  steps = StepFolders(tmp_path, make(tmp_path, {5: 1.0, 6: BAD}))
  assert steps.set_aside(6) == tmp_path / "6.damaged"
  assert (steps.metrics, steps.unrated) == ({5: 1.0}, {})
  steps = StepFolders(tmp_path, make(tmp_path, {6: 2.0}) and (lambda _: 2.0))
  assert steps.set_aside(6) == tmp_path / "6.damaged.2"
  assert names(tmp_path) == ["5", "6.damaged", "6.damaged.2"]
  assert steps_in(tmp_path) == [5]


def test_one_process_alone_changes_what_is_on_disk(tmp_path):
  steps = StepFolders(tmp_path, make(tmp_path, {1: 9.0, 2: 3.0, 3: 4.0, 4: 5.0}), first=False)
  steps.remove_superseded()
  steps.set_aside(4)
  assert steps.metrics == {2: 3.0, 3: 4.0}
  assert names(tmp_path) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
  "name", ["07", "-1", "1.5", "x", "9.damaged", "9.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp-removed", "٣"]
)
def test_what_is_no_step(tmp_path, name):
  (tmp_path / name / "params").mkdir(parents=True)
  (tmp_path / name / "metadata").mkdir()
  (tmp_path / "8").write_text("a file")
  assert steps_in(tmp_path) == []
  assert is_step(tmp_path / name) is ("tmp" not in name)
  clear_up(tmp_path)
  assert (tmp_path / name).exists() is ("tmp" not in name)


def test_a_missing_folder_holds_none(tmp_path):
  assert steps_in(tmp_path / "none") == []


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
