"""Time of a patch in onnxruntime and in JAX, on the CPU: python -m benchmarks.onnx CHECKPOINT EXPORTED_ONNX."""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
import onnxruntime

import nas3d_jax

REPEATS = 10


def main(checkpoint: str, exported: str) -> None:
  """Prints the median of `REPEATS` forward passes of one patch of the training's size, each after one to warm up."""
  net, variables, metadata = nas3d_jax.restore(checkpoint)
  lengths = json.loads((Path(exported) / "metadata.json").read_text())["patch_size"]
  x = np.random.default_rng(0).normal(size=(1, *lengths, len(metadata.schema.modalities))).astype(np.float32)
  session = onnxruntime.InferenceSession(Path(exported) / "network.onnx", providers=["CPUExecutionProvider"])
  apply = jax.jit(net.apply)
  ways = {
    "onnxruntime": lambda: session.run(None, {"image": x})[0],
    "JAX": lambda: np.asarray(apply(variables, x)),
  }
  print(f"difference {abs(ways['JAX']() - ways['onnxruntime']()).max():.1e}, patch {lengths}")
  times = {name: [] for name in ways}
  for _ in range(REPEATS):  # in turn, so that what else the machine does meets both
    for name, way in ways.items():
      began = time.perf_counter()
      way()
      times[name].append(time.perf_counter() - began)
  for name, taken in times.items():
    print(f"{name}: median {np.median(taken):.3f} s, {min(taken):.3f} to {max(taken):.3f}")


if __name__ == "__main__":
  main(*sys.argv[1:])
