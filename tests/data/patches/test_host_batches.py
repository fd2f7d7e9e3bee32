import functools
import itertools
import json
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.patches.augment import augment
from nas3d_jax.data.patches.grid import patch_grid
from nas3d_jax.data.patches.host_batches import (
  PatchRef,
  PatchSource,
  patch_batches,
  patch_index,
  prepare_batch,
)
from nas3d_jax.data.patches.patch_order import PatchOrder
from nas3d_jax.errors import InputError
from nas3d_jax.files.strict_json import write_json
from nas3d_jax.schema.builtin import BRATS2019

PATCH = 8
prepare = jax.jit(functools.partial(prepare_batch, schema=BRATS2019))
# Along 12 voxels: n = 2, o = 4, starts 0 and 4; along 8: 0; along 5: -floor(3 / 2) = -1.
SHAPES = {"a": (12, 12, 8), "b": (12, 5, 12), "c": (8, 8, 8), "d": (8, 8, 8)}
GRIDS = {
  "a": [(0, 0, 0), (0, 4, 0), (4, 0, 0), (4, 4, 0)],
  "b": [(0, -1, 0), (0, -1, 4), (4, -1, 0), (4, -1, 4)],
  "c": [(0, 0, 0)],
}


def make_case(name, folder, rng):
  """Writes a case's arrays as the dataset does; "c" has only background, "d" no labels."""
  shape = SHAPES[name]
  image = rng.integers(-50, 1000, (*shape, 4)).astype(np.int16)
  image[:2] = 0
  labels = np.zeros(shape, np.uint8)
  if name == "a":
    labels[11, 11, 3] = 4  # the last patch alone
    labels[1, 6, 0] = 1  # 6 lies in the first two patches along H, 1 in the first along D
  if name == "b":
    labels[5:7] = rng.choice([0, 1, 2, 4], (2, *shape[1:]))
  where = folder / "cases" / name
  where.mkdir(parents=True)
  np.save(where / "image.npy", image)
  if name != "d":
    np.save(where / "labels.npy", labels)
  return Case(
    name=name, grade=None, fold=None if name == "d" else 0, shape=shape,
    cube=tuple((0, n) for n in shape), low=tuple(float(v) for v in image.min(axis=(0, 1, 2))),
    high=tuple(float(v) for v in image.max(axis=(0, 1, 2))),
    label_counts=None if name == "d" else dict.fromkeys((0, 1, 2, 4), 1), affine=tuple(map(tuple, np.eye(4))),
    spacing=(1.0, 1.0, 1.0), checksums={},
  )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  folder = tmp_path_factory.mktemp("dataset")
  rng = np.random.default_rng(0)
  cases = tuple(make_case(name, folder, rng) for name in SHAPES)
  return Dataset(folder, BRATS2019, cases, 1, 0, {})


@pytest.fixture(scope="module")
def refs(dataset):
  """Seven patches of three cases."""
  starts = {0: GRIDS["a"][:2], 1: GRIDS["b"], 2: GRIDS["c"]}
  return [PatchRef(index, start) for index in starts for start in starts[index]]


def places(batch):
  """The patches of a batch as PatchRefs."""
  rows = zip(batch["case"].tolist(), batch["start"].tolist(), strict=True)
  return [PatchRef(case, tuple(start)) for case, start in rows]


def take(iterator, count):
  return [places(batch) for batch in itertools.islice(iterator, count)]


def flat(batches):
  return list(itertools.chain.from_iterable(batches))


@pytest.fixture
def open_batches(dataset, refs):
  """Makes streams, and closes them after the test."""
  made = []

  def make(**arguments):
    made.append(patch_batches(dataset, refs, patch_size=PATCH, **arguments))
    return made[-1]

  yield make
  for iterator in made:
    iterator.close()


def test_index_lists_every_patch_in_order(dataset):
  found = patch_index(dataset, dataset.cases[:3][::-1], PATCH, skip_empty=False)
  expected = [PatchRef(2, s) for s in GRIDS["c"]]
  expected += [PatchRef(1, s) for s in GRIDS["b"]] + [PatchRef(0, s) for s in GRIDS["a"]]
  assert found == expected
  assert all(patch_grid(SHAPES[name], PATCH) == grid for name, grid in GRIDS.items())


def test_index_skips_patches_of_background(dataset):
  found = patch_index(dataset, [dataset.cases[0], dataset.cases[2]], PATCH)
  assert found == [PatchRef(0, s) for s in [(0, 0, 0), (0, 4, 0), (4, 4, 0)]]


def test_index_names_a_case_without_labels(dataset):
  with pytest.raises(InputError, match="cases must have labels, but 'd' has none"):
    patch_index(dataset, dataset.cases, PATCH, skip_empty=False)


def test_index_without_a_patch_left(dataset):
  with pytest.raises(InputError, match="no patch is left of 1 cases with skip_empty=True"):
    patch_index(dataset, [dataset.cases[2]], PATCH)


def test_an_element_is_a_window_of_its_case(dataset):
  source = PatchSource(dataset, [PatchRef(1, (4, -1, 4)), PatchRef(0, (0, 4, 0))], PATCH)
  assert len(source) == 2
  element, case = source[0], dataset.cases[1]
  # One voxel before and two behind the 5 voxels along H.
  image = np.pad(dataset.image(case)[4:12, :, 4:12], [(0, 0), (1, 2), (0, 0), (0, 0)])
  labels = np.pad(dataset.labels(case)[4:12, :, 4:12], [(0, 0), (1, 2), (0, 0)])
  np.testing.assert_array_equal(element["image"], image)
  np.testing.assert_array_equal(element["label"], labels)
  np.testing.assert_array_equal(element["low"], case.low)
  np.testing.assert_array_equal(element["high"], case.high)
  assert {name: value.dtype for name, value in element.items()} == {
    "image": np.int16, "label": np.uint8, "low": np.float32, "high": np.float32,
    "case": np.int32, "start": np.int32,
  }
  assert (int(element["case"]), element["start"].tolist()) == (1, [4, -1, 4])


