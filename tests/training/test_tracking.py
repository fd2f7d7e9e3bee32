"""Trackers: what they are told, once each, also of a run that goes on; and what becomes of one that raises."""

import importlib.util
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from launch.__main__ import main
from nas3d_jax.errors import InputError
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.training.search import search
from nas3d_jax.training.tracking import TensorBoard, scalars_of, tracking
from nas3d_jax.training.train import train
from tests.support.runs import assert_same_end, damage, history, steps_kept
from tests.support.toy_runs import GENOTYPE, SIZES, run_train, use_toys


class Listed:
  """A tracker that lists what it is told, and raises where it is asked to."""

  def __init__(self, fault=None):
    self.told, self._fault = [], fault

  def begin(self, settings, epochs):
    self._add("begin", epochs, settings["seed"])

  def scalars(self, step, values):
    self._add("scalars", step, values)

  def close(self):
    self._add("close")

  def _add(self, *what):
    self.told.append(what)
    if what[0] == self._fault:
      raise ConnectionError("no route to host")


@pytest.fixture
def toy(monkeypatch):
  use_toys(monkeypatch)


def numbers(folder):
  """Epoch -> the numbers of its record, written out."""
  return {
    record["epoch"]: {
      name: value for name, value in record.items() if isinstance(value, int | float) and name != "epoch"
    } | {f"entropy/{cell}": value for cell, value in record.get("entropy", {}).items()}
    for record in history(folder)
  }  # fmt: skip


def shown(folder):
  """Epoch -> tag -> value as TensorBoard shows them: a START makes it forget earlier events from its step on."""
  event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="pip install -r requirements-test.txt")
  found = []
  for path in sorted(folder.glob("events.out.tfevents.*")):
    content = path.read_bytes()
    while content:
      (length,) = struct.unpack("<Q", content[:8])
      event = event_pb2.Event.FromString(content[12 : 12 + length])
      content = content[16 + length :]
      if event.session_log.status == event_pb2.SessionLog.START:
        found = [(step, values) for step, values in found if step < event.step]
      elif event.summary.value:
        found.append((event.step, {value.tag: value.simple_value for value in event.summary.value}))
  assert len(dict(found)) == len(found)
  return dict(found)


def assert_shows_the_records(folder):
  expected = {e: {name: float(np.float32(v)) for name, v in found.items()} for e, found in numbers(folder).items()}
  assert shown(folder) == expected
  assert expected


@pytest.mark.usefixtures("toy")
def test_tensorboard_shows_the_records_also_of_a_run_that_goes_on(copies):
  run, other = copies("run"), copies("other")
  folder, left_alone = run_train(run, epochs=2, tracker="tensorboard"), run_train(other, epochs=3)
  assert_shows_the_records(folder)
  run_train(run, epochs=3, tracker="tensorboard")
  # As where it was killed before the last checkpoint was whole: the epoch comes again.
  damage(folder / "checkpoints" / str(max(steps_kept(folder))))
  run_train(run, epochs=3, tracker="tensorboard")
  assert_shows_the_records(folder)
  assert len(list(folder.glob("events.*"))) == 3
  shutil.rmtree(next((folder / "checkpoints").glob("*.damaged")))
  assert_same_end(folder, left_alone)
  # Started anew, without a tracker: what earlier epochs left there is no longer that of the run.
  run_train(run, epochs=1, overwrite=True)
  assert not list(folder.glob("events.*"))


@pytest.mark.usefixtures("toy")
def test_a_tracker_of_ones_own_hears_every_epoch_of_a_search_once(workdir):
  config = dict(SIZES, epochs=1)
  first, second = Listed(), Listed()
  search(SearchConfig(workdir, **config), tracker=first)
  search(SearchConfig(workdir, **config | {"epochs": 2}), tracker=second)
  told = numbers(workdir / "search")
  assert {"hybrid_loss", "validation_loss", "entropy/up", "count"} < told[1].keys()
  assert first.told == [("begin", 0, 0), ("scalars", 1, told[1]), ("close",)]
  assert second.told == [("begin", 1, 0), ("scalars", 2, told[2]), ("close",)]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("fault", "epochs"), [("begin", 0), ("scalars", 1), ("close", 2)])
def test_a_tracker_that_raises_ends_the_run_and_loses_nothing(workdir, fault, epochs):
  (workdir / "genotype.json").write_text(GENOTYPE.to_json())
  config = TrainConfig(workdir, genotype=workdir / "genotype.json", **SIZES)
  own = Listed(fault)
  with pytest.raises(InputError, match=rf"^tracker Listed.{fault} raised ConnectionError: no route to host; correct"):
    train(config, tracker=own)
  folder = workdir / "train" / "0"
  assert (len(history(folder)) if epochs else 0) == epochs
  assert own.told[-1] == ("close",)
  again = Listed()
  train(config, tracker=again)
  assert [step for what, step, *_ in again.told[:-1] if what == "scalars"] == list(range(epochs + 1, 3))


def test_what_ended_a_run_is_said_rather_than_what_closing_raises(tmp_path):
  for own, told in ((Listed("close"), [("begin", 0, 0), ("close",)]), (Listed(), [])):
    with pytest.raises(InputError, match=r"^loss is nan"), tracking(own, "none", tmp_path, primary=True) as session:
      if told:
        session.begin({"seed": 0}, 0)
      raise InputError("loss is nan")
    assert own.told == told


def test_of_several_processes_one_tells(tmp_path):
  own = Listed()
  with tracking(own, "tensorboard", tmp_path, primary=False) as told:
    told.begin({}, 0)
    told.record({"epoch": 1, "loss": 0.5})
  assert not own.told
  assert not list(tmp_path.iterdir())


def test_a_record_without_validation_has_no_scalar_of_it():
  record = {"epoch": 3, "loss": 0.5, "validation_loss": None, "genotype": {"up": [["conv", 1]]}, "skipped": 0}
  assert scalars_of(record) == {"loss": 0.5, "skipped": 0.0}


def test_a_full_disk_is_one_error(small_disk):
  pytest.importorskip("tensorboardX", reason="pip install -r requirements-test.txt")
  (small_disk / "rest").write_bytes(b"x" * 390_000)
  tracker = TensorBoard(small_disk)
  tracker.begin({}, 0)
  with pytest.raises(InputError, match=r"cannot be written to .*No space left on device.*make room"):
    for epoch in range(1, 1000):
      tracker.scalars(epoch, {f"loss/{i}": 0.5 for i in range(9)})


def test_without_the_package_it_is_said_before_anything_is_done(monkeypatch, workdir, capsys):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorboardX" else find(name, *a))
  for make in (SearchConfig, TrainConfig, lambda w, **o: ExperimentConfig.of(workdir=w, **o)):
    with pytest.raises(InputError, match=r'^tracker=tensorboard needs .*; run: pip install "nas3d_jax\[tensorboard\]"'):
      make(workdir, tracker="tensorboard")
  assert main(["search", f"--workdir={workdir}", "--tracker=tensorboard"]) == 2
  assert capsys.readouterr().err.startswith("error: tracker=tensorboard needs the package tensorboardX")
  assert {path.name for path in Path(workdir).iterdir()} == {"dataset"}


def test_another_name_is_refused(capsys):
  assert main(["train", "--workdir=run", "--tracker=wandb"]) == 2
  assert "flag --tracker=wandb: value should be one of <none|tensorboard>" in capsys.readouterr().err
  with pytest.raises(InputError, match=r"^tracker must be .*none.*tensorboard.*, got 'wandb'"):
    SearchConfig("run", tracker="wandb")
