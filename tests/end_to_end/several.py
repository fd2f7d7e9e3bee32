"""A search and a training with toy networks, from the command line, for a process of its own.

    python tests/end_to_end/several.py WORKDIR DEVICES [--flag=value ...]

DEVICES is the number of those of this process. `--agree=N` is the number of steps after which processes agree on a
checkpoint; the other flags are those of both stages.
"""

import sys
from pathlib import Path

import jax

SIZES = ["--patch_size=16", "--kernels=1", "--nodes=1", "--depth=2", "--epochs=2", "--platform=cpu"]


def main(stop, folder, devices, *flags):
  jax.config.update("jax_num_cpu_devices", int(devices))
  import nas3d_jax.training.epoch
  import nas3d_jax.training.search
  import nas3d_jax.training.train
  from launch.__main__ import main as launch
  from tests.support.toy import ToyDerivedNet, ToySupernet

  nas3d_jax.training.search.Supernet, nas3d_jax.training.train.DerivedNet = ToySupernet, ToyDerivedNet
  agree = [flag.removeprefix("--agree=") for flag in flags if flag.startswith("--agree=")]
  if agree:
    nas3d_jax.training.epoch._AGREE = int(agree[0])
  flags = [flag for flag in flags if not flag.startswith("--agree=")]
  for stage in ("search", "train"):
    if code := launch([stage, f"--workdir={folder}", *SIZES, *flags], stop):
      return code
  return 0


if __name__ == "__main__":
  sys.path.insert(0, str(Path(__file__).parents[2]))
  from nas3d_jax.runtime.stopping import StopBySignal

  with StopBySignal("again") as by_signal:
    sys.exit(main(by_signal, *sys.argv[1:]))
