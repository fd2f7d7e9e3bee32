"""Times one step: `python -m benchmarks.step --job=search --patch=64`. Prints one line of JSON.

Jobs: search, one alternating step of the supernet; train, one update of a derived network; infer, its forward pass. The
input lies on the device; each call is waited for; the first calls are left out. The network is the paper's size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import resource
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import kernels
from nas3d_jax import Genotype, NetworkConfig, Supernet
from nas3d_jax.models.config import PRECISIONS
from nas3d_jax.models.initialization import initial_values
from nas3d_jax.models.networks import DerivedNet, variable_shapes
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.models.precision import activation_dtype, computing
from nas3d_jax.runtime import devices
from nas3d_jax.training.config import SearchConfig
from nas3d_jax.training.optimizers import adam
from nas3d_jax.training.search import path_sampling
from nas3d_jax.training.setup import key_of
from nas3d_jax.training.steps import SearchState, TrainState, make_search_step, make_train_step

JOBS = ("search", "train", "infer")
# Of the search whose temperature a single path has.
_STEPS = 10_000
# Calls under the profiler.
_PROFILED = 3
# The derived network that the peer times.
DERIVED = Genotype(
  down=(("down_conv", 0), ("down_dil_conv", 1), ("down_conv", 1), ("conv", 2), ("down_se_conv", 1), ("dep_conv", 3)),
  up=(("conv", 0), ("up_conv", 1), ("up_dep_conv", 1), ("identity", 2), ("up_conv", 1), ("dil_conv", 3)),
)


def make_job(
  job: str, *, patch: int, batch: int, precision: str, variant: str, rolled: bool | None = None, method: str = "darts"
) -> tuple[Callable, Any, tuple]:
  """A jitted function, its state and its other arguments; but for "infer" it returns the next state first."""
  config = NetworkConfig(variant=variant)
  dtype = activation_dtype(precision)
  net = Supernet(config, dtype=dtype) if job == "search" else DerivedNet(config, DERIVED, dtype=dtype)
  variables = {"params": initial_values(key_of(0), variable_shapes(net)["params"], host=True)}
  packed = PackedNet(net, variables)
  first, second = random_batch(0, patch, batch), random_batch(1, patch, batch)
  optimizer = adam(1e-3)
  if job == "search":
    state = SearchState.create(packed.pack(variables), optimizer, optimizer, key_of(1))
    weights = path_sampling(SearchConfig("run").temperature, _STEPS) if method == "single_path" else None
    return make_search_step(packed, optimizer, optimizer, weights=weights, rolled=rolled), state, (first, second)
  if job == "train":
    return make_train_step(packed, optimizer), TrainState.create(packed.pack(variables), optimizer, key_of(1)), (first,)
  return jax.jit(net.apply), jax.tree.map(jnp.asarray, variables), (first[0],)


def random_batch(seed: int, patch: int, batch: int) -> tuple[jax.Array, jax.Array]:
  """Noise and a target of a tenth of the voxels, [N, p, p, p, 4] and [N, p, p, p, 3]."""
  random = np.random.default_rng(seed)
  image = random.standard_normal((batch, patch, patch, patch, 4), np.float32)
  target = random.random((batch, patch, patch, patch, 3), np.float32) > 0.9
  return jnp.asarray(image), jnp.asarray(target, jnp.float32)


def compiled(function: Callable, *arguments: Any) -> tuple[Any, dict[str, Any]]:
  """The compiled program, the seconds it took by part, and what it consists of."""
  times = [time.perf_counter()]
  traced = function.trace(*arguments)
  times.append(time.perf_counter())
  lowered = traced.lower()
  times.append(time.perf_counter())
  program = lowered.compile()
  times.append(time.perf_counter())
  seconds = [round(after - before, 2) for before, after in itertools.pairwise(times)]
  memory = program.memory_analysis()
  record = dict(zip(("trace_s", "lower_s", "compile_s"), seconds, strict=True))
  record["temp_gib"] = memory and round(memory.temp_size_in_bytes / 2**30, 3)
  return program, record | {"program": count_instructions(program.as_text())}


def count_instructions(text: str) -> dict[str, int]:
  """Lines of an optimised program, and its instructions of the kinds that cost."""
  kinds = re.findall(r"^\s*(?:ROOT )?\S+ = .*?[\]})] ([a-z][a-z-]*)\(", text, re.M)
  counted = {kind: kinds.count(kind) for kind in ("fusion", "convolution", "dot", "transpose", "copy")}
  return {"lines": text.count("\n"), **counted}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
  """Measures a job."""
  devices.set_xla_flags(arguments.platform)
  report = devices.select(arguments.platform)
  if report.platform == "cpu":
    devices.keep_freed_memory()
  if arguments.cache:
    devices.enable_compilation_cache()
  options = {name: getattr(arguments, name) for name in ("patch", "batch", "precision", "variant", "rolled", "method")}
  with computing(arguments.precision):
    function, state, rest = make_job(arguments.job, **options)
    program, record = compiled(function, state, *rest)
    times = []
    for call in range(arguments.warmup + arguments.steps):
      if arguments.pause and call == arguments.warmup:
        os.kill(os.getpid(), signal.SIGSTOP)
      start = time.perf_counter()
      result = program(state, *rest)
      state = state if arguments.job == "infer" else result[0]
      jax.block_until_ready(result)
      times.append(1000 * (time.perf_counter() - start))
    profile = {}
    if arguments.profile:

      def calls() -> Any:
        nonlocal state
        for _ in range(_PROFILED):
          result = program(state, *rest)
          state = state if arguments.job == "infer" else result[0]
        return result

      profile = {"profile": kernels.summary(kernels.record(calls), _PROFILED)}
  timed = times[arguments.warmup :]
  stats = jax.devices()[0].memory_stats() or {}
  peak = stats.get("peak_bytes_in_use")
  return {
    "peer": "nas3d_jax", "version": jax.__version__, "device": report.kind, "job": arguments.job, **options,
    "ms_median": round(statistics.median(timed), 3), "ms_min": round(min(timed), 3), "ms_max": round(max(timed), 3),
    "warmup_s": round(sum(times[: arguments.warmup]) / 1000, 2), "peak_gib": peak and round(peak / 2**30, 3),
    "host_peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3), **record, **profile,
  }


def parser() -> argparse.ArgumentParser:
  """The flags of the command."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument("--job", choices=JOBS, default="search")
  flags.add_argument("--method", choices=["darts", "single_path"], default="darts", help="of the search")
  flags.add_argument("--patch", type=int, default=64)
  flags.add_argument("--batch", type=int, default=1)
  flags.add_argument("--steps", type=int, default=20)
  flags.add_argument("--warmup", type=int, default=2)
  flags.add_argument("--precision", choices=PRECISIONS, default="float32")
  flags.add_argument("--variant", choices=("paper", "released"), default="released")
  flags.add_argument("--rolled", action=argparse.BooleanOptionalAction, help="of the search step; not given: by device")
  flags.add_argument("--cache", action="store_true", help="keep and use compiled programs, as the commands do")
  flags.add_argument("--pause", action="store_true", help="stop (SIGSTOP) when all is compiled; SIGCONT goes on")
  flags.add_argument("--profile", action="store_true", help="also the kernels on a GPU, by kind")
  flags.add_argument("--platform")
  return flags


def losses_after(steps: int, *, patch: int, precision: str, variant: str) -> dict[str, float]:
  """Losses of the last of so many search steps on two batches, from the same start in every precision."""
  with computing(precision):
    step, state, batches = make_job("search", patch=patch, batch=1, precision=precision, variant=variant)
    for _ in range(steps):
      state, losses = step(state, *batches)
  return {name: float(value) for name, value in losses.items() if name.endswith("loss")}


if __name__ == "__main__":
  print(json.dumps(run(parser().parse_args())))
