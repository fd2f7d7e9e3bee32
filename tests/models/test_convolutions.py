"""Every form against XLA's own strided, transposed or dilated convolution, in values and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nas3d_jax.models import convolutions, gathered_convolutions
from nas3d_jax.models.gathered_convolutions import _adds_depth_taps, gathers

DIMENSIONS = ("NDHWC", "DHWIO", "NDHWC")
EVEN, ODD, THIN = (4, 8, 6), (5, 3, 7), (1, 2, 1)


def strided(x, kernel, stride=1, dilation=1):
  return lax.conv_general_dilated(
    x, kernel, (stride,) * 3, [(dilation, dilation)] * 3, rhs_dilation=(dilation,) * 3, dimension_numbers=DIMENSIONS
  )


def transposed(x, kernel, dilation=1):
  """PyTorch's ConvTranspose3d(kernel 3, stride 2, padding = dilation, output_padding 1): twice the lengths."""
  return lax.conv_general_dilated(
    x, kernel[::-1, ::-1, ::-1], (1, 1, 1), [(dilation, dilation + 1)] * 3, (2, 2, 2), (dilation,) * 3, DIMENSIONS
  )


def up(x, kernel):
  return convolutions.depth_to_space(convolutions.conv_up(x, kernel))


def dilated_up(x, kernel):
  """With the zeros that the form leaves out."""
  y = convolutions.conv_dilated_up(x, kernel)
  return convolutions.depth_to_space(jnp.pad(y[..., None, :], ((0, 0),) * 4 + ((0, 7), (0, 0))))


FORMS = {
  "conv": (convolutions.conv, strided, (EVEN, ODD, THIN)),
  "conv_down": (convolutions.conv_down, lambda x, k: strided(x, k, stride=2), (EVEN, (2, 2, 2))),
  "conv_up": (up, transposed, (EVEN, ODD, THIN)),
  "conv_dilated": (convolutions.conv_dilated, lambda x, k: strided(x, k, dilation=2), (EVEN, ODD, THIN)),
  "conv_dilated_down": (
    convolutions.conv_dilated_down, lambda x, k: strided(x, k, stride=2, dilation=2), (EVEN, (2, 2, 2))
  ),
  "conv_dilated_up": (dilated_up, lambda x, k: transposed(x, k, dilation=2), (EVEN, ODD, THIN)),
}
CASES = [(name, lengths) for name, (_, _, shapes) in FORMS.items() for lengths in shapes]


def check(name, lengths, c_in, c_out):
  """Compares values and both gradients of a form with those of the direct convolution."""
  form, direct, _ = FORMS[name]
  random = np.random.default_rng(0)
  x = random.standard_normal((2, *lengths, c_in), np.float32)
  kernel = random.standard_normal((3, 3, 3, c_in, c_out), np.float32)

  def value_and_gradients(form, x, kernel):
    y, backward = jax.vjp(form, x, kernel)
    return y, *backward(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

  with jax.default_matmul_precision("float32"):
    expected = jax.jit(value_and_gradients, static_argnums=0)(direct, x, kernel)
    got = jax.jit(value_and_gradients, static_argnums=0)(form, x, kernel)
  for ours, theirs in zip(got, expected, strict=True):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)


def only_on_cpu():
  if jax.default_backend() != "cpu":
    pytest.skip("taps are gathered on CPU alone")


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize(("name", "lengths"), CASES)
def test_form_equals_the_direct_convolution(monkeypatch, name, lengths, gathered):
  if gathered:
    only_on_cpu()
  monkeypatch.setattr(gathered_convolutions, "_GATHER_FROM", {"cpu": 1} if gathered else {})
  check(name, lengths, 3, 5)


# A 3x3x3 convolution adds its taps along D up where 9 C_in + 3 C_out < 27 C_in + C_out, that is C_out < 9 C_in; one of
# stride 2 never. An upward one is 2x2x2 with 8 C_out channels: 4 C_in + 16 C_out < 8 C_in + 8 C_out, that is 2 C_out <
# C_in.
@pytest.mark.parametrize(
  ("name", "lengths", "c_in", "c_out", "narrow"),
  [
    ("conv", ODD, 2, 17, True),
    ("conv", ODD, 2, 18, False),
    ("conv", EVEN, 1, 11, False),
    ("conv", THIN, 1, 11, False),
    ("conv_dilated", ODD, 1, 8, True),
    ("conv_dilated", ODD, 1, 9, False),
    ("conv_dilated", THIN, 1, 9, False),
    ("conv_down", EVEN, 5, 2, False),
    ("conv_down", (2, 4, 2), 1, 10, False),
    ("conv_up", ODD, 5, 2, True),
    ("conv_up", ODD, 4, 2, False),
    ("conv_dilated_down", EVEN, 1, 10, False),
    ("conv_dilated_up", ODD, 1, 10, False),
  ],
)
def test_gathered_taps_of_narrow_and_of_wide_results(monkeypatch, name, lengths, c_in, c_out, narrow):
  only_on_cpu()
  adds_depth_taps, seen = _adds_depth_taps, set()

  def spy(*args):
    seen.add(adds_depth_taps(*args))
    return adds_depth_taps(*args)

  monkeypatch.setattr(gathered_convolutions, "_adds_depth_taps", spy)
  monkeypatch.setattr(gathered_convolutions, "_GATHER_FROM", {"cpu": 1})
  check(name, lengths, c_in, c_out)
  assert seen == {narrow}


@pytest.mark.parametrize(
  ("kernel", "stride", "adds"),
  [
    # 9 * 8 + 3 * 71 = 285 < 27 * 8 + 71 = 287; with 72 channels it is 288 on both sides.
    ((3, 3, 3, 8, 71), 1, True),
    ((3, 3, 3, 8, 72), 1, False),
    ((3, 3, 3, 8, 8), 2, False),
    # 4 * 16 + 2 * 56 = 176 < 8 * 16 + 56 = 184; with 64 channels it is 192 on both sides.
    ((2, 2, 2, 16, 56), 1, True),
    ((2, 2, 2, 16, 64), 1, False),
  ],
)
def test_which_form_moves_less_memory(kernel, stride, adds):
  assert _adds_depth_taps(jax.ShapeDtypeStruct(kernel, jnp.float32), stride) == adds


@pytest.mark.parametrize(
  ("backend", "voxels", "stride", "expected"),
  [
    ("cpu", 2047, 1, False),
    ("cpu", 2048, 1, True),
    ("cpu", 2048, 2, False),
    ("gpu", 1, 1, True),
    ("gpu", 8, 2, True),
    ("tpu", 4096, 1, False),
  ],
)
def test_which_results_gather(monkeypatch, backend, voxels, stride, expected):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  assert gathers(jax.ShapeDtypeStruct((1, 1, 1, voxels, 4), jnp.float32), stride) == expected
