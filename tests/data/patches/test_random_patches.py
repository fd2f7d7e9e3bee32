"""Patches at random places: where they lie, how often about labels, and that an epoch has the steps asked for."""

from types import SimpleNamespace

import numpy as np
import pytest

from nas3d_jax.data.dataset.suggest import suggest, suggested_patch
from nas3d_jax.data.patches.patch_stream import PatchStream
from nas3d_jax.data.patches.random_patches import EPOCHS, RandomSampling, random_patches
from nas3d_jax.errors import InputError
from nas3d_jax.training.config import TrainConfig


class Made:
  """A data set of label volumes."""

  def __init__(self, *volumes):
    self.volumes = volumes
    self.cases = tuple(SimpleNamespace(name=str(i), cube_shape=v.shape) for i, v in enumerate(volumes))
    self.schema = SimpleNamespace(modalities=[None])

  def labels(self, case):
    return self.volumes[int(case.name)]


def volume(shape, **boxes):
  labels = np.zeros(shape, np.uint8)
  for label, box in boxes.items():
    labels[box] = int(label[1:])
  return labels


FIRST = volume((40, 30, 20), _1=np.s_[30:36, 3:6, 8:12], _2=np.s_[10:11, 20:21, 10:11])


def draw(dataset, size, share, count=600, seed=0):
  return random_patches(dataset, dataset.cases, size, count=count, foreground_share=share, seed=seed)


def test_a_share_is_centred_on_labels_each_alike_often():
  refs = draw(Made(FIRST), (8, 6, 4), 0.5)
  middles = np.asarray([ref.start for ref in refs]) + np.asarray((4, 3, 2))
  found = FIRST[tuple(middles.T)]
  assert (found[:300] > 0).all()
  assert abs(np.mean(found[:300] == 2) - 0.5) < 0.1
  # The others are anywhere: the labels have 73 of 24,000 voxels.
  assert np.count_nonzero(found[300:]) < 10
  assert np.ptp(middles[300:], axis=0) == pytest.approx((32, 24, 16), abs=2)


def test_patches_lie_within_their_volume_or_about_its_middle():
  starts = np.asarray([ref.start for ref in draw(Made(FIRST), (24, 8, 26), 0.9)])
  assert starts.min(axis=0).tolist() == [0, 0, -3]
  assert starts.max(axis=0).tolist() == [16, 22, -3]


def test_cases_have_as_many_and_the_draw_is_the_seeds():
  dataset = Made(FIRST, volume((9, 9, 9)), volume((12, 12, 12), _1=np.s_[2, 2, 2]))
  refs = draw(dataset, 8, 0.33, count=100)
  assert np.bincount([ref.case_index for ref in refs]).tolist() == [34, 33, 33]
  assert refs == draw(dataset, 8, 0.33, count=100)
  assert refs != draw(dataset, 8, 0.33, count=100, seed=1)


def test_an_epoch_has_the_steps_asked_for(phantom_dataset):
  sizes = dict(patch_size=8, batch_size=2, seed=0, skip_empty=True, sampling=RandomSampling(3, 1.0))
  stream = PatchStream(phantom_dataset, phantom_dataset.cases, **sizes)
  assert stream.order.steps == 3
  assert len(stream.order.refs) == 2 * 3 * EPOCHS
  _, target = stream.host.next_batch()
  assert target.shape == (2, 8, 8, 8, 3)
  assert np.asarray(target[:, 4, 4, 4]).any(axis=-1).all()
  stream.host.close()


def test_suggestions():
  """By hand: of 140 x 170 x 140 a patch of 128; the depth leaves the shortest axis four voxels."""
  assert str(suggest(Made(*[np.zeros((140, 170, 138))] * 9), 64 << 30)) == (
    "--patch_size=128 --depth=4 --kernels=8 --batch_size=7 (median 140 x 170 x 138 voxels)"
  )
  small = Made(np.zeros((35, 51, 35)), np.zeros((31, 60, 30)), np.zeros((39, 49, 36)))
  assert str(suggest(small, None)).startswith("--patch_size=40,56,40 --depth=2 --kernels=8 --batch_size=3 ")
  assert suggested_patch(small, 16) == (48, 64, 48)
  assert suggest(small, 1).batch_size == 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"foreground_share": 1.5}, "foreground_share must be at most 1, got 1.5"),
    ({"sampling": "all"}, "sampling must be one of grid, random, got 'all'"),
    ({"steps_per_epoch": 0}, "steps_per_epoch must be a whole number of at least 1, got 0"),
    ({"patch_size": "best"}, "patch_size must be a whole number of at least 1, got 'best'"),
    ({"patch_size": (40, 56)}, r"patch_size must be one length, or three along D, H and W, got \(40, 56\)"),
  ],
)
def test_what_is_refused(changes, message):
  with pytest.raises(InputError, match=message):
    TrainConfig("w", **changes)
