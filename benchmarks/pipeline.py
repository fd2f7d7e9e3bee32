"""Times the whole way of a few cases, and what share each part has: one line of JSON.

    python -m benchmarks.pipeline --data_dir=data --steps=4

Preprocessing, steps of search and training with their input read from the host, prediction of whole cases, evaluation;
the network is the paper's size. Compiling is left out of all but `compile_s`. `input_share` is the part of the time
that a step waited for its patches.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.step import DERIVED, make_job
from nas3d_jax import NetworkConfig
from nas3d_jax.data.cases.find_and_read import find_cases, read_case
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.patches.patch_stream import PatchStream
from nas3d_jax.evaluation.evaluate import evaluate
from nas3d_jax.inference.prediction_folder import write_volume
from nas3d_jax.inference.volume import make_predict_step, predict_volume
from nas3d_jax.models.initialization import initial_values
from nas3d_jax.models.networks import DerivedNet, variable_shapes
from nas3d_jax.models.precision import computing
from nas3d_jax.runtime import devices
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.training.setup import key_of


def timed(function: Callable, *arguments: Any, **options: Any) -> tuple[float, Any]:
  """Seconds, and what the function gives."""
  start = time.perf_counter()
  result = jax.block_until_ready(function(*arguments, **options))
  return time.perf_counter() - start, result


def steps_with_input(job: str, parts: list[PatchStream], patch: int, steps: int) -> dict[str, float]:
  """Seconds a step, and the part of them spent waiting for the patches; the first step compiles and is left out."""
  function, state, _ = make_job(job, patch=patch, batch=1, precision="float32", variant="paper")
  waited, total, compile_s = 0.0, 0.0, 0.0
  for number in range(steps + 1):
    start = time.perf_counter()
    batches = jax.block_until_ready([
      part.host.next_batch(jax.random.fold_in(key_of(2), number) if part is parts[-1] else None) for part in parts
    ])
    drawn = time.perf_counter()
    state, losses = function(state, *batches)
    jax.block_until_ready(losses)
    end = time.perf_counter()
    if number == 0:
      compile_s = end - start
      continue
    waited, total = waited + drawn - start, total + end - start
  return {"step_s": total / steps, "input_share": waited / total, "compile_s": compile_s}


def predict_all(data_dir: Path, out: Path, patch: int) -> dict[str, float]:
  """Seconds a case of reading, computing and writing, one after the other; a first case compiles and is left out."""
  net = DerivedNet(NetworkConfig(), DERIVED)
  variables = {"params": initial_values(key_of(0), variable_shapes(net)["params"], host=True)}
  step, found = make_predict_step(net), find_cases(data_dir, BRATS2019)[0]
  predict_volume(net, variables, read_case(found[0], BRATS2019).image, patch_size=patch, step=step)
  seconds = {"read_s": 0.0, "compute_s": 0.0, "write_s": 0.0}
  out.mkdir()
  for files in found:
    own, case = timed(read_case, files, BRATS2019)
    seconds["read_s"] += own / len(found)
    own, probabilities = timed(predict_volume, net, variables, case.image, patch_size=patch, step=step)
    seconds["compute_s"] += own / len(found)
    labels = BRATS2019.decode(probabilities)
    own, _ = timed(write_volume, out / f"{files.name}.nii.gz", labels, case.header)
    seconds["write_s"] += own / len(found)
  return seconds


def main() -> None:
  """Parses the flags, measures and prints."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument(
    "--data_dir", required=True, type=os.path.expanduser, help="cases with segmentations, as `preprocess` takes them"
  )
  flags.add_argument("--search_patch", type=int, default=64)
  flags.add_argument("--patch", type=int, default=128)
  flags.add_argument("--steps", type=int, default=4)
  given = flags.parse_args()
  devices.set_xla_flags()
  report = devices.select()
  if report.platform == "cpu":
    devices.keep_freed_memory()
  record: dict[str, Any] = {"device": report.kind, "jax": jax.__version__, **vars(given)}
  del record["data_dir"]
  with tempfile.TemporaryDirectory() as folder, computing("float32"):
    seconds, dataset = timed(preprocess, given.data_dir, Path(folder) / "dataset", folds=2)
    record |= {"cases": len(dataset.cases), "preprocess_s_a_case": seconds / len(dataset.cases)}
    for job, patch in (("search", given.search_patch), ("train", given.patch)):
      folds = range(2) if job == "search" else range(1)
      sizes = dict(patch_size=patch, batch_size=1, skip_empty=True)
      parts = [PatchStream(dataset, dataset.fold_cases(fold), seed=fold, **sizes) for fold in folds]
      record[job] = steps_with_input(job, parts, patch, given.steps)
      for part in parts:
        part.host.close()
    record["predict"] = predict_all(Path(given.data_dir), Path(folder) / "predictions", given.patch)
    seconds, _ = timed(evaluate, Path(folder) / "predictions", given.data_dir, Path(folder) / "scores")
    record["evaluate_s_a_case"] = seconds / len(dataset.cases)
  rounded = jax.tree.map(lambda value: round(value, 4) if isinstance(value, float) else value, record)
  print(json.dumps(rounded, default=np.ndarray.tolist))


if __name__ == "__main__":
  main()
