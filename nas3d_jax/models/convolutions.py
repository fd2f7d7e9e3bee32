"""Convolutions as dense products of rearranged arrays.

XLA has fast forms for dense convolutions of stride 1 alone. Strided, transposed and dilated ones, or their gradients,
fall into general loops. Each of them equals a dense convolution of a rearranged input with a rearranged kernel:

    stride 2              2x2x2 blocks of voxels become channels (`space_to_depth`), kernel 2x2x2
    stride 2, transposed  kernel 2x2x2, its 8 C_out channels become blocks of voxels (`depth_to_space`)
    dilation 2            the 8 phases of the voxels become samples, kernel 3x3x3
    dilation 2, stride 2  the voxels of even index, kernel 3x3x3

On CPUs and GPUs large volumes take the form of `gathered_convolutions` instead; see `gathers` there.

Arrays are [N, D, H, W, C], float32 or bfloat16; kernels [3, 3, 3, C_in, C_out], cast to the dtype of the array. Padding
and alignment are PyTorch's (padding 1 for 3x3x3, 2 where dilated). "SAME" differs by one voxel where the stride is 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from nas3d_jax.errors import InputError
from nas3d_jax.models.gathered_convolutions import gathered, gathers

PHASES = 8  # voxels of a 2x2x2 block
_DIMENSIONS = ("NDHWC", "DHWIO", "NDHWC")


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Dense 3x3x3 convolution, stride 1, padding 1: [N, D, H, W, C_in] -> [N, D, H, W, C_out]."""
  return _dense(x, kernel, (1, 1))


def conv_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3x3x3 convolution, stride 2, padding 1: [N, 2 D, 2 H, 2 W, C_in] -> [N, D, H, W, C_out].

  Raises:
    InputError: an odd length.
  """
  _require_even(x)
  if gathers(x, stride=2):
    return gathered(x, kernel.astype(x.dtype), (1, 0), 2)
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
  """3x3x3 convolution, dilation 2, stride 1, padding 2: [N, D, H, W, C_in] -> [N, D, H, W, C_out], any lengths."""
  if gathers(x):
    return gathered(x, kernel.astype(x.dtype), (2, 2), 1, 2)
  lengths = x.shape[1:4]
  x = jnp.pad(x, ((0, 0), *((0, length % 2) for length in lengths), (0, 0)))
  blocks = space_to_depth(x)
  n, d, h, w, _, c = blocks.shape
  batch = jnp.moveaxis(blocks, 4, 0).reshape(PHASES * n, d, h, w, c)
  y = conv(batch, kernel)
  y = depth_to_space(jnp.moveaxis(y.reshape(PHASES, n, d, h, w, -1), 0, 4))
  return y[:, : lengths[0], : lengths[1], : lengths[2]]


def conv_dilated_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3x3x3 convolution, dilation 2, stride 2, padding 2: it reads voxels of even index only.

  [N, 2 D, 2 H, 2 W, C_in] -> [N, D, H, W, C_out].

  Raises:
    InputError: an odd length.
  """
  return conv(even_voxels(x), kernel)


def conv_dilated_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Transposed 3x3x3 convolution, dilation 2, stride 2, padding 2, at the output's voxels of even index.

  [N, D, H, W, C_in] -> [N, D, H, W, C_out]. All other voxels of the [N, 2 D, 2 H, 2 W, C_out] output are zero.
  """
  return conv(x, kernel[::-1, ::-1, ::-1])


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """1x1x1 convolution: [..., C_in] times [C_in, C_out] -> [..., C_out]."""
  return jnp.einsum("...i,io->...o", x, kernel.astype(x.dtype))


def space_to_depth(x: jax.Array) -> jax.Array:
  """[N, 2 D, 2 H, 2 W, C] -> [N, D, H, W, 8, C]: each 2x2x2 block of voxels, W fastest; InputError for odd lengths."""
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


def _dense(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
  """Stride-1 convolution with that many zeros before and behind each axis."""
  kernel = kernel.astype(x.dtype)
  if gathers(x):
    return gathered(x, kernel, padding)
  return lax.conv_general_dilated(x, kernel, (1, 1, 1), [padding] * 3, dimension_numbers=_DIMENSIONS)


def _require_even(x: jax.Array) -> None:
  if any(length % 2 for length in x.shape[1:4]):
    raise InputError(f"x must have even lengths to be halved, got shape {x.shape}; pad it")


def _slots(kernel: jax.Array, *, flip: bool) -> jax.Array:
  """Lays the 27 taps into the 64 slots of a 2x2x2 convolution over 2x2x2 blocks or, if `flip`, into such blocks.

  Along an axis the taps (k0, k1, k2) of stride 2 become [block before, block][phase] = [[0, k0], [k1, k2]]: output
  voxel i sees the input voxels 2 i - 1, 2 i and 2 i + 1. Transposed, the blocks come in the other order, and the phases
  are the output's.

  Returns:
    [2, 2, 2, 8 C_in, C_out] or, if `flip`, [2, 2, 2, C_in, 8 C_out].
  """
  c_in, c_out = kernel.shape[3:]
  taps = jnp.pad(kernel, ((1, 0),) * 3 + ((0, 0),) * 2).reshape(2, 2, 2, 2, 2, 2, c_in, c_out)
  if flip:
    return taps[::-1, :, ::-1, :, ::-1].transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(2, 2, 2, c_in, PHASES * c_out)
  return taps.transpose(0, 2, 4, 1, 3, 5, 6, 7).reshape(2, 2, 2, PHASES * c_in, c_out)
