"""Times the augmentations beside a training step: one line of JSON each, milliseconds of a batch.

    python -m benchmarks.augmentation --patch=40,56,40 --batch=2 --kernels=8 --depth=2
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.step import DERIVED
from nas3d_jax.data.patches.augment import augment
from nas3d_jax.data.patches.strong_augment import strong_augment
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.initialization import initial_values
from nas3d_jax.models.networks import DerivedNet, variable_shapes
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.training.losses import make_logit_loss
from nas3d_jax.training.optimizers import make_optimizer
from nas3d_jax.training.setup import key_of
from nas3d_jax.training.steps import TrainState, make_train_step


def median_ms(call: Callable[[], Any], repeats: int) -> float:
  """Milliseconds of a call, the first of which is left out."""
  jax.block_until_ready(call())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(call())
    times.append(1e3 * (time.perf_counter() - start))
  return round(statistics.median(times), 2)


def main() -> None:
  """Prints the figures."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--patch", default="40,56,40")
  for name, default in (("batch", 2), ("kernels", 8), ("depth", 2), ("modalities", 1), ("regions", 2), ("repeats", 9)):
    parser.add_argument(f"--{name}", type=int, default=default)
  given = parser.parse_args()
  shape = tuple(map(int, given.patch.split(",")))
  random = np.random.default_rng(0)
  image = jnp.asarray(random.normal(size=(given.batch, *shape, given.modalities)), jnp.float32)
  label = jnp.asarray(random.integers(0, given.regions + 1, (given.batch, *shape)), jnp.uint8)
  key, figures = key_of(0), {}
  for name, function in (("paper", augment), ("strong", strong_augment)):
    jitted = jax.jit(function)
    figures[name] = median_ms(functools.partial(jitted, key, image, label), given.repeats)
  config = NetworkConfig(given.modalities, given.regions, kernels=given.kernels, depth=given.depth)
  net = DerivedNet(config, DERIVED)
  variables = {"params": initial_values(key, variable_shapes(net)["params"], host=True)}
  packed = PackedNet(net, variables)
  optimizer = make_optimizer("adamw", 1e-3, weight_decay=0.01, clip_norm=1, ema=0.999)
  step = make_train_step(packed, optimizer, loss=make_logit_loss("dice_ce", over="batch"), logits=True)
  target = jnp.stack([label == value for value in range(1, given.regions + 1)], -1).astype(jnp.float32)
  state = TrainState.create(packed.pack(variables), optimizer, key)

  def take() -> Any:
    nonlocal state
    state, metrics = step(state, (image, target))
    return metrics

  figures["step"] = median_ms(take, given.repeats)
  share = round(figures["strong"] / figures["step"], 3)
  print(json.dumps({**vars(given), "device": jax.devices()[0].device_kind, **figures, "strong_over_step": share}))


if __name__ == "__main__":
  main()
