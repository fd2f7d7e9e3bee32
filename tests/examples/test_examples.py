"""Each example runs as it stands and shows what it says."""

import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

import nas3d_jax

ROOT = Path(nas3d_jax.__file__).parents[1]
# `predict_onnx.py` is a script and no example of the library; tests/export runs it.
EXAMPLES = [path for path in sorted(ROOT.glob("examples/*.py")) if path.stem != "predict_onnx"]


@pytest.fixture
def run(monkeypatch):
  """Runs an example in the folder that a user is in, and returns its names."""
  monkeypatch.chdir(ROOT)
  return lambda name: runpy.run_path(f"examples/{name}.py")


def finite(metrics):
  return all(np.all(value) for name, value in metrics.items() if name.endswith("finite"))


def test_every_example_is_run_here_and_in_the_tutorial():
  text = Path(__file__).read_text("utf-8")
  tutorial = (ROOT / "docs" / "tutorials" / "cells_in_your_code.md").read_text("utf-8")
  assert {path.stem for path in EXAMPLES} == set(re.findall(r'run\("(\w+)"\)', text))
  assert {path.name for path in EXAMPLES} == set(re.findall(r"examples/(\w+\.py)", tutorial))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_cells_with_a_title(path):
  lines = path.read_text("utf-8").splitlines()
  assert lines[0] == "# %% [markdown]"
  assert lines[1].startswith("# # ")
  assert "# %%" in lines


def test_search_by_hand(run):
  names = run("search_by_hand")
  assert np.isfinite(names["losses"]).all()
  assert len(set(names["losses"])) == len(names["losses"])
  names["genotype"].check(names["config"])
  assert all(np.any(alpha) for alpha in jax.tree.leaves(names["hybrid"]))


def test_cell_in_own_unet(run):
  names = run("cell_in_own_unet")
  assert finite(names["metrics"])
  assert names["metrics"]["kernel_loss"] < 0.5
  for weights in names["weights"].values():
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert np.ptp(weights) > 0


def test_own_loss_and_optimizer(run):
  losses = run("own_loss_and_optimizer")["losses"]
  assert losses[-1] < losses[0] - 0.03


def test_own_operation(run):
  names = run("own_operation")
  assert names["names"][-1] == "large_kernel"
  assert finite(names["metrics"])
  assert np.all(names["weights"] != 1 / len(names["names"]))


def test_restore_and_serve(run):
  names = run("restore_and_serve")
  assert {shape: labels.shape for shape, labels in names["labels"].items()} == {s: s for s in names["labels"]}
  assert all(labels.dtype == "uint8" for labels in names["labels"].values())
  assert names["compiled"]._cache_size() == 1


def test_seeds_in_one_program(run):
  """Each seed as if it were alone, but for the order of sums; the draws are the same to the bit."""
  names = run("seeds_in_one_program")
  assert finite(names["metrics"])
  seed = 1
  alone = jax.jit(names["create"])(names["SEEDS"][seed])
  for _ in range(2):
    alone, metrics = names["search_step"](alone, names["batch"], names["batch"])
  np.testing.assert_allclose(names["metrics"]["kernel_loss"][seed], metrics["kernel_loss"], rtol=1e-3)
  together = jax.tree.map(lambda array: array[seed], names["states"].hybrid)
  for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone.hybrid), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-2)
  assert np.ptp(names["metrics"]["kernel_loss"]) > 1e-3
