"""The training as a command runs it: what is recorded and kept, where it starts, and that stopping it changes nothing.

All but the last put a network that compiles in no time in the place of the derived network; the loop is the same.
"""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import nas3d_jax.checkpointing.restore
import nas3d_jax.training.session
import nas3d_jax.training.train
from nas3d_jax.checkpointing.checkpoints import open_run
from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.patches.host_batches import patch_index
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.errors import InputError
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.runtime.stopping import Stopped
from nas3d_jax.training.config import TrainConfig
from nas3d_jax.training.train import train
from tests.support.runs import TIMES, StopAt, arrays, assert_same_end, damage, history, interrupt, said, steps_kept
from tests.support.toy import ToyDerivedNet

SIZES = dict(kernels=1, nodes=1, depth=2)
FIELDS = {"epoch", "step", "loss", "validation_loss", "learning_rate", "skipped", *TIMES}
UP = (("identity", 0), ("up_conv", 1))
GENOTYPE = Genotype(down=(("max_pool", 1), ("down_conv", 0)), up=UP)
SAME_SHAPES = Genotype(down=(("max_pool", 1), ("down_dil_conv", 0)), up=UP)
TURNED = Genotype(down=(("down_conv", 0), ("max_pool", 1)), up=UP)
TWO_NODES = Genotype(
  down=(*GENOTYPE.down, ("down_conv", 0), ("conv", 2)), up=(*UP, ("up_conv", 1), ("conv", 2))
)


@pytest.fixture
def toy(monkeypatch):
  for module in (nas3d_jax.training.train, nas3d_jax.checkpointing.restore):
    monkeypatch.setattr(module, "DerivedNet", ToyDerivedNet)


@pytest.fixture
def workdir(workdir):
  """With a genotype where a search leaves it."""
  write_genotype(workdir, GENOTYPE)
  return workdir


def write_genotype(workdir, genotype, name="genotype.json"):
  (workdir / "search").mkdir(exist_ok=True)
  (workdir / "search" / name).write_text(genotype.to_json())
  return workdir / "search" / name


def make_config(workdir, **changes):
  return TrainConfig(workdir, **{**SIZES, "patch_size": 16, "epochs": 2, "learning_rate": 0.1, **changes})


def copy_of(workdir):
  """A run directory with the same data set and genotype."""
  for name in ("dataset", "search"):
    shutil.copytree(workdir / name, workdir.with_name("other") / name)
  return workdir.with_name("other")


def recorded(folder, name):
  return [record[name] for record in history(folder)]


def steps_of(dataset, cases):
  return len(patch_index(dataset, cases, 16))


def params(folder, step):
  found = arrays(folder / "checkpoints" / str(step))
  return {name: array for name, array in found.items() if name.startswith("params/")}


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("fold", [0, "all"])
def test_what_is_recorded(workdir, phantom_dataset, fold):
  folder = train(make_config(workdir, fold=fold))
  assert folder == workdir / "train" / str(fold)
  records = history(folder)
  assert [set(record) for record in records] == [FIELDS, FIELDS]
  cases = phantom_dataset.cases if fold == "all" else phantom_dataset.fold_cases(1)
  steps = steps_of(phantom_dataset, cases)
  assert recorded(folder, "epoch") == [1, 2]
  assert recorded(folder, "step") == [steps, 2 * steps]
  assert recorded(folder, "learning_rate") == [0.1, 0.1]
  for record in records:
    assert 0 < record["loss"] < 1
    assert record["patches_per_second"] == pytest.approx(steps / record["seconds"], rel=0.05)
    assert record["validation_loss"] is None if fold == "all" else 0 < record["validation_loss"] < 1
  assert records[1]["loss"] < records[0]["loss"]
  best = min(records, key=lambda record: record["loss" if fold == "all" else "validation_loss"])
  assert steps_kept(folder) == {steps, 2 * steps}
  assert open_run(folder).name == str(best["step"])
  assert said(folder / "checkpoints" / str(2 * steps))["genotype"]["down"] == [["max_pool", 1], ["down_conv", 0]]


@pytest.mark.usefixtures("toy")
def test_best_and_last_are_kept_and_the_rate_follows_the_validation(workdir, phantom_dataset, monkeypatch):
  # Good, good, then bad from epoch 3 on: the 11th is epoch 13, so that epoch 14 has half the rate.
  losses = iter([0.5, 0.4, 0.45, 0.4] + [0.41] * 10)
  monkeypatch.setattr(nas3d_jax.training.session, "mean_loss", lambda *_: next(losses))
  folder = train(make_config(workdir, epochs=14))
  steps = steps_of(phantom_dataset, phantom_dataset.fold_cases(1))
  # Of the equal losses of epoch 2 and 4 the later is the best.
  assert steps_kept(folder) == {4 * steps, 13 * steps, 14 * steps}
  assert open_run(folder).name == str(4 * steps)
  assert recorded(folder, "learning_rate") == [0.1] * 13 + [0.05]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("place", ["first epoch", "second epoch", "end of an epoch"])
