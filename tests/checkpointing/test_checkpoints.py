"""Checkpoints: what is stored, what is kept, what is restored, and what a damaged one says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas3d_jax.checkpointing import checkpoints
from nas3d_jax.checkpointing.checkpoints import Checkpoints, open_run
from nas3d_jax.errors import InputError


class Rest(NamedTuple):
  """A training state as a loop has it: named tuples within named tuples, a key, counts."""

  optimizer: optax.OptState
  key: jax.Array
  epoch: np.ndarray
  best: float
  moments: dict


def variables(fill=1.0):
  kernel = jnp.full((3, 2), fill, jnp.float32).at[0, 0].set(-0.0)
  return {"params": {"stem": {"kernel": kernel, "bias": jnp.zeros(2, jnp.bfloat16)}}}


def training(seed=0):
  state = optax.adam(1e-3).init(variables()["params"])
  half = jnp.array([1.5, np.nan], jnp.float16)
  return Rest(state, jax.random.key(seed), np.int32(7), 0.25, {"half": half, "none": ()})


def save(store, step, metric=None, **changes):
  items = dict(
    variables=variables(step), training=training(), metadata={"kind": "test"}, iterators={}
  )
  store.save(step, **{**items, **changes}, best_metric=metric)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run with steps 1 (the best), 3 and 4 (the last two)."""
  folder = tmp_path_factory.mktemp("run")
  with Checkpoints(folder / "checkpoints") as store:
    for step, metric in ((1, 0.5), (2, 0.75), (3, 0.625), (4, 0.625)):
      save(store, step, metric, iterators={"kernel": {"next_index": 4 * step}, "old": b"\x00\xff"})
  return folder


def assert_same_bits(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for pair in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    a, b = (np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in pair)
    assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def is_key(leaf):
  return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def test_state_comes_back_bit_for_bit(run):
  with Checkpoints(run / "checkpoints", create=False) as store:
    got = store.restore(3, variables=variables(), training=training(seed=1))
    assert store.iterators(3) == {"kernel": {"next_index": 12}, "old": b"\x00\xff"}
    assert store.metadata(3) == {"format_version": 1, "kind": "test"}
  assert_same_bits(got, (variables(3), training(seed=0)))
  # The restored key is a key again, and draws what the saved one would have drawn.
  assert jax.random.uniform(got[1].key) == jax.random.uniform(jax.random.key(0))


def test_abstract_tree_restores_as_arrays(run):
  like = jax.eval_shape(variables)
  got = checkpoints.read_variables(open_run(run, "last"), like)
  assert_same_bits(got, variables(4))
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))


def test_saved_arrays_may_be_donated_at_once(tmp_path):
  overwrite = jax.jit(lambda x: x * 0, donate_argnums=0)
  x = jnp.arange(100_000, dtype=jnp.float32)
  with Checkpoints(tmp_path) as store:
    save(store, 1, variables={"params": x})
    overwrite(x).block_until_ready()
    got = checkpoints.read_variables(store.step_folder(1))
  np.testing.assert_array_equal(got["params"], np.arange(100_000, dtype=np.float32))


# Metric of steps 1, 2, ...; the steps that must be left; the best and the last of them.
@pytest.mark.parametrize(
  ("metrics", "left", "best"),
  [
    ([5.0], [1], 1),
    ([5.0, 3.0, 4.0], [2, 3], 2),
    ([5.0, 4.0, 3.0], [2, 3], 3),
    ([3.0, 4.0, 5.0, 4.0], [1, 3, 4], 1),
    ([3.0, 3.0, 5.0, 5.0, 5.0], [2, 4, 5], 2),
    ([3.0, None, None, None], [1, 3, 4], 1),
    ([None, None, None], [2, 3], None),
    ([float("nan"), 4.0, float("nan")], [2, 3], 2),
    ([float("-inf"), 4.0, 9.0], [2, 3], 2),
  ],
)
def test_the_last_two_and_the_best_are_kept_and_nothing_else(tmp_path, metrics, left, best):
  with Checkpoints(tmp_path) as store:
    for step, metric in enumerate(metrics, 1):
      save(store, step, metric)
  assert sorted(int(entry.name) for entry in tmp_path.iterdir()) == left
  with Checkpoints(tmp_path, create=False) as store:
    assert (store.best_step(), store.latest_step()) == (best, len(metrics))


