"""A run directory: made, gone on with, refused, started anew; and what is lost by a damage or a full disk: nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.files.locks import locked
from nas3d_jax.training.run_directory import Run, has_checkpoint
from tests.support.runs import damage

SETTINGS = {"seed": 0, "epochs": 2, "kernels": None}
DEVICE = {"platform": "cpu"}


def open_run(folder, *, overwrite=False, device=DEVICE, **settings):
  return Run(folder, SETTINGS | settings, device=device, overwrite=overwrite, changeable=("epochs",))


class Training(NamedTuple):
  """The item of that name."""

  epoch: int


def save(run, step, epoch, *, size=1, metric=None):
  w = np.float32([step]) if size == 1 else np.random.default_rng(step).normal(size=size).astype(np.float32)
  run.checkpoints.save(
    step, variables={"params": {"w": w}}, training=Training(epoch), metadata={"kind": "toy"},
    iterators={"train": {"next_index": step}}, best_metric=metric,
  )


def resume(run, size=1):
  return run.resume(variables={"params": {"w": np.zeros(size, np.float32)}}, training=Training(0))


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
  assert (last.training, last.positions) == (Training(1), {"train": {"next_index": 5}})
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


@pytest.fixture
def long(tmp_path):
  """A run of four epochs: checkpoint 1 is the best, 3 and 4 are the last."""
  with open_run(tmp_path / "run") as run:
    for epoch in (1, 2, 3, 4):
      run.record({"epoch": epoch})
      save(run, epoch, epoch, metric=float(epoch))
  return tmp_path / "run"


def cut(step):
  path = step / "training" / "manifest.ocdbt"
  path.write_bytes(path.read_bytes()[:20])


DAMAGES = {
  "flip": damage, "cut": cut, "metadata": lambda step: (step / "metadata" / "metadata").write_text(""),
  "metrics": lambda step: (step / "metrics" / "metrics").write_text('{"best_metric": 0.0}'),
  "gone": lambda step: shutil.rmtree(step / "training"),
  "input": lambda step: (step / "input" / "metadata").write_text("{}"),
}


def steps_of(run):
  return sorted(path.name for path in (run / "checkpoints").iterdir())


def contents(run):
  return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize(("bad", "good"), [((4,), 3), ((4, 3), 1)])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(long, capsys, kind, bad, good):
  for step in bad:
    DAMAGES[kind](long / "checkpoints" / str(step))
  with open_run(long) as run:
    last = resume(run)
    assert last.variables["params"]["w"].tolist() == [good]
    assert (last.training, last.positions) == (Training(good), {"train": {"next_index": good}})
    assert epochs(long) == list(range(1, good + 1))
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == len(bad)
    for line, step in zip(warned, bad, strict=True):
      assert line.startswith("warning: ")
      assert str(long / "checkpoints" / str(step)) in line
      assert line.endswith(f"It is called {step}.damaged now; going on from step {good}")
    # Each step can be saved again, and the next session knows nothing of it all.
    for epoch in range(good + 1, 5):
      run.record({"epoch": epoch})
      save(run, epoch, epoch, metric=float(epoch))
  with open_run(long) as run:
    assert resume(run).training == Training(4)
  assert capsys.readouterr().err == ""
  assert epochs(long) == [1, 2, 3, 4]
  assert steps_of(long) == sorted(["1", "3", "4", *(f"{step}.damaged" for step in bad)])


def test_where_none_is_good_nothing_is_changed(long):
  for step in (1, 3, 4):
    damage(long / "checkpoints" / str(step))
  before = contents(long / "checkpoints")
  with open_run(long) as run, pytest.raises(InputError, match="all of its checkpoints are damaged; put back") as error:
    resume(run)
  assert all(str(long / "checkpoints" / str(step)) in str(error.value) for step in (1, 3, 4))
  assert contents(long / "checkpoints") == before
  assert epochs(long) == [1, 2, 3, 4]


def test_a_damaged_best_stays_where_it_is(long, capsys):
  damage(long / "checkpoints" / "1")
  with open_run(long) as run:
    assert resume(run).training == Training(4)
  assert capsys.readouterr().err == ""
  assert steps_of(long) == ["1", "3", "4"]


def test_one_whose_metric_cannot_be_read_is_set_aside(long, capsys):
  (long / "checkpoints" / "1" / "metrics" / "metrics").write_text("")
  with open_run(long) as run:
    assert resume(run).training == Training(4)
  assert "its metrics is damaged" in capsys.readouterr().err
  assert steps_of(long) == ["1.damaged", "3", "4"]


@pytest.mark.parametrize("damaged", [(), (4,)])
def test_a_newer_format_is_neither_passed_over_nor_moved(long, damaged):
  path = long / "checkpoints" / str(3 if damaged else 4) / "metadata" / "metadata"
  path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
  for step in damaged:
    damage(long / "checkpoints" / str(step))
  with open_run(long) as run, pytest.raises(InputError, match=r"format version 2, .* update nas3d_jax"):
    resume(run)
  assert steps_of(long) == ["1", "3", "4"]
  assert epochs(long) == [1, 2, 3, 4]


def test_another_network_is_no_damage(long):
  with open_run(long) as run, pytest.raises(InputError, match=r"4 does not fit, in its params: .*w is float32\[1\]"):
    resume(run, size=2)
  assert steps_of(long) == ["1", "3", "4"]


def test_a_record_that_is_damaged_is_dropped_alone(long):
  path = long / "metrics.jsonl"
  path.write_bytes(path.read_bytes().replace(b'"epoch": 2}', b'"epo\xff: 2}'))
  with open_run(long) as run:
    resume(run)
  assert epochs(long) == [1, 3, 4]


@pytest.mark.parametrize("size", [0, 30])
def test_a_configuration_that_is_cut_short_is_named(begun, size):
  path = begun / "config.json"
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(InputError, match=r"config\.json is damaged, .* put back a copy"):
    open_run(begun)
  assert has_checkpoint(begun)


def test_another_process_is_kept_out(begun):
  with locked(begun):
    before = contents(begun)
    for overwrite in (False, True):
      with pytest.raises(InputError, match=r"another process .* writes to .*run; wait for it"):
        open_run(begun, overwrite=overwrite)
    assert contents(begun) == before
  with open_run(begun) as run:
    with pytest.raises(InputError, match="another process"):
      open_run(begun)
    save(run, 6, 2)
  assert steps_of(begun) == ["5", "6"]


def test_a_process_that_is_not_the_first_writes_no_file_and_needs_no_lock(begun):
  with open_run(begun) as first:
    before = contents(begun)
    with Run(begun, SETTINGS, device=DEVICE, overwrite=False, primary=False) as run:
      assert resume(run).training == Training(1)
      run.record({"epoch": 2})
      run.write("genotype.json", "other")
    assert contents(begun) == before
    assert resume(first).training == Training(1)


def test_what_a_killed_beginning_leaves_is_begun_anew(tmp_path):
  (tmp_path / ".lock").write_text("1 on host\n")
  (tmp_path / ".config.json.partial").write_text("{")
  with open_run(tmp_path) as run:
    assert resume(run) is None


def test_a_full_disk_costs_the_checkpoint_at_hand_alone(small_disk, capfd):
  folder = small_disk / "run"
  with pytest.raises(InputError, match=rf"{folder}.* cannot be written to \(No space left on device\)"), (
    open_run(folder)
  ) as run:
    for epoch in range(1, 9):
      run.record({"epoch": epoch})
      save(run, epoch, epoch, size=10_000, metric=1.0)
      (folder / f"others.{epoch}").write_bytes(bytes(20_000))
  assert capfd.readouterr().err == ""
  for path in folder.glob("others.*"):
    path.unlink()
  steps = [int(name) for name in steps_of(folder) if name.isdecimal()]
  assert len(steps) >= 2
  with open_run(folder) as run:
    last = resume(run, size=10_000)
    assert last.training == Training(steps[-1])
    assert epochs(folder) == list(range(1, steps[-1] + 1))
    assert not [name for name in steps_of(folder) if "tmp" in name]
    save(run, steps[-1] + 1, steps[-1] + 1, size=10)


LIMITED = """
import resource, sys
import numpy as np
from pathlib import Path
from typing import NamedTuple
from tests.training.test_run_directory import open_run, save
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
with open_run(Path(sys.argv[1])) as run:
  save(run, 6, 2)
  save(run, 7, 3, size=100_000)
