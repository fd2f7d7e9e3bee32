"""A search and a training with toy networks on several devices, for a process of its own.

    python tests/several.py WORKDIR DEVICES [HOST:PORT PROCESSES PROCESS] [--field=value ...]

DEVICES is their number in this process; fields are those of both configurations, values JSON.
"""

import json
import sys
from pathlib import Path

import jax

SIZES = dict(patch_size=16, kernels=1, nodes=1, depth=2, epochs=2)


def main(folder, devices, coordinator=None, processes=1, process=0, **changes):
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", int(devices))
  from nas3d_jax.hosts import join

  if coordinator:
    join(coordinator, int(processes), int(process))
  from toy import ToyDerivedNet, ToySupernet

  import nas3d_jax.search
  import nas3d_jax.train

  nas3d_jax.search.Supernet, nas3d_jax.train.DerivedNet = ToySupernet, ToyDerivedNet
  fields = {**SIZES, **changes}
  nas3d_jax.search.search(nas3d_jax.search.SearchConfig(folder, **fields))
  nas3d_jax.train.train(nas3d_jax.train.TrainConfig(folder, **fields))


if __name__ == "__main__":
  sys.path.insert(0, str(Path(__file__).parents[1]))
  arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
  fields = (argument[2:].split("=") for argument in sys.argv[1:] if argument.startswith("--"))
  main(*arguments, **{name: json.loads(value) for name, value in fields})
