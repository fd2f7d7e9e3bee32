"""Times each form of each convolution on a GPU, as kernels: `python -m benchmarks.convolutions`. Tab-separated lines.

Forms: dense, a convolution of rearranged arrays; gathered, a product of matrices; direct, XLA's own strided, dilated or
transposed convolution. Columns: kind, length, channels in and out, form, precision; microseconds of the forward product
and of the gradients for the input and for the kernel.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import kernels
from nas3d_jax.models import convolutions
from nas3d_jax.models.config import PRECISIONS
from nas3d_jax.models.precision import activation_dtype, computing

# Kind, length of the volume, channels in and out: the large ones of a search step at 64^3 and of training at 128^3.
CASES = (
  ("conv", 64, 4, 36), ("dilated", 64, 4, 12), ("down", 32, 8, 72), ("up", 32, 4, 36), ("conv", 128, 4, 4),
  ("dilated", 128, 4, 4), ("conv", 64, 8, 8), ("dilated", 64, 8, 8), ("up", 64, 4, 12), ("down", 128, 4, 12),
  ("conv", 32, 8, 72), ("conv", 16, 16, 144), ("conv", 8, 32, 288), ("down", 8, 32, 288), ("conv", 4, 64, 576),
)  # fmt: skip
DIMENSIONS = ("NDHWC", "DHWIO", "NDHWC")


def direct(kind: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
  """XLA's own convolution of a kind; "up" in blocks, as `conv_up`."""
  convolve = functools.partial(lax.conv_general_dilated, dimension_numbers=DIMENSIONS)
  match kind:
    case "down":
      return convolve(x, kernel, (2, 2, 2), [(1, 1)] * 3)
    case "dilated":
      return convolve(x, kernel, (1, 1, 1), [(2, 2)] * 3, rhs_dilation=(2, 2, 2))
    case "up":
      whole = convolve(x, kernel[::-1, ::-1, ::-1], (1, 1, 1), [(1, 2)] * 3, lhs_dilation=(2, 2, 2))
      return convolutions.space_to_depth(whole)
  return convolve(x, kernel, (1, 1, 1), [(1, 1)] * 3)


def convolution(kind: str, form: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """A function of x and kernel."""
  if form == "direct":
    return functools.partial(direct, kind)
  return getattr(convolutions, "conv" if kind == "conv" else f"conv_{kind}")


def parts(function: Callable, x: jax.Array, kernel: jax.Array) -> dict[str, tuple[Callable, tuple]]:
  """The three products of a convolution, each with its arguments."""
  gradient = jnp.ones(jax.eval_shape(function, x, kernel).shape, x.dtype)

  def of_input(x, kernel, gradient):
    return jax.vjp(lambda x: function(x, kernel), x)[1](gradient)

  def of_kernel(x, kernel, gradient):
    return jax.vjp(lambda kernel: function(x, kernel), kernel)[1](gradient)

  return {
    "forward": (function, (x, kernel)), "input": (of_input, (x, kernel, gradient)),
    "kernel": (of_kernel, (x, kernel, gradient)),
  }


def measure(case: tuple[str, int, int, int], form: str, precision: str, calls: int) -> dict[str, float]:
  """Microseconds of each part."""
  kind, length, c_in, c_out = case
  dtype = activation_dtype(precision)
  x = jax.random.normal(jax.random.key(0), (1, length, length, length, c_in), dtype)
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, c_in, c_out), dtype)
  times = {}
  with computing(precision), mock.patch.object(convolutions, "gathers", lambda x, stride=1: form == "gathered"):
    for name, (function, arguments) in parts(convolution(kind, form), x, kernel).items():
      program = jax.jit(function).lower(*arguments).compile()
      jax.block_until_ready(program(*arguments))
      found = kernels.record(lambda: [program(*arguments) for _ in range(calls)])  # noqa: B023
      times[name] = sum(kernel.duration for kernel in found) / calls / 1e3
  return times


def main() -> None:
  """Prints a line a case, form and precision."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument("--precision", choices=PRECISIONS, default="float32")
  flags.add_argument("--calls", type=int, default=5)
  flags.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
  given = flags.parse_args()
  for case in CASES[: given.cases]:
    for form in ("dense", "gathered") if case[0] == "conv" else ("dense", "gathered", "direct"):
      cells = [f"{time:.0f}" for time in measure(case, form, given.precision, given.calls).values()]
      print(*case, form, given.precision, *cells, sep="\t", flush=True)


if __name__ == "__main__":
  main()
