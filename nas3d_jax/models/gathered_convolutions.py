"""Convolutions as products of matrices, on CPUs and GPUs, where those of few channels are slow in their gradients.

Large volumes gather their taps axis by axis and multiply matrices; the gradients are such products and shifted sums.
`gathers` is the one place that chooses. Arrays are [N, D, H, W, C], kernels [3, 3, 3, C_in, C_out].
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

# Forward and both gradients of 8 -> 72 channels at 32^3 on two cores: 445 ms as a convolution, 117 ms gathered; 16 ->
# 144 at 16^3: 108 and 35 ms. On an H200 the gradient of the kernel of 4 -> 36 channels at 64^3 takes 7.1 ms by cuDNN
# and 0.19 ms gathered, and a training step at 128^3 111 and 15 ms. Below that size a convolution compiles faster.
_GATHER_VOXELS = 2048
_GATHERING = ("cpu", "gpu")


def gathers(x: jax.Array, stride: int = 1) -> bool:
  """Whether a convolution of x gathers its taps; `stride` tells how many voxels the result has."""
  return jax.default_backend() in _GATHERING and math.prod(x.shape[:4]) // stride**3 >= _GATHER_VOXELS


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def gathered(
  x: jax.Array, kernel: jax.Array, padding: tuple[int, int], stride: int = 1, dilation: int = 1
) -> jax.Array:
  """Any convolution as one matrix product.

  Taps are gathered along W, then H, then D, each pass a few long copies. Where the result is narrow, the product is
  made for each tap along D and these are added up instead, which moves less memory. The gradient is written out,
  because the derived one pads every tap apart and transposes what it need not.
  """
  return _gathered_forward(x, kernel, padding, stride, dilation)[0]


def _gathered_forward(x, kernel, padding, stride, dilation):
  starts = _starts(kernel, dilation)
  taps = jnp.pad(x, ((0, 0), *[padding] * 3, (0, 0)))
  for axis in _gathered_axes(kernel, stride):
    taps = _slide(taps, axis, starts[axis - 1], stride)
  y = taps @ _matrix(kernel, stride)
  if _collapses(kernel, stride):
    y = _collapse(y, 1, starts[0])
  return y, (taps, kernel)


def _gathered_backward(padding, stride, dilation, saved, gradient):
  taps, kernel = saved
  starts = _starts(kernel, dilation)
  matrix = _matrix(kernel, stride)
  if _collapses(kernel, stride):
    gradient = _slide(_pad_axis(gradient, 1, starts[0][-1]), 1, starts[0][::-1])
  rows = gradient.reshape(-1, gradient.shape[-1])
  matrix_gradient = lax.dot_general(taps.reshape(-1, taps.shape[-1]), rows, (((0,), (0,)), ((), ())))
  _, reshaped = jax.vjp(lambda kernel: _matrix(kernel, stride), kernel)
  x = lax.dot_general(rows, matrix, (((1,), (1,)), ((), ()))).reshape(taps.shape)
  for axis in reversed(_gathered_axes(kernel, stride)):
    x = _pad_axis(x, axis, starts[axis - 1][-1], stride)
    x = _collapse(x, axis, starts[axis - 1][::-1])
  before, after = padding
  x = x[:, before : x.shape[1] - after, before : x.shape[2] - after, before : x.shape[3] - after]
  return x, *reshaped(matrix_gradient)


gathered.defvjp(_gathered_forward, _gathered_backward)


def _collapses(kernel: jax.Array, stride: int) -> bool:
  """Whether to gather along H and W only: it pays where 9 C_in + 3 C_out is less than 27 C_in + C_out."""
  depth, rest, (c_in, c_out) = kernel.shape[0], math.prod(kernel.shape[1:3]), kernel.shape[3:]
  return stride == 1 and rest * c_in + depth * c_out < depth * rest * c_in + c_out


def _gathered_axes(kernel: jax.Array, stride: int) -> tuple[int, ...]:
  return (3, 2) if _collapses(kernel, stride) else (3, 2, 1)


def _matrix(kernel: jax.Array, stride: int) -> jax.Array:
  """The kernel as [taps C_in, C_out], or [taps C_in, taps along D times C_out]."""
  if _collapses(kernel, stride):
    kernel = jnp.moveaxis(kernel, 0, 3)
    return kernel.reshape(math.prod(kernel.shape[:3]), -1)
  return kernel.reshape(-1, kernel.shape[-1])


def _starts(kernel: jax.Array, dilation: int) -> list[range]:
  """Where each tap begins, along D, H and W."""
  return [range(0, count * dilation, dilation) for count in kernel.shape[:3]]


def _slide(x: jax.Array, axis: int, starts: range, stride: int = 1) -> jax.Array:
  """What each output voxel sees along an axis, one tap behind the other in the channels."""
  reach = x.shape[axis] - max(starts)
  return jnp.concatenate([lax.slice_in_dim(x, start, start + reach, stride, axis) for start in starts], axis=-1)


def _collapse(taps: jax.Array, axis: int, starts: range) -> jax.Array:
  """The transpose of `_slide`, but for the padding: adds the taps up, each moved back by its start."""
  reach, channels = taps.shape[axis] - max(starts), taps.shape[-1] // len(starts)
  parts = []
  for tap, start in enumerate(starts):
    own = lax.slice_in_dim(taps, tap * channels, (tap + 1) * channels, axis=4)
    parts.append(lax.slice_in_dim(own, start, start + reach, axis=axis))
  return sum(parts)


def _pad_axis(x: jax.Array, axis: int, width: int, stride: int = 1) -> jax.Array:
  """Zeros before and behind along an axis, and stride - 1 between its voxels."""
  widths = [(0, 0, 0)] * x.ndim
  widths[axis] = (width, width, stride - 1)
  return lax.pad(x, jnp.zeros((), x.dtype), widths)