def test_batches_stack_elements(dataset, refs, open_batches):
  batch = next(open_batches(batch_size=3))
  source = PatchSource(dataset, refs, PATCH)
  for i, ref in enumerate(places(batch)):
    for name, value in source[refs.index(ref)].items():
      np.testing.assert_array_equal(batch[name][i], value)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 10])
def test_an_endless_stream_is_pass_after_pass_in_full_batches(refs, open_batches, batch_size):
  batches = take(open_batches(batch_size=batch_size), -(-28 // batch_size))
  assert {len(batch) for batch in batches} == {batch_size}
  stream = flat(batches)
  passes = [stream[i : i + 7] for i in range(0, 28, 7)]
  assert all(len(p) == 7 and set(p) == set(refs) for p in passes)
  assert len(set(map(tuple, passes))) == 4
  assert flat(take(open_batches(batch_size=batch_size), 2)) == stream[: 2 * batch_size]


def test_passes_differ_and_neighbouring_seeds_share_none(open_batches):
  orders = [tuple(flat(take(open_batches(seed=s), 7 * 5))) for s in range(5)]
  passes = {order[i : i + 7] for order in orders for i in range(0, 35, 7)}
  assert len(passes) == 25  # of 5040 orders; 25 drawn at random would all differ with 94%


def test_without_shuffling_each_pass_is_in_order(refs, open_batches):
  assert flat(take(open_batches(shuffle=False), 14)) == refs + refs


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_finite_stream_ends_each_pass_with_what_is_left(refs, open_batches, shuffle):
  batches = list(map(places, open_batches(batch_size=3, epochs=2, shuffle=shuffle)))
  assert [len(batch) for batch in batches] == [3, 3, 1, 3, 3, 1]
  assert set(flat(batches[:3])) == set(flat(batches[3:])) == set(refs)
  assert (flat(batches[:3]) == refs) is not shuffle


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(7, 1, 7), (7, 3, 3), (6, 3, 2)])
def test_steps_of_an_epoch(refs, count, batch_size, steps):
  assert PatchOrder(refs[:count], batch_size=batch_size, seed=0).steps == steps


@pytest.mark.parametrize("arguments", [{}, {"batch_size": 3}, {"batch_size": 2, "epochs": 5}])
@pytest.mark.parametrize("taken", [0, 1, 6, 7, 16])
def test_the_position_survives_json(open_batches, arguments, taken):
  first = open_batches(seed=4, **arguments)
  take(first, taken)
  state = json.loads(json.dumps(first.get_state()))
  expected = take(first, 4)
  fresh = open_batches(seed=4, **arguments)
  fresh.set_state(state)
  assert take(fresh, 4) == expected
  first.set_state(state)  # an iterator that has read ahead goes back as well
  assert take(first, 4) == expected
  assert first.get_state() == fresh.get_state()


def test_closing_stops_the_threads(open_batches):
  def readers():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]

  before = set(readers())
  iterator = open_batches()
  next(iterator)
  started = set(readers()) - before
  assert started
  iterator.close()
  for thread in started:
    thread.join(timeout=10)
  assert not any(thread.is_alive() for thread in started)


def test_an_open_stream_does_not_keep_the_interpreter(dataset):
  write_json(dataset.folder / "manifest.json", dataset.manifest())
  program = """
import sys
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.patches.host_batches import patch_batches, patch_index
dataset = Dataset.open(sys.argv[1])
batches = patch_batches(dataset, patch_index(dataset, dataset.cases[:2], 8), patch_size=8)
next(batches)
print("read")
"""
  command = [sys.executable, "-c", program, str(dataset.folder)]
  ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
  assert (ended.returncode, ended.stdout) == (0, "read\n"), ended.stderr


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
    ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
    ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ({"seed": 0.5}, "seed must be a whole number of at least 0, got 0.5"),
  ],
)
def test_wrong_numbers_are_named(open_batches, arguments, message):
  with pytest.raises(InputError, match=message):
    open_batches(**arguments)


def test_no_patches_at_all(dataset):
  with pytest.raises(InputError, match="refs must hold at least one patch"):
    patch_batches(dataset, [], patch_size=PATCH)


def test_prepare_normalises_with_the_range_of_the_case(dataset, open_batches):
  batch = next(open_batches(batch_size=4))
  image, target = prepare(batch)
  assert image.dtype == target.dtype == np.float32
  for i, ref in enumerate(places(batch)):
    case, raw, label = dataset.cases[ref.case_index], batch["image"][i], batch["label"][i]
    low, high = np.float64(case.low), np.float64(case.high)
    expected = (raw != 0) * 100 * ((raw - low) / (high - low) + 0.1)
    np.testing.assert_allclose(image[i], expected, rtol=1e-5, atol=1e-5)
    regions = [np.isin(label, [1, 2, 4]), np.isin(label, [1, 4]), label == 4]
    np.testing.assert_array_equal(target[i], np.stack(regions, axis=-1))


def test_prepare_augments_before_or_after_alike(open_batches):
  batch = next(open_batches(batch_size=4))
  key = jax.random.key(3)
  image, target = prepare(batch, key=key)
  plain, regions = prepare(batch)
  later, later_regions = jax.jit(augment)(key, plain, regions)
  np.testing.assert_allclose(image, later, rtol=1e-6)
  np.testing.assert_array_equal(target, later_regions)
  assert not np.array_equal(image, plain)
