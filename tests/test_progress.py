"""Steps of an epoch that is gone on with on another number of devices."""

from types import SimpleNamespace

import pytest

from nas3d_jax.nonfinite import Skips
from nas3d_jax.progress import Progress


def make_progress(devices, patches=10):
  return Progress(("loss",), SimpleNamespace(patches=patches, size=devices), Skips(folder=None, tolerated=0))


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
  other.restore(one.saved(), one.told())
  assert other.steps - other.sums.steps == left
  # Going on a second time changes nothing.
  third = make_progress(after)
  third.restore(other.saved(), other.told())
  assert third.steps - third.sums.steps == left


def test_the_next_epoch_has_all_its_steps():
  one, other = make_progress(4), make_progress(1)
  one.sums.steps = 3
  other.restore(one.saved(), one.told())
  other.finish_epoch()
  assert (other.epoch, other.steps, other.sums.steps) == (1, 10, 0)


def test_a_checkpoint_from_before_steps_could_be_left_out():
  progress = make_progress(2)
  progress.restore({"epoch": 4, "sums": {"losses": {"loss": 1.5}, "steps": 3, "seconds": 2.0}}, {})
  assert (progress.epoch, progress.steps, progress.sums.skipped, progress.skips.count) == (4, 5, 0, 0)
