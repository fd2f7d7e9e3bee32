"""How long search and training take on more devices: `python -m benchmarks.scaling --search_step=3.4 --train_step=2.5`.

Arithmetic, no measurement: what a step takes on one device is given, and what the devices exchange is counted. It
prints the table of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import math

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.step import DERIVED
from nas3d_jax import NetworkConfig, Supernet
from nas3d_jax.models.networks import DerivedNet, variable_shapes


@dataclasses.dataclass(frozen=True)
class Job:
  """Epochs of a run.

  Attributes:
    name: shown.
    step: seconds of a step on one device.
    patches: that an epoch takes a step on.
    validated: patches of its validation pass.
    validation: seconds of such a patch on one device.
    epochs: number of epochs.
    exchanged: bytes that a step reduces.
    reductions: in how many reductions.
  """

  name: str
  step: float
  patches: int
  validated: int
  validation: float
  epochs: int
  exchanged: int
  reductions: int

  def step_on(self, devices: int, bandwidth: float, latency: float) -> float:
    """Seconds of a step: a ring sends 2 (N - 1) / N of the bytes past each device, in 2 (N - 1) turns."""
    turns = 2 * (devices - 1)
    return self.step + turns / devices * self.exchanged / bandwidth + turns * self.reductions * latency

  def seconds_on(self, devices: int, bandwidth: float, latency: float) -> float:
    """Seconds of all epochs."""
    steps, passes = math.ceil(self.patches / devices), math.ceil(self.validated / devices)
    return self.epochs * (steps * self.step_on(devices, bandwidth, latency) + passes * self.validation)


def count_parameters(net: Supernet | DerivedNet) -> int:
  """Numbers in the trainable arrays of a network, the hybrid parameters apart."""
  params = dict(variable_shapes(net)["params"])
  params.pop("hybrid", None)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def main() -> None:
  """Parses the flags and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--search_step", type=float, required=True, help="seconds of a search step on one device")
  parser.add_argument("--train_step", type=float, required=True, help="seconds of a training step on one device")
  parser.add_argument("--infer", type=float, default=None, help="seconds of a forward pass of a patch of the training")
  parser.add_argument("--cases", type=int, default=335)
  parser.add_argument("--folds", type=int, default=5)
  parser.add_argument("--search_patches", type=float, default=10, help="patches of a case in the search")
  parser.add_argument("--train_patches", type=float, default=8, help="patches of a case in the training")
  parser.add_argument("--bandwidth", type=float, default=25e9, help="bytes a second between two devices")
  parser.add_argument("--latency", type=float, default=20e-6, help="seconds of one turn of the ring")
  parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64])
  given = parser.parse_args()
  config = NetworkConfig()
  held_out = given.cases / given.folds
  supernet, derived = count_parameters(Supernet(config)), count_parameters(DerivedNet(config, DERIVED))
  infer = given.train_step / 3 if given.infer is None else given.infer
  jobs = [
    Job(
      "search, 100 epochs", given.search_step, round((given.cases - held_out) * given.search_patches),
      round(held_out * given.search_patches), given.search_step / 6, 100, 4 * (supernet + 1) + 4 * 94, 2,
    ),
    Job(
      "training of a fold, 200 epochs", given.train_step, round((given.cases - held_out) * given.train_patches),
      round(held_out * given.train_patches), infer, 200, 4 * (derived + 1), 1,
    ),
  ]  # fmt: skip
  table = Table("run", "devices", "steps an epoch", "step, s", "exchanged, MB", "hours", "speed-up")
  for job in jobs:
    alone = job.seconds_on(1, given.bandwidth, given.latency)
    for devices in given.devices:
      seconds = job.seconds_on(devices, given.bandwidth, given.latency)
      step = job.step_on(devices, given.bandwidth, given.latency)
      table.add_row(
        job.name, str(devices), str(math.ceil(job.patches / devices)), f"{step:.4g}",
        f"{(devices > 1) * job.exchanged / 1e6:.1f}", f"{seconds / 3600:.4g}", f"{alone / seconds:.1f}",
      )  # fmt: skip
  Console(width=110).print(table)


if __name__ == "__main__":
  main()
