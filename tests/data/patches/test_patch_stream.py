"""A part of a data set: an endless stream of prepared batches that can be set back, and single passes in order."""

import jax
import numpy as np
import pytest

from nas3d_jax.data.patches.host_batches import patch_index, prepare_batch
from nas3d_jax.data.patches.patch_stream import PatchStream
from nas3d_jax.errors import InputError

PATCH = 8


@pytest.fixture
def make_part(phantom_dataset):
  parts = []

  def make(*, batch_size=1, seed=0):
    cases = phantom_dataset.fold_cases(0)
    sizes = dict(patch_size=PATCH, batch_size=batch_size)
    parts.append(PatchStream(phantom_dataset, cases, seed=seed, skip_empty=True, **sizes))
    return parts[-1]

  yield make
  for part in parts:
    part.host.close()


@pytest.fixture
def expected(phantom_dataset):
  """The patches of fold 0 one by one, cut and prepared by the pipeline's own functions."""
  from nas3d_jax.data.patches.host_batches import PatchSource

  source = PatchSource(phantom_dataset, patch_index(phantom_dataset, phantom_dataset.fold_cases(0), PATCH), PATCH)
  batches = ({name: value[None] for name, value in source[i].items()} for i in range(len(source)))
  return [prepare_batch(batch, phantom_dataset.schema) for batch in batches]


def assert_equal(got, expected):
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_one_pass_takes_every_patch_in_order_and_leaves_the_stream_alone(make_part, expected):
  part = make_part(batch_size=2)
  before = part.order.position
  batches = list(part.host.one_pass())
  assert len(batches) == part.order.steps == -(-len(expected) // 2)
  for index, (image, target) in enumerate(expected):
    got = [array[index % 2 :][:1] for array in batches[index // 2].batch]
    assert_equal(got, (image, target))
  weights = np.concatenate([batch.weight for batch in batches]).tolist()
  assert weights == [1.0] * len(expected) + [0.0] * (len(weights) - len(expected))
  assert sum(batch.count for batch in batches) == len(expected)
  assert part.order.position == before


def test_an_endless_stream_takes_every_patch_each_pass_in_an_order_of_its_seed(make_part, expected):
  orders = []
  for seed in (0, 0, 1):
    part, order = make_part(seed=seed), []
    for _ in range(2 * part.order.steps):
      image = np.asarray(part.host.next_batch()[0])
      order.append(next(i for i, patch in enumerate(expected) if np.allclose(patch[0], image)))
    passes = order[: part.order.steps], order[part.order.steps :]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(len(expected)))
    assert passes[0] != passes[1]
    orders.append(order)
  assert orders[0] == orders[1] != orders[2]


def test_a_stream_goes_on_from_its_position(make_part):
  part = make_part()
  part.host.next_batch()
  position = part.order.position
  following = [part.host.next_batch() for _ in range(3)]
  again = make_part()
  again.order.go_to(position)
  for batch in following:
    assert_equal(again.host.next_batch(), batch)


def test_a_position_that_counts_batches_is_understood(make_part):
  part, again = make_part(batch_size=2), make_part(batch_size=2)
  part.host.next_batch()
  again.order.go_to({"next_index": 1})
  assert again.order.position == part.order.position == {"next_patch": 2}
  assert_equal(again.host.next_batch(), part.host.next_batch())


def test_an_earlier_batch_can_be_read_again_and_named(make_part, phantom_dataset):
  part, key = make_part(batch_size=2), jax.random.key(3)
  batches = [part.host.next_batch(key) for _ in range(3)]
  for ago, (image, target) in enumerate(reversed(batches)):
    again = part.host.read(ago, key)
    assert_equal((again["image"], again["target"]), (image, target))
    case, start = again["case"][1], tuple(again["start"][1].tolist())
    assert part.host.describe(ago).endswith(f"{case}, patch at {start}")
    assert case in [case.name for case in phantom_dataset.fold_cases(0)]


def test_a_key_augments(make_part, expected):
  key = jax.random.key(3)
  (plain, *_), (one, *_), (same, *_) = (make_part().host.next_batch(k) for k in (None, key, key))
  np.testing.assert_array_equal(one, same)
  assert one.shape == plain.shape
  assert not np.array_equal(one, plain)


def test_without_cases(phantom_dataset):
  with pytest.raises(InputError, match="no patch is left of 0 cases"):
    PatchStream(phantom_dataset, (), patch_size=PATCH, batch_size=1, seed=0, skip_empty=True)
