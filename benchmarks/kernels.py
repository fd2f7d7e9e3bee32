"""What a program does on the device, from `jax.profiler`: kernels, their time by kind, gaps between them."""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

# Words in a kernel's name, looked for in this order.
KINDS = {
  "convolution": ("conv", "cudnn", "grad", "fprop"),
  "matrix product": ("gemm", "cublas", "cutlass", "splitk"),
  "transpose": ("transpose", "nchwtonhwc", "nhwctonchw"),
  "copy": ("memcpy", "memset", "copy"),
  "reduction": ("reduce",),
  "elementwise": ("fusion",),
}


class Kernel(NamedTuple):
  """One launch.

  Attributes:
    name: of the kernel.
    program: of the compiled program that it belongs to.
    start: nanoseconds on the device's clock.
    duration: nanoseconds.
  """

  name: str
  program: str
  start: float
  duration: float


def record(calls: Callable[[], Any]) -> list[Kernel]:
  """The kernels that a function starts on GPUs; it returns arrays, which are waited for."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(calls())
    (file,) = Path(folder).rglob("*.xplane.pb")
    planes = [plane for plane in jax.profiler.ProfileData.from_file(str(file)).planes if "GPU" in plane.name]
    streams = [line for plane in planes for line in plane.lines if line.name.startswith("Stream")]
    return [
      Kernel(event.name, str(dict(event.stats).get("hlo_module", "")), event.start_ns, event.duration_ns)
      for line in streams
      for event in line.events
    ]


def kind(name: str) -> str:
  """Of a kernel, by its name."""
  lower = name.lower().replace("convert", "")
  return next((kind for kind, words in KINDS.items() if any(word in lower for word in words)), "other")


def summary(kernels: list[Kernel], calls: int) -> dict[str, Any]:
  """Of one call: number of kernels, ms that the device is busy and from first to last, ms by kind, and the longest."""
  by_kind: collections.Counter[str] = collections.Counter()
  by_name: collections.Counter[str] = collections.Counter()
  busy, end = 0.0, 0.0
  for kernel in sorted(kernels, key=lambda kernel: kernel.start):
    by_kind[kind(kernel.name)] += kernel.duration
    by_name[kernel.name[:80]] += kernel.duration
    busy += max(kernel.start + kernel.duration - max(kernel.start, end), 0)
    end = max(end, kernel.start + kernel.duration)
  start = min((kernel.start for kernel in kernels), default=0.0)

  def ms(nanoseconds: float) -> float:
    return round(nanoseconds / calls / 1e6, 3)

  return {
    "kernels": len(kernels) // calls, "busy_ms": ms(busy), "span_ms": ms(max(end - start, 0)),
    "kinds_ms": {name: ms(time) for name, time in by_kind.most_common()},
    "longest_ms": {name: ms(time) for name, time in by_name.most_common(12)},
  }
