"""A case whose patches are not finite ends a run with its name and batch, or is left out, wherever the data lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nas3d_jax.training.search
import nas3d_jax.training.session
import nas3d_jax.training.train
from nas3d_jax.data.patches import host_batches, host_source
from nas3d_jax.errors import InputError
from nas3d_jax.training.nonfinite import Skips, Source
from tests.support.runs import assert_same_end, history, interrupt, said, steps_kept
from tests.support.toy_runs import run_search, run_train, use_toys


@pytest.fixture
def bad(monkeypatch, phantom_dataset):
  """A case of fold 1, of the kernel part, whose patches become NaN; a toy network in the place of the real one."""
  use_toys(monkeypatch)
  case = phantom_dataset.fold_cases(1)[0]
  assert [(other.low, other.high) for other in phantom_dataset.cases].count((case.low, case.high)) == 1
  original = host_batches.prepare_batch

  def prepare(batch, schema, key=None, *, changes):
    image, target = original(batch, schema, key, changes=changes)
    ranges = jnp.concatenate([jnp.asarray(batch["low"]), jnp.asarray(batch["high"])], axis=1)
    hit = (ranges == np.float32([*case.low, *case.high])).all(axis=1)
    return jnp.where(hit[:, None, None, None, None], jnp.nan, image), target

  monkeypatch.setattr(host_batches, "prepare_batch", prepare)
  monkeypatch.setattr(host_source, "_prepare", jax.jit(prepare, static_argnames=("schema", "changes")))
  return case


RUNS = pytest.mark.parametrize("run", [run_search, run_train])


@RUNS
@pytest.mark.parametrize("placement", ["host", "device"])
def test_it_is_named_and_its_batch_is_saved(monkeypatch, copies, bad, run, placement):
  monkeypatch.setattr(nas3d_jax.training.session, "steps_per_call", lambda: 3)
  folder = copies("run")
  kind = "kernel_loss" if run is run_search else "loss"
  with pytest.raises(InputError) as error:
    run(folder, data_placement=placement)
  message = str(error.value)
  step = int(message.split()[1])
  assert message.startswith(f"step {step} (epoch 1): {kind} is nan, on {bad.name}, patch at (")
  assert "lower learning rate" in message
  assert "--skip_nonfinite=1 or more" in message
  run_folder = folder / ("search" if run is run_search else "train/0")
  with np.load(run_folder / "nonfinite" / f"step_{step}.npz") as saved:
    assert saved["case"].tolist() == [bad.name]
    assert f"patch at {tuple(saved['start'][0].tolist())}." in message
    assert np.isnan(saved["image"]).all()
    assert saved["target"].shape == (1, 16, 16, 16, 3)
    assert np.isnan(saved[kind])


@RUNS
def test_as_many_as_are_tolerated_are_left_out_and_counted(copies, bad, run, capsys, phantom_dataset):
  folder = run(copies("run"), skip_nonfinite=100)
  skipped = [record["skipped"] for record in history(folder)]
  # A pass takes each of the patches of that case once.
  assert skipped == [len(host_batches.patch_index(phantom_dataset, [bad], 16))] * 2
  last = said(folder / "checkpoints" / str(max(steps_kept(folder))))
  assert last["progress"]["skipped"] == sum(skipped)
  assert capsys.readouterr().err.count(f"on {bad.name}, patch at") == sum(skipped)
  losses = [value for record in history(folder) for name, value in record.items() if name.endswith("loss")]
  assert np.isfinite(losses).all()


@RUNS
def test_the_count_outlives_an_interruption(monkeypatch, copies, bad, run):
  whole = run(copies("whole"), skip_nonfinite=100)
  searching, training = (nas3d_jax.training.search, "make_search_step"), (nas3d_jax.training.train, "make_train_step")
  module, make = searching if run is run_search else training
  folder = copies("stopped")
  with monkeypatch.context() as patch:
    interrupt(patch, module, make, after=max(steps_kept(whole)) - 1)
    with pytest.raises(KeyboardInterrupt):
      run(folder, skip_nonfinite=100, checkpoint_minutes=1e-9)
  assert_same_end(run(folder, skip_nonfinite=100), whole)


class Named:
  """A source of patches, as far as it is asked."""

  def describe(self, ago):
    return f"patch {ago} ago"

  def read(self, ago, key):
    return {"image": np.zeros(1)}


def test_a_gradient_alone_and_the_first_of_two(tmp_path):
  sources = {"hybrid_": Source(Named(), None), "kernel_": Source(Named(), None)}
  metrics = {"hybrid_loss": 0.5, "hybrid_finite": False, "kernel_loss": np.nan, "kernel_finite": False}
  skips = Skips(tmp_path, tolerated=1)
  skips.add(step=7, epoch=2, ago=3, metrics=metrics, sources=sources)
  with pytest.raises(InputError, match=r"^step 8 \(epoch 2\): the gradient of hybrid_loss \(0.5\) is not"):
    skips.add(step=8, epoch=2, ago=2, metrics=metrics, sources=sources)
  assert skips.count == 2
  assert [path.name for path in (tmp_path / "nonfinite").iterdir()] == ["step_8.npz"]


def test_the_step_is_named_where_its_batch_cannot_be_written(tmp_path):
  (tmp_path / "nonfinite").write_text("in the way")
  metrics = {"loss": np.nan, "finite": False}
  message = r"^step 3 \(epoch 1\): loss is nan, on patch 0 ago\. .* cannot be written to .*step_3.npz \(File exists\)"
  with pytest.raises(InputError, match=message):
    Skips(tmp_path, tolerated=0).add(step=3, epoch=1, ago=0, metrics=metrics, sources={"": Source(Named(), None)})
  assert (tmp_path / "nonfinite").read_text() == "in the way"
