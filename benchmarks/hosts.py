"""A search step shared by processes of one core each: `python -m benchmarks.hosts --processes=1 2 --patch=64`.

Each process is held to a core of its own and has one CPU device. What a step takes with N of them, over what it takes
with one, is what joining costs; where there is one core for each, that is the reduction. Prints a line of JSON each.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

STEPS = 5


def main() -> None:
  """Starts the processes of each number in turn."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
  parser.add_argument("--patch", type=int, default=64)
  parser.add_argument("--worker", type=int, nargs=3, default=None, help=argparse.SUPPRESS)
  given = parser.parse_args()
  if given.worker is not None:
    work(*given.worker, patch=given.patch)
    return
  for count in given.processes:
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.hosts", f"--patch={given.patch}", "--worker"]
    workers = [subprocess.Popen([*command, str(number), str(count), str(port)]) for number in range(count)]
    for worker in workers:
      worker.wait()


def work(number: int, count: int, port: int, *, patch: int) -> None:
  """Times the steps of one process; the first one prints the median."""
  os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[number]})
  import jax

  jax.config.update("jax_platforms", "cpu")
  from nas3d_jax.runtime.distributed import join

  if count > 1:
    join(f"localhost:{port}", count, number)
  from benchmarks.step import random_batch
  from nas3d_jax import NetworkConfig, Supernet
  from nas3d_jax.models.initialization import initial_values
  from nas3d_jax.models.networks import variable_shapes
  from nas3d_jax.models.packing import PackedNet
  from nas3d_jax.runtime import devices
  from nas3d_jax.runtime.data_parallel import Replicas
  from nas3d_jax.training.optimizers import adam
  from nas3d_jax.training.setup import key_of
  from nas3d_jax.training.steps import SearchState, make_search_step

  devices.keep_freed_memory()
  replicas, net, optimizer = Replicas.of(), Supernet(NetworkConfig()), adam(1e-3)
  variables = {"params": initial_values(key_of(0), variable_shapes(net)["params"], host=True)}
  packed = PackedNet(net, variables)
  state = replicas.replicate(SearchState.create(packed.pack(variables), optimizer, optimizer, key_of(1)))
  step = make_search_step(packed, optimizer, optimizer, replicas=replicas)
  batches = [replicas.split(random_batch(2 * number + part, patch, 1)) for part in range(2)]
  seconds = []
  for _ in range(STEPS + 2):
    start = time.perf_counter()
    state, metrics = step(state, *batches)
    jax.block_until_ready((state, metrics))
    seconds.append(time.perf_counter() - start)
  if number == 0:
    times = {"seconds_median": statistics.median(seconds[2:]), "seconds": [round(s, 3) for s in seconds[2:]]}
    print(json.dumps({"processes": count, "patch": patch, "jax": jax.__version__, **times}), flush=True)


if __name__ == "__main__":
  main()
