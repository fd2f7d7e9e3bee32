"""Patches cut out on the device are those that are read from the host, to the bit."""

import dataclasses

import jax
import numpy as np
import pytest

from nas3d_jax.data.patches.device_cases import cut, reside, resident_size
from nas3d_jax.data.patches.host_batches import PatchSource, patch_index, patch_order
from nas3d_jax.data.patches.patch_stream import PatchStream
from nas3d_jax.data.patches.placement import place
from nas3d_jax.errors import InputError

PATCH = 16  # cubes of less than 24 voxels: patches reach past them


@pytest.fixture(scope="module")
def refs(phantom_dataset):
  return patch_index(phantom_dataset, phantom_dataset.cases[1:], PATCH, skip_empty=False)


def test_patches_are_those_of_the_host(phantom_dataset, refs):
  source, (data, patches) = PatchSource(phantom_dataset, refs, PATCH), reside(phantom_dataset, refs)
  taken = jax.jit(cut, static_argnums=2)
  for first in range(0, len(refs) - 1, 2):
    got = taken(data, patches[first : first + 2], PATCH)
    for offset in range(2):
      expected = source[first + offset]
      for name, value in got.items():
        assert value.dtype == expected[name].dtype
        np.testing.assert_array_equal(value[offset], expected[name], err_msg=f"{name} of patch {first + offset}")


def test_patches_of_three_lengths_are_those_of_the_host(phantom_dataset):
  size = (8, 32, 16)
  refs = patch_index(phantom_dataset, phantom_dataset.cases[1:], size)
  source, (data, patches) = PatchSource(phantom_dataset, refs, size), reside(phantom_dataset, refs)
  got = jax.jit(cut, static_argnums=2)(data, patches[[0, -1]], size)
  for row, index in enumerate((0, len(refs) - 1)):
    for name in ("image", "label"):
      np.testing.assert_array_equal(got[name][row], source[index][name])


def test_bytes_are_those_of_the_voxels(phantom_dataset, refs):
  voxels = sum(np.prod(phantom_dataset.labels(case).shape) for case in phantom_dataset.cases)
  data, _ = reside(phantom_dataset, refs)
  assert data.image.shape == (voxels, 4), "of two folds, the room is that of all cases"
  assert resident_size(phantom_dataset, refs) == (voxels, data.image.nbytes + data.label.nbytes)


def test_there_is_room_for_the_largest_folds(phantom_dataset):
  """So all folds have a program in common; what lies behind the cases is zero."""
  sizes = [[np.prod(phantom_dataset.labels(case).shape) for case in phantom_dataset.fold_cases(k)] for k in (0, 1)]
  assert sum(sizes[0]) != sum(sizes[1])
  for cases in map(phantom_dataset.fold_cases, (0, 1)):
    data, _ = reside(phantom_dataset, patch_index(phantom_dataset, cases, PATCH))
    voxels = sum(np.prod(phantom_dataset.labels(case).shape) for case in cases)
    assert data.label.shape == (max(map(sum, sizes)),)
    assert data.first.shape == (max(map(len, sizes)),)
    assert not data.image[voxels:].any() and not data.label[voxels:].any()


def test_there_is_no_room_for_cases_without_labels(phantom_dataset):
  others = [dataclasses.replace(phantom_dataset.cases[0], name=f"other_{i}", fold=None) for i in range(9)]
  with_others = dataclasses.replace(phantom_dataset, cases=(*phantom_dataset.cases, *others))
  refs = patch_index(phantom_dataset, phantom_dataset.fold_cases(0), PATCH)
  assert resident_size(with_others, refs) == resident_size(phantom_dataset, refs)


@pytest.fixture
def make_part(phantom_dataset):
  parts = []

  def make(**changes):
    sizes = {"patch_size": PATCH, "batch_size": 2, "seed": 3, "skip_empty": False, **changes}
    parts.append(PatchStream(phantom_dataset, phantom_dataset.fold_cases(0), **sizes))
    return parts[-1]

  yield make
  for part in parts:
    part.host.close()


def test_both_placements_take_the_same_patches_and_share_positions(make_part):
  one, other = make_part(), make_part()
  other.to_device()
  prepare = jax.jit(other.device.batch)
  key = jax.random.key(5)
  for _ in range(3):
    order = other.order.take(2, 4)
    assert order.shape == (4, 2)
    for row in order[:2]:
      taken = prepare(other.device.data, other.device.patches(row), key)
      for got, expected in zip(taken, one.host.next_batch(key), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert other.order.position == one.order.position
  other.order.go_to({"next_index": 1})
  one.order.go_to({"next_index": 1})
  for got, expected in zip(prepare(other.device.data, other.take(1, 1)[0]), one.host.next_batch(), strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_an_order_takes_every_patch_once_a_pass():
  order = patch_order(7, seed=1)
  taken = np.asarray([order[place] for place in range(14)])
  for half in (taken[:7], taken[7:]):
    assert sorted(half) == list(range(7))
  assert not np.array_equal(taken[:7], taken[7:])


class Sized:
  """Stands for a part of so many bytes, and voxels."""

  def __init__(self, size, voxels=1):
    self.size, self.moved = (voxels, size), False

  def to_device(self):
    self.moved = True


@pytest.mark.parametrize(
  ("placement", "memory", "accelerated", "moved"),
  [
    ("auto", 200, True, True),  # 100 bytes in half of 200
    ("auto", 199, True, False),
    ("auto", None, True, False),
    ("auto", 10**6, False, False),
    ("device", 100, False, True),
    ("device", None, True, True),
    ("host", 10**6, True, False),
  ],
)
def test_where_data_is_placed(placement, memory, accelerated, moved):
  parts = [Sized(60), Sized(40)]
  assert place(parts, placement, memory, accelerated=accelerated) is moved
  assert [part.moved for part in parts] == [moved, moved]


def test_more_voxels_than_can_be_counted_stay_on_the_host():
  part = Sized(60, 2**31)
  assert not place([part], "auto", 10**12, accelerated=True)
  with pytest.raises(InputError, match="data_placement=device holds 2,147,483,647 voxels of a part at most, these"):
    place([part], "device", 10**12, accelerated=True)
  assert not part.moved
  assert place([Sized(60, 2**31 - 1)], "auto", 10**12, accelerated=True)


@pytest.mark.parametrize(
  ("placement", "message"),
  [("gpu", "data_placement must be one of auto, device, host, got 'gpu'"), ("device", "needs .* GiB .*; use host")],
)
def test_wrong_placements(placement, message):
  with pytest.raises(InputError, match=message):
    place([Sized(101)], placement, 100, accelerated=True)