def test_what_a_run_resumes_with_is_kept_by_the_same_rule(tmp_path):
  for step, metric in enumerate([2.0, 1.0, 3.0, 4.0], 1):
    with Checkpoints(tmp_path) as store:
      assert store.latest_step() == (step - 1 or None)
      save(store, step, metric)
  assert sorted(entry.name for entry in tmp_path.iterdir()) == ["2", "3", "4"]


@pytest.mark.parametrize(
  ("path", "which", "step"),
  [
    (".", "best", 1),
    (".", "last", 4),
    (".", 3, 3),
    ("checkpoints", "best", 1),
    ("checkpoints", 1, 1),
    ("checkpoints/3", "best", 3),
  ],
)
def test_a_checkpoint_is_found_from(run, path, which, step):
  assert open_run(run / path, which) == run / "checkpoints" / str(step)


def test_a_step_copied_elsewhere_opens(run, tmp_path):
  copy = shutil.copytree(run / "checkpoints" / "3", tmp_path / "my model")
  assert_same_bits(checkpoints.read_variables(open_run(copy), variables()), variables(3))


# This is what docs/checkpoints.md shows.
PLAIN_ORBAX = """
import json, sys
from pathlib import Path
import numpy as np
import orbax.checkpoint as ocp

checkpoint = Path(sys.argv[1])
variables = ocp.PyTreeCheckpointer().restore(checkpoint / "params")
metadata = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(checkpoint / "metadata")
"""


def test_opens_with_plain_orbax_alone(run):
  script = PLAIN_ORBAX + textwrap.dedent("""
    assert not [name for name in sys.modules if name.startswith("nas3d_jax")]
    kernel = np.asarray(variables["params"]["stem"]["kernel"])
    training = ocp.PyTreeCheckpointer().restore(checkpoint / "training")
    print(json.dumps([kernel.tolist(), str(kernel.dtype), metadata["format_version"],
                      int(training["epoch"]), sorted(training["optimizer"]["0"]),
                      np.asarray(training["key"]).tolist()]))
  """)
  done = subprocess.run(
    [sys.executable, "-c", script, str(run / "checkpoints" / "3")],
    capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "PYTHONPATH": ""},
    cwd=run,
  )
  kernel = [[0.0, 3.0], [3.0, 3.0], [3.0, 3.0]]
  want = [kernel, "float32", 1, 7, ["count", "mu", "nu"], [0, 0]]
  assert json.loads(done.stdout.splitlines()[-1]) == want


def test_a_kill_inside_a_write_leaves_the_one_before(tmp_path):
  script = textwrap.dedent("""
    import os, signal, sys
    import numpy as np
    from nas3d_jax.checkpointing.checkpoints import Checkpoints
    store = Checkpoints(sys.argv[1])
    big = np.random.default_rng(0).bytes(50_000_000)
    for step in (1, 2):
      store.save(step, variables={"params": np.frombuffer(big, np.uint8)}, training={"step": step},
                 metadata={}, iterators={}, best_metric=1.0 / step)
      if step == 1:
        store.wait()
    os.kill(os.getpid(), signal.SIGKILL)
  """)
  root = Path(checkpoints.__file__).parents[2]
  done = subprocess.run(
    [sys.executable, "-c", script, str(tmp_path)],
    timeout=120, check=False, cwd=root, capture_output=True,
  )
  assert done.returncode == -signal.SIGKILL
  left = sorted(entry.name for entry in tmp_path.iterdir())
  assert left[0] == "1"
  assert len(left) == 2 and left[1].startswith("2.orbax-checkpoint-tmp"), "the kill came too late"
  assert open_run(tmp_path, "last") == tmp_path / "1"
  with pytest.raises(InputError, match="no checkpoint"):
    open_run(tmp_path / left[1])
  with Checkpoints(tmp_path) as store:
    assert store.latest_step() == 1
    assert checkpoints.read_variables(store.step_folder(1))["params"].shape == (50_000_000,)
    save(store, 2, 0.5)
  assert sorted(entry.name for entry in tmp_path.iterdir()) == ["1", "2"]


