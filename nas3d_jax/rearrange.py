"""Convolutions as dense products of rearranged arrays.

XLA has fast forms for dense stride-1 convolutions alone: strided, transposed and dilated ones, or their gradients, fall
into general loops. Each of them is a dense convolution of a rearranged input with a rearranged kernel, and exactly so.
On CPUs and GPUs even the dense one is slow in its gradients, because there are few channels; there, large volumes
gather their taps axis by axis and multiply matrices. `_gathers` is the one place that chooses.

Arrays are [N, D, H, W, C], kernels [3, 3, 3, C_in, C_out]. Padding and alignment are PyTorch's (padding 1 for 3x3x3, 2
where dilated), not "SAME", which is off by one voxel where the stride is 2.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from nas3d_jax.errors import InputError

PHASES = 8  # voxels of a 2x2x2 block
_DIMENSIONS = ("NDHWC", "DHWIO", "NDHWC")
# Forward and both gradients of 8 -> 72 channels at 32^3 on two cores: 445 ms as a convolution, 117 ms gathered; 16 ->
# 144 at 16^3: 108 and 35 ms. On an H200 the gradient of the kernel of 4 -> 36 channels at 64^3 takes 7.1 ms by cuDNN and
# 0.19 ms gathered, and a training step at 128^3 111 and 15 ms. Below that size a convolution compiles faster.
_GATHER_VOXELS = 2048
_GATHERING = ("cpu", "gpu")


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Dense 3x3x3 convolution, stride 1, padding 1: [N, D, H, W, C_in] -> [N, D, H, W, C_out]."""
  return _dense(x, kernel, (1, 1))


def conv_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3x3x3 convolution, stride 2, padding 1: even lengths D, H, W -> halves; InputError for odd ones."""
  _require_even(x)
  if _gathers(x, stride=2):
    return _gathered(x, kernel.astype(x.dtype), (1, 0), 2)
  blocks = space_to_depth(x)
  n, d, h, w, _, c = blocks.shape
  return _dense(blocks.reshape(n, d, h, w, PHASES * c), _slots(kernel, flip=False), (1, 0))


def conv_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Transposed 3x3x3 convolution, stride 2, padding 1, output padding 1, before `depth_to_space`.

  Args:
    x: [N, D, H, W, C_in].
    kernel: [3, 3, 3, C_in, C_out]; input voxel i adds kernel[k] to output voxel 2 i - 1 + k.

  Returns:
    [N, D, H, W, 8, C_out]: the 2x2x2 block of output voxels that stands in place of each input voxel.
  """
  y = _dense(x, _slots(kernel, flip=True), (0, 1))
  return y.reshape(*y.shape[:4], PHASES, kernel.shape[-1])


