"""Convolutions as matrix products, on CPUs and GPUs, where those of few channels are slow in their gradients.

The voxels that a kernel sees, its taps, are gathered axis by axis into the channels; then all voxels are multiplied by
one matrix. Both gradients are such products and shifted sums. `gathers` is the one place that chooses between this form
and XLA's convolution.

Example: x [1, 16, 16, 16, 8] and a kernel [3, 3, 3, 8, C_out] with padding 1.

    pad by 1                        [1, 18, 18, 18, 8]
    gather the taps along W         [1, 18, 18, 16, 24]     3 taps of 8 channels
    gather the taps along H         [1, 18, 16, 16, 72]     9 taps of 8 channels

Many outputs, C_out = 96:

    gather the taps along D         [1, 16, 16, 16, 216]    27 taps of 8 channels
    times the kernel [216, 96]      [1, 16, 16, 16, 96]

Few outputs, C_out = 24: the product is made for each tap along D and these are added up, which moves less memory.

    times the kernel [72, 3 * 24]   [1, 18, 16, 16, 72]     3 taps of 24 channels
    add the taps along D            [1, 16, 16, 16, 24]

Arrays are [N, D, H, W, C], float32 or bfloat16; kernels [3, 3, 3, C_in, C_out] (or [2, 2, 2, ...] over blocks).
"""

from __future__ import annotations

import functools
import math
import types

import jax
import jax.numpy as jnp
from jax import lax

# Voxels from which a result is gathered, by backend; others never gather. On two cores, forward and both gradients of
# 8 -> 72 channels at 32^3 take 445 ms as a convolution and 117 ms gathered, 16 -> 144 at 16^3 108 and 35 ms; below
# 2,048 voxels a convolution compiles faster. On a GPU, cuDNN's float32 gradients of few channels are slow at any size:
# 4 -> 36 at 64^3 takes 7.1 ms for the kernel and 0.19 ms gathered, and the small volumes of a search step a third of
# its time.
_GATHER_FROM = types.MappingProxyType({"cpu": 2048, "gpu": 1})


def gathers(x: jax.Array, stride: int = 1) -> bool:
  """Whether a convolution of x [N, D, H, W, C] gathers its taps: where its result has many voxels, by `stride`.

  Where lengths are symbols, as in an export, it does: the form takes any lengths on any backend.
  """
  if not all(isinstance(length, int) for length in x.shape):
    return True
  least = _GATHER_FROM.get(jax.default_backend())
  return least is not None and math.prod(x.shape[:4]) // stride**3 >= least


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def gathered(
  x: jax.Array, kernel: jax.Array, padding: tuple[int, int], stride: int = 1, dilation: int = 1
) -> jax.Array:
  """A convolution as one matrix product.

  The gradient is written out, because the derived one pads every tap apart and transposes what it need not.

  Args:
    x: [N, D, H, W, C_in].
    kernel: [k_D, k_H, k_W, C_in, C_out], in the dtype of x.
    padding: zeros before and behind each axis.
    stride: 1 or 2 along each axis.
    dilation: 1 or 2 along each axis.

  Returns:
    [N, D', H', W', C_out] in the dtype of x.
  """
  return _gathered_forward(x, kernel, padding, stride, dilation)[0]


def _gathered_forward(x, kernel, padding, stride, dilation):
  starts = _tap_starts(kernel, dilation)
  taps = jnp.pad(x, ((0, 0), *[padding] * 3, (0, 0)))
  for axis in _gathered_axes(kernel, stride):
    taps = _gather_taps(taps, axis, starts[axis], stride)
  y = taps @ _kernel_matrix(kernel, stride)
  if _adds_depth_taps(kernel, stride):
    y = _add_taps(y, 1, starts[1])
  return y, (taps, kernel)


