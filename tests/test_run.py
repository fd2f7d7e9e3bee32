"""A run directory: made, gone on with, refused, started anew."""

import json

import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.run import Run, has_checkpoint

SETTINGS = {"seed": 0, "epochs": 2, "kernels": None}
DEVICE = {"platform": "cpu"}


def open_run(folder, *, overwrite=False, device=DEVICE, **settings):
  return Run(folder, SETTINGS | settings, device=device, overwrite=overwrite, changeable=("epochs",))


def save(run, step, epoch):
  run.checkpoints.save(
    step, variables={"params": {"w": np.float32([step])}}, training={"epoch": epoch}, metadata={"kind": "toy"},
    iterators={"train": {"next_index": step}}, best_metric=None,
  )


def resume(run):
  return run.resume(variables={"params": {"w": np.float32([0])}}, training={"epoch": 0})


def epochs(folder):
  return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def begun(tmp_path):
  """A run of two finished epochs, of which the first has a checkpoint; the genotype of a search beside it."""
  with open_run(tmp_path / "run") as run:
    run.record({"epoch": 1})
    save(run, 5, 1)
    run.record({"epoch": 2})
    run.write("genotype.json", "{}")
  return tmp_path / "run"


def test_the_directory_says_what_made_it(tmp_path):
  with open_run(tmp_path / "a" / "run") as run:
    assert resume(run) is None
    run.record({"epoch": 1, "loss": 0.1})
  with open_run(tmp_path / "a" / "run", device={"platform": "gpu"}, epochs=3):
    pass
  folder = tmp_path / "a" / "run"
  assert json.loads((folder / "config.json").read_text()) == {
    "settings": SETTINGS | {"epochs": 3}, "sessions": [DEVICE, {"platform": "gpu"}]
  }
  assert (folder / "metrics.jsonl").read_text() == '{"epoch": 1, "loss": 0.1}\n'
  assert {path.name for path in folder.iterdir()} == {"config.json", "metrics.jsonl", "checkpoints"}


def test_resuming_gives_the_last_checkpoint_and_drops_later_records(begun):
  with open_run(begun) as run:
    last = resume(run)
  assert last.variables["params"]["w"].tolist() == [5]
  assert (last.training, last.positions) == ({"epoch": 1}, {"train": {"next_index": 5}})
  assert last.metadata == {"format_version": 1, "kind": "toy"}
  assert epochs(begun) == [1]


@pytest.mark.parametrize("torn", ['{"epoch": 3, "lo', '{"epoch": 3}'])
def test_a_record_cut_short_is_dropped(begun, torn):
  with (begun / "metrics.jsonl").open("a") as file:
    file.write(torn)
  with open_run(begun) as run:
    resume(run)
    run.record({"epoch": 2})
  assert epochs(begun) == [1, 2]


def test_records_without_any_checkpoint_are_dropped(tmp_path):
  with open_run(tmp_path) as run:
    run.record({"epoch": 1})
  with open_run(tmp_path) as run:
    assert resume(run) is None
  assert epochs(tmp_path) == []


def test_a_number_that_is_not_finite_is_not_recorded(tmp_path):
  with open_run(tmp_path) as run, pytest.raises(ValueError, match="not JSON compliant"):
    run.record({"loss": float("nan")})


def test_other_settings_are_named_together(begun):
  before = (begun / "config.json").read_text()
  with pytest.raises(InputError, match="--overwrite") as error:
    open_run(begun, seed=1, kernels=2, epochs=9)
  assert "seed was 0, is 1; kernels was None, is 2." in str(error.value)
  assert "epochs" not in str(error.value)
  assert str(begun) in str(error.value)
  assert (begun / "config.json").read_text() == before


def test_overwriting_deletes_the_runs_own_files_alone(begun):
  (begun / "notes.txt").write_text("mine")
  assert has_checkpoint(begun)
  with open_run(begun, overwrite=True, seed=1) as run:
    assert resume(run) is None
  assert not has_checkpoint(begun)
  assert {path.name for path in begun.iterdir()} == {"notes.txt", "config.json", "checkpoints"}
  stored = json.loads((begun / "config.json").read_text())
  assert stored == {"settings": SETTINGS | {"seed": 1}, "sessions": [DEVICE]}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
  "files", [{"thesis.txt": "x"}, {"config.json": "{}"}, {"config.json": "{", "metrics.jsonl": ""}]
)
def test_a_folder_with_something_else_is_left_alone(tmp_path, overwrite, files):
  for name, text in files.items():
    (tmp_path / name).write_text(text)
  with pytest.raises(InputError, match=str(tmp_path)):
    open_run(tmp_path, overwrite=overwrite)
  assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
  ("entry", "expected"), [(None, False), ("12", True), ("12.orbax-checkpoint-tmp", False)]
)
def test_only_a_finished_checkpoint_counts(tmp_path, entry, expected):
  (tmp_path / "checkpoints").mkdir()
  if entry:
    (tmp_path / "checkpoints" / entry).mkdir()
  assert has_checkpoint(tmp_path) is expected
  assert not has_checkpoint(tmp_path / "missing")