"""


def test_a_limit_of_the_file_size_is_one_message(begun):
  """Where no disk can be made for it: the system refuses in the midst of a write just so."""
  pytest.importorskip("resource")
  root = Path(__file__).parents[2]
  command = [sys.executable, "-c", LIMITED, str(begun)]
  done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
  expected = f"nas3d_jax.errors.InputError: {begun / 'checkpoints'} cannot be written to (File too large); make room"
  assert done.stderr.splitlines()[-1].startswith(expected)
  with open_run(begun) as run:
    assert resume(run).training == Training(2)
  assert steps_of(begun) == ["5", "6"]


def test_a_disk_that_can_only_be_read_is_one_message(begun, small_disk):
  folder = shutil.copytree(begun, small_disk / "run")
  subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
  before = contents(folder)
  with pytest.raises(InputError, match=r"run cannot be written to \(.*Read-only file system\); correct the"):
    open_run(folder)
  assert contents(folder) == before


@pytest.mark.parametrize(("first", "message"), [(-1, "sees step 5 .* the first process none"), (7, "process step 7")])
def test_a_process_that_sees_other_checkpoints_than_the_first_does_not_go_on(begun, first, message):
  def agree(value):
    return value if isinstance(value, bool) else first

  kwargs = dict(device=DEVICE, overwrite=False, primary=False, agree=agree)
  with Run(begun, SETTINGS, **kwargs) as run, pytest.raises(InputError, match=message):
    resume(run)
  assert epochs(begun) == [1, 2]


FAILED = """
import resource, sys, time
from pathlib import Path
from typing import NamedTuple
from tests.training.test_run_directory import open_run, save
from nas3d_jax.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
with open_run(Path(sys.argv[1])) as run:
  save(run, 6, 2, size=100_000)
  while run.checkpoints.is_writing():
    time.sleep(0.01)
  try:
    run.checkpoints.wait()
  except InputError as error:
    print(error)
  print(run.checkpoints.latest_step())