def test_a_training_stopped_anywhere_ends_as_one_left_alone(workdir, phantom_dataset, monkeypatch, place):
  other = copy_of(workdir)
  steps = steps_of(phantom_dataset, phantom_dataset.fold_cases(1))
  after = {"first epoch": 2, "second epoch": steps + 3, "end of an epoch": steps}[place]
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    interrupt(patch, nas3d_jax.training.train, "make_train_step", after=after)
    train(make_config(workdir, checkpoint_minutes=1e-9))
  assert max(steps_kept(workdir / "train" / "0")) == after
  assert_same_end(train(make_config(workdir)), train(make_config(other)))


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("damaged", [1, 2])
def test_a_training_whose_last_checkpoints_are_damaged_ends_as_one_left_alone(workdir, monkeypatch, capsys, damaged):
  """Within its second epoch: the two last are gone back to, then the best, that of the first epoch."""
  other = train(make_config(copy_of(workdir)))
  steps = history(other)[0]["step"]
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    interrupt(patch, nas3d_jax.training.train, "make_train_step", after=steps + 3)
    train(make_config(workdir, checkpoint_minutes=1e-9))
  folder = workdir / "train" / "0" / "checkpoints"
  assert steps_kept(folder.parent) == {steps, steps + 2, steps + 3}
  for step in (steps + 3, steps + 2)[:damaged]:
    damage(folder / str(step))
  capsys.readouterr()
  assert_same_end(train(make_config(workdir)), other)
  warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
  assert len(warnings) == damaged
  assert all(line.endswith(f"going on from step {steps + 2 if damaged == 1 else steps}") for line in warnings)
  assert len(list(folder.glob("*.damaged"))) == damaged


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("fold", "place"), [(0, "validation"), ("all", "last step of an epoch")])
def test_a_training_that_was_asked_to_stop_ends_as_one_left_alone(workdir, phantom_dataset, fold, place):
  other = copy_of(workdir)
  cases = phantom_dataset.cases if fold == "all" else phantom_dataset.fold_cases(1)
  steps = steps_of(phantom_dataset, cases)
  # It may stop after each step but the last of an epoch, then before each batch of a validation, or at the epoch's end.
  check = {"validation": steps, "last step of an epoch": steps - 1}[place]
  with pytest.raises(Stopped):
    train(make_config(workdir, fold=fold), StopAt(check))
  assert steps_kept(workdir / "train" / str(fold)) == {steps}
  assert_same_end(train(make_config(workdir, fold=fold)), train(make_config(other, fold=fold)))


@pytest.mark.usefixtures("toy")
def test_a_finished_training_does_nothing_when_run_again(workdir, monkeypatch):
  folder = train(make_config(workdir))
  records, kept = history(folder), steps_kept(folder)
  interrupt(monkeypatch, nas3d_jax.training.train, "make_train_step", after=0)
  assert train(make_config(workdir)) == folder
  assert (history(folder), steps_kept(folder)) == (records, kept)


@pytest.mark.usefixtures("toy")
def test_a_training_starts_from_the_best_of_another(workdir, phantom_dataset, monkeypatch):
  steps = steps_of(phantom_dataset, phantom_dataset.fold_cases(1))
  losses = iter([0.4, 0.5])
  with monkeypatch.context() as patch:
    patch.setattr(nas3d_jax.training.session, "mean_loss", lambda *_: next(losses))
    first = train(make_config(workdir))
  best = params(first, steps)
  # So low a rate that nothing moves.
  config = make_config(workdir, fold="all", epochs=1, init_from=str(first), learning_rate=1e-30)
  second = train(config)
  got = params(second, max(steps_kept(second)))
  assert got.keys() == best.keys()
  for name, array in got.items():
    np.testing.assert_array_equal(array, best[name])
    assert (array != params(first, 2 * steps)[name]).any()
  # Once begun, it needs the other run no more.
  shutil.rmtree(first)
  train(config)
  assert recorded(second, "epoch") == [1]