def conv_dilated(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3x3x3 convolution of dilation 2, stride 1, padding 2: any lengths, which are kept."""
  if _gathers(x):
    return _gathered(x, kernel.astype(x.dtype), (2, 2), 1, 2)
  lengths = x.shape[1:4]
  x = jnp.pad(x, ((0, 0), *((0, length % 2) for length in lengths), (0, 0)))
  blocks = space_to_depth(x)
  n, d, h, w, _, c = blocks.shape
  batch = jnp.moveaxis(blocks, 4, 0).reshape(PHASES * n, d, h, w, c)
  y = conv(batch, kernel)
  y = depth_to_space(jnp.moveaxis(y.reshape(PHASES, n, d, h, w, -1), 0, 4))
  return y[:, : lengths[0], : lengths[1], : lengths[2]]


def conv_dilated_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3x3x3 convolution of dilation 2, stride 2, padding 2: it touches voxels of even index only; lengths even."""
  return conv(even_voxels(x), kernel)


def conv_dilated_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Transposed 3x3x3 convolution of dilation 2, stride 2, padding 2, at the output's even voxels: [N, D, H, W, C_out].

  All other output voxels are zero.
  """
  return conv(x, kernel[::-1, ::-1, ::-1])


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """1x1x1 convolution: [..., C_in] times [C_in, C_out]."""
  return jnp.einsum("...i,io->...o", x, kernel.astype(x.dtype))


def space_to_depth(x: jax.Array) -> jax.Array:
  """[N, 2 D, 2 H, 2 W, C] -> [N, D, H, W, 8, C]: each 2x2x2 block of voxels, in row-major order; lengths even."""
  _require_even(x)
  n, d, h, w, c = x.shape
  x = x.reshape(n, d // 2, 2, h // 2, 2, w // 2, 2, c)
  return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(n, d // 2, h // 2, w // 2, PHASES, c)


def even_voxels(x: jax.Array) -> jax.Array:
  """The voxels of even index along D, H and W: [N, 2 D, 2 H, 2 W, C] -> [N, D, H, W, C]; InputError for odd lengths.

  Cut out of blocks, not by a slice with strides: XLA's compiler for GPUs aborts where such a slice is the factor of a
  matrix product (openxla/xla issue 47381).
  """
  _require_even(x)
  n, d, h, w, c = x.shape
  return x.reshape(n, d // 2, 2, h // 2, 2, w // 2, 2, c)[:, :, 0, :, 0, :, 0]


def depth_to_space(x: jax.Array) -> jax.Array:
  """The inverse of `space_to_depth`, axes after the phases kept: [N, D, H, W, 8, ...] -> [N, 2 D, 2 H, 2 W, ...]."""
  n, d, h, w, _, *rest = x.shape
  x = x.reshape(n, d, h, w, 2, 2, 2, *rest)
  x = jnp.moveaxis(x, (4, 5, 6), (2, 4, 6))
  return x.reshape(n, 2 * d, 2 * h, 2 * w, *rest)


def settle(x: jax.Array) -> jax.Array:
  """x, computed once and kept.

  XLA's CPU compiler computes cheap producers anew in each of their consumers: a state of a cell in each of the taps
  that are gathered from it, and again in the gradients, down to the convolutions it came from. It does not do so with a
  division. The divisor is one, but known only at run time.
  """
  if jax.default_backend() != "cpu":
    return x
  first = jax.lax.stop_gradient(x[(0,) * x.ndim])
  return x / jnp.where(jnp.isnan(first), first, 1)


def _dense(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  kernel = kernel.astype(x.dtype)
  if _gathers(x):
    return _gathered(x, kernel, padding)
  return lax.conv_general_dilated(x, kernel, (1, 1, 1), [padding] * 3, dimension_numbers=_DIMENSIONS)


def _require_even(x: jax.Array) -> None:
  if any(length % 2 for length in x.shape[1:4]):
    raise InputError(f"x must have even lengths to be halved, got shape {x.shape}; pad it")


def _gathers(x: jax.Array, stride: int = 1) -> bool:
  """Whether a convolution of x gathers its taps; `stride` tells how many voxels the result has."""
  return jax.default_backend() in _GATHERING and math.prod(x.shape[:4]) // stride**3 >= _GATHER_VOXELS


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _gathered(
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


_gathered.defvjp(_gathered_forward, _gathered_backward)


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


def _slots(kernel: jax.Array, *, flip: bool) -> jax.Array:
  """Lays the 27 taps into the 64 slots of a 2x2x2 convolution over (or into) 2x2x2 blocks.

  Along an axis the taps (k0, k1, k2) of stride 2 become [block before, block][phase] = [[0, k0], [k1, k2]];
  transposed, the blocks are read in the other order, and the phases are the output's.
  """
  c_in, c_out = kernel.shape[3:]
  taps = jnp.pad(kernel, ((1, 0),) * 3 + ((0, 0),) * 2).reshape(2, 2, 2, 2, 2, 2, c_in, c_out)
  if flip:
    return taps[::-1, :, ::-1, :, ::-1].transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(2, 2, 2, c_in, PHASES * c_out)
  return taps.transpose(0, 2, 4, 1, 3, 5, 6, 7).reshape(2, 2, 2, PHASES * c_in, c_out)