"""


def test_a_failed_write_that_a_stop_has_heard_of_is_no_checkpoint(begun):
  pytest.importorskip("resource")
  command = [sys.executable, "-c", FAILED, str(begun)]
  done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
  said, last = done.stdout.splitlines()
  assert "cannot be written to (File too large)" in said
  assert last == "5"


def test_checkpoints_on_another_disk_stay_there(begun, tmp_path):
  """Overwritten twice, the link is kept and its target emptied; what else lies there is not ours."""
  target = (begun / "checkpoints").rename(tmp_path / "large")
  (begun / "checkpoints").symlink_to(target)
  (target / "notes").write_text("mine")
  (target / "4.damaged").mkdir()
  for step in (3, 4):
    with open_run(begun, overwrite=True) as run:
      assert resume(run) is None
      assert [path.name for path in target.iterdir()] == ["notes"]
      save(run, step, 1)
    assert (begun / "checkpoints").is_symlink()
    assert steps_of(begun) == [str(step), "notes"]
  with open_run(begun) as run:
    assert resume(run).training == Training(1)
  target.rename(tmp_path / "away")
  with pytest.raises(InputError, match=r"checkpoints is a link to .*large, where there is nothing; make that folder"):
    open_run(begun)


def test_a_record_is_not_written_through_a_link(tmp_path):
  with open_run(tmp_path / "run") as run:
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "theirs")
    with pytest.raises(InputError, match=r"metrics\.jsonl is a link to"):
      run.record({"epoch": 1})
  assert not (tmp_path / "theirs").exists()