def _gathered_backward(padding, stride, dilation, saved, gradient):
  """Each step of the forward pass transposed, in reverse order.

  Gathering and adding taps are each other's transpose, with the taps in reverse order and zeros around the voxels.
  """
  taps, kernel = saved
  starts, matrix = _tap_starts(kernel, dilation), _kernel_matrix(kernel, stride)
  if _adds_depth_taps(kernel, stride):
    gradient = _gather_taps(_pad_axis(gradient, 1, starts[1][-1]), 1, starts[1][::-1])
  gradient_rows = gradient.reshape(-1, gradient.shape[-1])
  # taps^T times the gradient, [taps C_in, outputs], in the shape of the kernel.
  matrix_gradient = lax.dot_general(taps.reshape(-1, taps.shape[-1]), gradient_rows, (((0,), (0,)), ((), ())))
  _, to_kernel_gradient = jax.vjp(lambda kernel: _kernel_matrix(kernel, stride), kernel)
  x_gradient = lax.dot_general(gradient_rows, matrix, (((1,), (1,)), ((), ()))).reshape(taps.shape)
  for axis in reversed(_gathered_axes(kernel, stride)):
    x_gradient = _pad_axis(x_gradient, axis, starts[axis][-1], stride)
    x_gradient = _add_taps(x_gradient, axis, starts[axis][::-1])
  before, after = padding
  kept = (slice(before, length - after) for length in x_gradient.shape[1:4])
  return x_gradient[:, *kept], *to_kernel_gradient(matrix_gradient)


gathered.defvjp(_gathered_forward, _gathered_backward)


def _adds_depth_taps(kernel: jax.Array, stride: int) -> bool:
  """Whether to multiply for each tap along D and add up, not to gather along D.

  It pays where a voxel takes less memory: 9 C_in + 3 C_out < 27 C_in + C_out for 3x3x3, that is C_out < 9 C_in.
  """
  depth, rest, (c_in, c_out) = kernel.shape[0], math.prod(kernel.shape[1:3]), kernel.shape[3:]
  return stride == 1 and rest * c_in + depth * c_out < depth * rest * c_in + c_out


def _gathered_axes(kernel: jax.Array, stride: int) -> tuple[int, ...]:
  """The axes along which taps are gathered, in order: W, H and, unless its taps are added up, D."""
  return (3, 2) if _adds_depth_taps(kernel, stride) else (3, 2, 1)


def _kernel_matrix(kernel: jax.Array, stride: int) -> jax.Array:
  """[k_D, k_H, k_W, C_in, C_out] -> [k_D k_H k_W C_in, C_out]; to add taps along D, [k_H k_W C_in, k_D C_out]."""
  if _adds_depth_taps(kernel, stride):
    kernel = jnp.moveaxis(kernel, 0, 3)
    return kernel.reshape(math.prod(kernel.shape[:3]), -1)
  return kernel.reshape(-1, kernel.shape[-1])


def _tap_starts(kernel: jax.Array, dilation: int) -> dict[int, range]:
  """By axis, which voxel of the padded input each tap sees first: (0, 1, 2), or (0, 2, 4) where dilated by 2."""
  return {axis: range(0, count * dilation, dilation) for axis, count in enumerate(kernel.shape[:3], 1)}


def _gather_taps(x: jax.Array, axis: int, starts: range, stride: int = 1) -> jax.Array:
  """What each output voxel sees along an axis, one tap after the other in the channels.

  Starts (0, 1, 2), stride 1, one channel: voxels p0 ... p5 -> (p0 p1 p2), (p1 p2 p3), (p2 p3 p4), (p3 p4 p5). Along
  that axis 6 voxels of C channels become 4 of 3 C.
  """
  reach = x.shape[axis] - max(starts)
  return jnp.concatenate([lax.slice_in_dim(x, start, start + reach, stride, axis) for start in starts], axis=-1)


def _add_taps(taps: jax.Array, axis: int, starts: range) -> jax.Array:
  """The sum of the taps in the channels, each taken from the voxel where it starts.

  Starts (0, 1, 2), one channel, voxel v with the taps (a_v b_v c_v): 6 voxels -> a0 + b1 + c2, ..., a3 + b4 + c5. Along
  that axis 6 voxels of 3 C channels become 4 of C.
  """
  reach, channels = taps.shape[axis] - max(starts), taps.shape[-1] // len(starts)
  shifted = []
  for tap, start in enumerate(starts):
    one_tap = lax.slice_in_dim(taps, tap * channels, (tap + 1) * channels, axis=4)
    shifted.append(lax.slice_in_dim(one_tap, start, start + reach, axis=axis))
  return sum(shifted)


def _pad_axis(x: jax.Array, axis: int, width: int, stride: int = 1) -> jax.Array:
  """`width` zeros before and behind along an axis, and stride - 1 between its voxels."""
  widths = [(0, 0, 0)] * x.ndim
  widths[axis] = (width, width, stride - 1)
  return lax.pad(x, jnp.zeros((), x.dtype), widths)
