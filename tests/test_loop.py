"""An epoch of steps: sums, progress from where it stopped, checkpoints in between, losses that are not finite."""

import itertools
import math

import numpy as np
import pytest
from runs import StopAt

from nas3d_jax import loop
from nas3d_jax.errors import InputError
from nas3d_jax.loop import EpochSums, mean_loss, run_epoch
from nas3d_jax.stopping import Stopped


class Steps:
  """Losses 1, 2, 3, ... of one name and their negatives of another; notes the sums at each save."""

  def __init__(self, sums):
    self.sums, self.saved = sums, []
    self._numbers = itertools.count(1 + sums.steps)

  def advance(self, most):
    number = next(self._numbers)
    return 1, {"up": np.float32(number), "down": np.float32(-number)}

  def save(self):
    self.saved.append((self.sums.steps, self.sums.losses["up"]))


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
  """On a GPU losses are fetched late; it must make no difference."""
  monkeypatch.setattr(loop.jax, "default_backend", lambda: request.param)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("start", [0, 2, 20])
def test_an_epoch_sums_the_steps_that_are_left(start):
  sums = EpochSums({"up": start * (start + 1) / 2, "down": -start * (start + 1) / 2}, start, 1.5)
  steps = Steps(sums)
  run_epoch("epoch", 20, sums, steps.advance, steps.save, save_minutes=60)
  assert (sums.steps, sums.losses, steps.saved) == (20, {"up": 210, "down": -210}, [])
  assert sums.means() == {"up": 10.5, "down": -10.5}
  assert sums.seconds >= 1.5


@pytest.mark.usefixtures("backend")
def test_checkpoints_in_between_hold_every_step_taken_and_the_last_is_not_one():
  sums = EpochSums.zero(("up", "down"))
  steps = Steps(sums)
  run_epoch("epoch", 4, sums, steps.advance, steps.save, save_minutes=1e-9)
  assert steps.saved == [(1, 1), (2, 3), (3, 6)]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("save_minutes", [60, 1e-9])
def test_a_stop_saves_every_step_taken_once(save_minutes):
  sums = EpochSums.zero(("up", "down"))
  steps, stop = Steps(sums), StopAt(2)

  def save():
    steps.save()
    stop.release(lambda: False)

  with pytest.raises(Stopped):
    run_epoch("epoch", 20, sums, steps.advance, save, save_minutes=save_minutes, stop=stop)
  assert steps.saved == ([(3, 6)] if save_minutes == 60 else [(1, 1), (2, 3), (3, 6)])


@pytest.mark.usefixtures("backend")
def test_a_stop_after_the_last_step_is_left_to_who_validates():
  sums = EpochSums.zero(("up", "down"))
  steps = Steps(sums)
  run_epoch("epoch", 3, sums, steps.advance, steps.save, save_minutes=60, stop=StopAt(2))
  assert (sums.steps, steps.saved) == (3, [])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(value):
  losses = iter([0.5, 0.5, value, 0.5])
  sums = EpochSums.zero(("loss",))
  with pytest.raises(InputError, match=f"loss is {value} in step 3 of the epoch.*learning rate"):
    run_epoch("epoch", 4, sums, lambda most: (1, {"loss": np.float32(next(losses))}), lambda: None, save_minutes=60)
  assert sums.losses == {"loss": 1.0}


def batches(*sizes):
  return [(np.full((size, 1), size, np.float32), None) for size in sizes]


def test_the_mean_counts_each_patch_once():
  # (2 * 2 + 2 * 2 + 1 * 1) / 5: the last batch is smaller.
  assert mean_loss("validation", iter(batches(2, 2, 1)), 3, lambda batch: batch[0][0, 0]) == 1.8


def test_a_validation_loss_that_is_not_finite_stops_the_run():
  with pytest.raises(InputError, match="loss is nan in epoch 3 validation"):
    mean_loss("epoch 3 validation", iter(batches(1)), 1, lambda batch: np.float32(np.nan))


def test_speed():
  assert EpochSums({}, 6, 4.0).speed(2) == {"seconds": 4.0, "patches_per_second": 3.0}
  assert EpochSums({}, 0, 0.0).speed(2) == {"seconds": 0.0, "patches_per_second": 0.0}
