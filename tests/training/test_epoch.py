"""An epoch of steps: sums, progress from where it stopped, checkpoints in between, losses that are not finite."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from nas3d_jax.data.patches.host_source import ValidationBatch
from nas3d_jax.errors import InputError
from nas3d_jax.runtime.stopping import Stopped
from nas3d_jax.training import epoch
from nas3d_jax.training.epoch import EpochProgress, EpochSums, SavedSums, mean_loss, run_epoch
from nas3d_jax.training.nonfinite import Skips
from tests.support.runs import StopAt


def refuse(ago, metrics):
  raise InputError("stop")


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
  monkeypatch.setattr(epoch.jax, "default_backend", lambda: request.param)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("start", [0, 2, 20])
def test_an_epoch_sums_the_steps_that_are_left(start):
  sums = EpochSums({"up": start * (start + 1) / 2, "down": -start * (start + 1) / 2}, start, 1.5)
  steps = Steps(sums)
  run_epoch("epoch", 20, sums, steps.advance, steps.save, save_minutes=60, skip=refuse)
  assert (sums.steps, sums.losses, steps.saved) == (20, {"up": 210, "down": -210}, [])
  assert sums.means() == {"up": 10.5, "down": -10.5}
  assert sums.seconds >= 1.5


@pytest.mark.usefixtures("backend")
def test_checkpoints_in_between_hold_every_step_taken_and_the_last_is_not_one():
  sums = EpochSums.zero(("up", "down"))
  steps = Steps(sums)
  run_epoch("epoch", 4, sums, steps.advance, steps.save, save_minutes=1e-9, skip=refuse)
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
    run_epoch("epoch", 20, sums, steps.advance, save, save_minutes=save_minutes, stop=stop, skip=refuse)
  assert steps.saved == ([(3, 6)] if save_minutes == 60 else [(1, 1), (2, 3), (3, 6)])


@pytest.mark.usefixtures("backend")
def test_a_stop_after_the_last_step_is_left_to_who_validates():
  sums = EpochSums.zero(("up", "down"))
  steps = Steps(sums)
  run_epoch("epoch", 3, sums, steps.advance, steps.save, save_minutes=60, stop=StopAt(2), skip=refuse)
  assert (sums.steps, steps.saved) == (3, [])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("chunk", [1, 3])
def test_a_step_that_was_left_out_counts_in_no_loss_and_is_told_from_how_long_ago_it_is(chunk):
  losses, taken, told = [1.0, math.nan, 3.0, 4.0, 5.0, math.inf], [0], []

  def advance(most):
    count = min(chunk, most)
    own = np.float32(losses[taken[0] : taken[0] + count])
    taken[0] += count
    return count, {"loss": own, "finite": np.isfinite(own)}

  def skip(ago, metrics):
    told.append((taken[0] - ago, metrics["loss"]))

  sums = EpochSums.zero(("loss",))
  run_epoch("epoch", 6, sums, advance, lambda: None, save_minutes=60, skip=skip)
  assert [number for number, _ in told] == [2, 6]
  assert [np.isnan(loss) for _, loss in told] == [True, False]
  assert (sums.losses, sums.steps, sums.skipped, sums.means()) == ({"loss": 13.0}, 6, 2, {"loss": 3.25})


@pytest.mark.usefixtures("backend")
def test_what_skip_raises_ends_the_epoch():
  sums = EpochSums.zero(("loss",))
  metrics = iter([{"loss": 0.5, "finite": True}, {"loss": 0.5, "finite": False}, {"loss": 0.5, "finite": True}])
  with pytest.raises(InputError, match="stop"):
    run_epoch("epoch", 3, sums, lambda most: (1, next(metrics)), lambda: None, save_minutes=60, skip=refuse)
  assert (sums.losses, sums.steps) == ({"loss": 0.5}, 1)


def test_an_epoch_without_a_finite_step_has_no_mean():
  with pytest.raises(InputError, match="none of 3 steps had finite losses"):
    EpochSums({"loss": 0.0}, 3, 1.0, 3).means()


def batches(*counts):
  """Batches of 2, the last of which may be filled up."""
  return [ValidationBatch(number, None, count, f"case {number}") for number, count in enumerate(counts)]


def test_the_mean_counts_each_patch_once():
  sums = [4.0, 4.0, 1.0]  # (4 + 4 + 1) / 5: the last batch has one patch
  assert mean_loss("validation", batches(2, 2, 1), 3, lambda batch, weight: np.float32(sums[batch])) == 1.8


def test_a_validation_loss_that_is_not_finite_stops_the_run_and_names_the_case():
  with pytest.raises(InputError, match=r"loss is nan in epoch 3 validation \(case 1\): look at that case"):
    mean_loss("epoch 3 validation", batches(1, 1), 2, lambda batch, weight: np.float32([0, np.nan][batch]))


def test_speed():
  assert EpochSums({}, 6, 4.0).speed(2) == {"seconds": 4.0, "patches_per_second": 3.0}
  assert EpochSums({}, 0, 0.0).speed(2) == {"seconds": 0.0, "patches_per_second": 0.0}


def make_progress(devices, patches=10):
  order = SimpleNamespace(patches=len(range(patches)), size=devices)
  return EpochProgress(("loss",), order, Skips(folder=None, tolerated=0))


def go_on(progress, other):
  """Restores what a checkpoint holds of the other."""
  progress.restore(other.epoch, other.sums.saved(), other.metadata())


@pytest.mark.parametrize(
  ("before", "done", "after", "left"),
  [
    (1, 0, 1, 10),
    (1, 3, 1, 7),
    (1, 3, 4, 2),  # 7 patches are left
    (1, 10, 4, 0),
    (4, 1, 1, 6),
    (4, 2, 3, 1),  # 2 are left
    # The third step of 4 took 2 patches of the next pass; only the validation is left.
    (4, 3, 1, 0),
    (8, 2, 1, 0),
    (8, 2, 3, 0),
  ],
)
def test_steps_that_are_left_of_an_epoch(before, done, after, left):
  one, other = make_progress(before), make_progress(after)
  one.sums.steps = done
  go_on(other, one)
  assert other.steps - other.sums.steps == left
  # Going on a second time changes nothing.
  third = make_progress(after)
  go_on(third, other)
  assert third.steps - third.sums.steps == left


def test_the_next_epoch_has_all_its_steps():
  one, other = make_progress(4), make_progress(1)
  one.sums.steps = 3
  go_on(other, one)
  other.finish_epoch()
  assert (other.epoch, other.steps, other.sums.steps) == (1, 10, 0)


def test_a_checkpoint_from_before_steps_could_be_left_out():
  progress = make_progress(2)
  progress.restore(4, SavedSums(losses={"loss": 1.5}, seconds=2.0, steps=3), {})
  assert (progress.epoch, progress.steps, progress.sums.skipped, progress.skips.count) == (4, 5, 0, 0)