def test_orbax_says_nothing(tmp_path, caplog, capfd):
  with Checkpoints(tmp_path) as store:
    for step in (1, 2):
      save(store, step, None)
  checkpoints.read_metadata(open_run(tmp_path, "last"))
  assert caplog.records == []
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("keep", [0, 0.5])
@pytest.mark.parametrize("item", ["params", "training", "metadata", "input"])
def test_a_truncated_checkpoint_is_one_clear_error(run, tmp_path, item, keep):
  step = shutil.copytree(run / "checkpoints" / "3", tmp_path / "checkpoints" / "3")
  for file in (step / item).rglob("*"):
    if file.is_file() and file.stat().st_size:
      file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
  with (
    Checkpoints(step.parent, create=False) as store,
    pytest.raises(InputError, match=rf"checkpoint .*3 cannot be read, its {item} is damaged"),
  ):
    store.restore(3, variables=variables(), training=training())
    store.metadata(3)
    store.iterators(3)


@pytest.mark.parametrize("item", ["params", "training", "metadata", "input"])
def test_a_missing_item_is_named(run, tmp_path, item):
  step = shutil.copytree(run / "checkpoints" / "3", tmp_path / "checkpoints" / "3")
  shutil.rmtree(step / item)
  with (
    Checkpoints(step.parent, create=False) as store,
    pytest.raises(InputError, match=f"no checkpoint in .*, no {item}/"),
  ):
    store.restore(3, variables=variables(), training=training())
    store.metadata(3)
    store.iterators(3)


@pytest.mark.parametrize(
  ("metadata", "message"),
  [
    ({"format_version": 2}, "format version 2, this nas3d_jax reads up to 1; update nas3d_jax"),
    ({"format_version": "1"}, "no checkpoint of nas3d_jax in .*: metadata has no format_version"),
    ({}, "metadata has no format_version"),
    ([], "metadata has no format_version"),
  ],
)
def test_another_format_is_refused(run, tmp_path, metadata, message):
  step = shutil.copytree(run / "checkpoints" / "3", tmp_path / "3")
  shutil.rmtree(step / "checksums")
  (step / "metadata" / "metadata").write_text(json.dumps(metadata))
  with pytest.raises(InputError, match=message):
    checkpoints.read_metadata(step)


@pytest.mark.parametrize(
  ("make", "which", "message"),
  [
    (None, "best", "no checkpoint in .*: no such folder"),
    ("empty", "best", "it should be a run directory with checkpoints/<step>/"),
    ("empty/checkpoints", "last", "it should be a run directory with checkpoints/<step>/"),
    (None, "first", 'which must be "best", "last" or the number of a step, got \'first\''),
    (None, True, "which must be"),
  ],
)
def test_what_is_no_checkpoint_says_what_it_should_be(tmp_path, make, which, message):
  if make:
    (tmp_path / make).mkdir(parents=True)
  with pytest.raises(InputError, match=message):
    open_run(tmp_path / "empty", which)


def test_a_step_that_is_not_there_names_those_that_are(run):
  with pytest.raises(InputError, match=r"no checkpoint of step 2 in .*; there are \[1, 3, 4\]"):
    open_run(run, 2)


def test_best_without_a_metric_is_refused(tmp_path):
  with Checkpoints(tmp_path) as store:
    save(store, 1, None)
  with pytest.raises(InputError, match='use which="last"'):
    open_run(tmp_path, "best")


def test_reading_a_missing_folder_makes_none(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    Checkpoints(tmp_path / "none", create=False)
  assert list(tmp_path.iterdir()) == []


def test_what_is_open_for_reading_is_not_written(run):
  with (
    Checkpoints(run / "checkpoints", create=False) as store,
    pytest.raises(InputError, match="can only be read"),
  ):
    save(store, 5)
  assert sorted(entry.name for entry in (run / "checkpoints").iterdir()) == ["1", "3", "4"]


def test_steps_do_not_go_back(tmp_path):
  with Checkpoints(tmp_path) as store:
    save(store, 2)
    with pytest.raises(InputError, match=r"step must not be below 2, .* got 1"):
      save(store, 1)


def test_many_small_arrays_are_written_and_read_in_seconds(tmp_path):
  """About 800 arrays of 25 KB; it takes about one second, a file an array took several."""
  tree = {f"m{i}": np.full((27, 240), i, np.float32) for i in range(266)}
  with Checkpoints(tmp_path) as store:
    start = time.monotonic()
    save(store, 1, variables=tree, training={"mu": tree, "nu": tree})
    store.wait()
    store.restore(1, variables=tree, training={"mu": tree, "nu": tree})
    assert time.monotonic() - start < 20
  assert sum(1 for _ in tmp_path.rglob("*")) < 100
