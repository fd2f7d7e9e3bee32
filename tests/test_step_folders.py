"""Folders of checkpoints: which count, which are kept, removed and set aside."""

import pytest

from nas3d_jax.checksums import DamagedCheckpoint
from nas3d_jax.step_folders import StepFolders, clear_up, is_step, steps_in


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