@pytest.mark.usefixtures("toy")
def test_a_training_may_start_anew_from_itself(workdir):
  folder = train(make_config(workdir, epochs=1))
  before = params(folder, max(steps_kept(folder)))
  train(make_config(workdir, epochs=1, overwrite=True, init_from=folder, learning_rate=1e-30))
  for name, array in params(folder, max(steps_kept(folder))).items():
    np.testing.assert_array_equal(array, before[name])


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
  ("genotype", "changes", "message"),
  [
    (GENOTYPE, dict(init_from="nowhere"), "no checkpoint in .*nowhere: no such folder"),
    (SAME_SHAPES, {}, "has another genotype than this training"),
    (TURNED, {}, "has another genotype than this training"),
    (GENOTYPE, dict(variant="released"), "has another network than this training"),
  ],
)
def test_a_start_that_does_not_fit_deletes_nothing(workdir, genotype, changes, message):
  folder = train(make_config(workdir, epochs=1))
  kept = steps_kept(folder)
  given = write_genotype(workdir, genotype, "other.json")
  config = make_config(workdir, **{"genotype": given, "init_from": folder, "overwrite": True, **changes})
  with pytest.raises(InputError, match=message):
    train(config)
  assert steps_kept(folder) == kept
  assert recorded(folder, "epoch") == [1]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
  ("genotype", "changes", "message"),
  [
    (None, {}, r"genotype\.json is missing; run the search first, or give --genotype"),
    ("{", {}, r"genotype\.json: genotype is not valid JSON"),
    (TWO_NODES, {}, "^genotype has 2 nodes a cell, but the network has nodes=1; set nodes=2"),
    (GENOTYPE, dict(patch_size=20), "^patch_size must be a multiple of 8 .*, got 20; use 16 or 24$"),
    (GENOTYPE, dict(fold=2), "^fold must be from 0 to 1, got 2$"),
  ],
)
def test_what_is_refused(workdir, genotype, changes, message):
  path = workdir / "search" / "genotype.json"
  path.unlink()
  if genotype is not None:
    path.write_text(genotype if isinstance(genotype, str) else genotype.to_json())
  with pytest.raises(InputError, match=message):
    train(make_config(workdir, **changes))
  assert not (workdir / "train").exists()


@pytest.mark.usefixtures("toy")
def test_another_genotype_is_another_training(workdir):
  train(make_config(workdir, epochs=1))
  write_genotype(workdir, SAME_SHAPES)
  with pytest.raises(InputError, match=r"genotype was .*down_conv.*, is .*down_dil_conv.*--overwrite"):
    train(make_config(workdir, epochs=1))


# What docs/checkpoints.md shows those who do not have this library.
WITHOUT_THE_LIBRARY = """
import json, sys
from pathlib import Path
import numpy as np
import orbax.checkpoint as ocp

checkpoint = Path(sys.argv[1]).absolute()
variables = ocp.PyTreeCheckpointer().restore(checkpoint / "params")
metadata = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(checkpoint / "metadata")
assert "nas3d_jax" not in sys.modules

def flat(tree, path):
  for name, value in tree.items():
    yield from flat(value, f"{path}/{name}") if isinstance(value, dict) else [(f"{path}/{name}", value)]

np.savez(sys.argv[2], **dict(flat(variables, "")))
print(json.dumps(metadata))
"""


def test_a_search_and_its_training_open_with_this_library_and_with_orbax_alone(searched, tmp_path):
  shutil.copytree(searched, tmp_path / "run")
  folder = train(TrainConfig(tmp_path / "run", patch_size=8, epochs=1, **SIZES))
  assert recorded(folder, "epoch") == [1]
  for run in (tmp_path / "run" / "search", folder):
    net, variables, metadata = restore(run, "last")
    step = run / "checkpoints" / str(metadata.step)
    assert metadata.step == history(run)[-1]["step"]
    assert net.config == metadata.network
    command = [sys.executable, "-c", WITHOUT_THE_LIBRARY, str(step), str(tmp_path / "arrays.npz")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"format_version": 1, **metadata.to_dict()}
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as found:
      leaves = jax.tree_util.tree_leaves_with_path(variables)
      expected = {"/" + jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
      assert set(found.files) == set(expected)
      for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf)
  genotype = Genotype.from_json((searched / "search" / "genotype.json").read_text())
  assert restore(folder)[0].genotype == genotype


@pytest.mark.usefixtures("toy")
def test_data_that_is_exchanged_under_a_training_ends_it(workdir, tmp_path, monkeypatch):
  """By other images of the same names and shapes; what was saved before stays."""
  write_phantoms(tmp_path / "others", cases=4, seed=9, shape=(24, 24, 24))
  monkeypatch.setattr(nas3d_jax.training.session, "run_epoch", exchanging(workdir, tmp_path / "others"))
  with pytest.raises(InputError, match=r"cases/Phantom_000\d/\w+\.npy is not what it was when the data set was opened"):
    train(make_config(workdir, epochs=3, data_placement="host"))
  assert [record["epoch"] for record in history(workdir / "train" / "0")] == [1]
  monkeypatch.undo()
  with pytest.raises(InputError, match="other settings"):
    train(make_config(workdir, epochs=3, data_placement="host"))


def exchanging(workdir, others):
  """Runs an epoch, after which the data set is made anew; only the first time."""
  run_epoch, times = nas3d_jax.training.session.run_epoch, []

  def run(*arguments, **options):
    if len(times) == 1:
      preprocess(others, workdir / "dataset", folds=2, overwrite=True)
    times.append(1)
    return run_epoch(*arguments, **options)

  return run
