"""Several steps in one call are the same steps one by one, wherever the data lies and however a run is cut up."""

import numpy as np
import pytest

import nas3d_jax.training.session
from nas3d_jax.training import chunks
from tests.support.runs import assert_same_end, assert_same_state, history, interrupt
from tests.support.toy_runs import run_search, run_train, use_toys


@pytest.fixture
def toy(monkeypatch):
  use_toys(monkeypatch)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("run", [run_search, run_train])
def test_data_on_the_device_and_three_steps_a_call_change_nothing(monkeypatch, copies, run):
  expected = history(run(copies("host"), data_placement="host"))
  ends = []
  for name, steps in (("single", 1), ("three", 3)):
    monkeypatch.setattr(nas3d_jax.training.session, "steps_per_call", lambda steps=steps: steps)
    ends.append(run(copies(name), data_placement="device"))
  assert_same_state(*ends)
  for got, other, wanted in zip(history(ends[0]), history(ends[1]), expected, strict=True):
    assert got["step"] == other["step"] == wanted["step"]
    for loss in [name for name in wanted if name.endswith("loss")]:
      # The compiler may round what is told of a step otherwise where it is told of more of them.
      np.testing.assert_allclose(other[loss], got[loss], rtol=1e-6)
      np.testing.assert_allclose(got[loss], wanted[loss], rtol=1e-4)


@pytest.mark.usefixtures("toy")
def test_folds_and_seeds_share_the_program(monkeypatch, copies):
  """As text, so that one is compiled for all, and found in the cache by other processes."""
  texts = []

  def make_chunk(*arguments):
    chunk = chunks.make_chunk(*arguments)

    def call(*given):
      texts.append(chunk.lower(*given).as_text())
      return chunk(*given)

    return call

  monkeypatch.setattr(nas3d_jax.training.session, "make_chunk", make_chunk)
  for run, changes in (("one", {}), ("two", {"fold": 1}), ("three", {"seed": 5})):
    run_search(copies(run), data_placement="device", epochs=1, **changes)
  assert len(texts) > 3
  assert len(set(texts)) == 1


@pytest.mark.usefixtures("toy")
def test_a_search_on_the_device_that_was_stopped_ends_in_the_same_bits(monkeypatch, copies):
  monkeypatch.setattr(nas3d_jax.training.session, "steps_per_call", lambda: 2)
  whole = run_search(copies("whole"), data_placement="device")
  stopped = copies("stopped")
  with monkeypatch.context() as patch:
    interrupt(patch, nas3d_jax.training.session, "make_chunk", after=3)
    with pytest.raises(KeyboardInterrupt):
      run_search(stopped, data_placement="device", checkpoint_minutes=1e-9)
  assert_same_end(run_search(stopped, data_placement="device"), whole)
