"""The hand-designed 3D U-Net: what it is made of, and what it computes, against NumPy and a count by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import UNetConfig
from nas3d_jax.models.dropout import Dropout
from nas3d_jax.models.networks import variable_shapes
from nas3d_jax.models.unet3d import UNet3D, instance_norm, upsample
from tests.support import reference

TINY = UNetConfig(filters=2, levels=4)


@pytest.fixture(scope="module")
def drawn():
  """Variables of the tiny network, norms and biases away from where they start."""
  params = UNet3D(TINY).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 16, 8, 4), jnp.float32))["params"]
  random = np.random.default_rng(0)
  return {"params": jax.tree.map(lambda leaf: leaf + 0.1 * random.normal(size=leaf.shape).astype("float32"), params)}


def count(net):
  return sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(net)))


def test_parameters_of_the_full_network_counted_by_hand():
  filters = [16, 32, 64, 128, 256]
  inputs = [4, 16, 32, 64, 128]
  # Kernels and two arrays of a norm; only the segmentation layers have a bias.
  down = sum(27 * i * f + 2 * f for i, f in zip(inputs, filters, strict=True))
  context = sum(2 * (27 * f * f + 2 * f) for f in filters)
  up = sum(27 * 2 * f * f + 2 * f for f in filters[:4])
  merge = sum(27 * 2 * f * 2 * f + 2 * 2 * f for f in filters[:4])
  reduce = sum(2 * f * f + 2 * f for f in filters[:4])
  segment = sum(f * 3 + 3 for f in filters[:3])
  assert (down, context, up, merge, reduce, segment) == (1177760, 4715968, 1175520, 2351040, 44000, 345)
  assert count(UNet3D(UNetConfig())) == 9464633


def test_arrays_are_called_and_shaped_as_documented():
  params = variable_shapes(UNet3D(TINY))["params"]
  shapes = {
    "down_0/conv/kernel": (3, 3, 3, 4, 2), "down_3/conv/kernel": (3, 3, 3, 8, 16), "down_3/norm/scale": (16,),
    "context_1/first/conv/kernel": (3, 3, 3, 4, 4), "context_1/second/norm/bias": (4,),
    "up_2/conv/kernel": (3, 3, 3, 16, 8), "merge_2/conv/kernel": (3, 3, 3, 16, 16),
    "reduce_2/project/kernel": (16, 8), "segment_2/project/kernel": (8, 3), "segment_0/project/bias": (3,),
  }  # fmt: skip
  found = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  assert found | shapes == found
  modules = {"down": 4, "context": 4, "up": 3, "merge": 3, "reduce": 3, "segment": 3}
  assert set(params) == {f"{name}_{level}" for name, levels in modules.items() for level in range(levels)}


def slow(params, x, levels):
  """The network of its docstring, in NumPy and float64."""

  def block(x, layers, stride=1):
    if "project" in layers:
      y = x @ layers["project"]["kernel"]
    else:
      y = reference.convolution(x, layers["conv"]["kernel"], stride)
    mean, variance = y.mean((1, 2, 3), keepdims=True), y.var((1, 2, 3), keepdims=True)
    y = (y - mean) / np.sqrt(variance + 1e-5) * layers["norm"]["scale"] + layers["norm"]["bias"]
    return np.where(y > 0, y, 0.3 * y)

  def twice(x):
    return x.repeat(2, 1).repeat(2, 2).repeat(2, 3)

  skips = []
  for level in range(levels):
    x = block(x, params[f"down_{level}"], 2 if level else 1)
    context = params[f"context_{level}"]
    x = x + block(block(x, context["first"]), context["second"])
    skips.append(x)
  total = 0
  for level in range(levels - 2, -1, -1):
    x = np.concatenate([skips[level], block(twice(x), params[f"up_{level}"])], -1)
    x = block(block(x, params[f"merge_{level}"]), params[f"reduce_{level}"])
    if level < 3:
      layer = params[f"segment_{level}"]["project"]
      total = (twice(total) if np.ndim(total) else 0) + x @ layer["kernel"] + layer["bias"]
  return reference.sigmoid(total)


def test_it_computes_what_the_slow_network_does(drawn):
  x = np.random.default_rng(1).uniform(10, 110, (2, 8, 16, 8, 4)).astype(np.float32)
  got = UNet3D(TINY).apply(drawn, x)
  assert (got.shape, got.dtype) == ((2, 8, 16, 8, 3), np.float32)
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), drawn["params"])
  want = slow(params, x.astype(np.float64), TINY.levels)
  assert np.ptp(want) > 0.1
  np.testing.assert_allclose(got, want, atol=2e-4)


def test_dropout_takes_whole_channels_within_each_context_module(drawn):
  x = np.random.default_rng(4).uniform(10, 110, (2, 8, 8, 8, 4)).astype(np.float32)
  net = UNet3D(TINY, dropout_rate=0.5)
  rngs = {"dropout": jax.random.key(0)}

  def is_dropout(module, _):
    return isinstance(module, Dropout)

  got, state = net.apply(drawn, x, train=True, rngs=rngs, capture_intermediates=is_dropout)
  modules = state["intermediates"]
  assert set(modules) == {f"context_{level}" for level in range(4)}
  gone = []
  for level in range(3):  # the lowest level is one voxel, where the norm leaves its bias
    (values,) = modules[f"context_{level}"]["Dropout_0"]["__call__"]
    dropped = np.asarray(values == 0).mean((1, 2, 3))
    assert set(dropped.ravel().tolist()) <= {0.0, 1.0}
    gone += dropped.ravel().tolist()
  assert 0 < sum(gone) < len(gone)
  # Off without `train`, and no key is asked for.
  plain = net.apply(drawn, x)
  assert np.abs(got - plain).max() > 1e-3
  np.testing.assert_array_equal(plain, UNet3D(TINY).apply(drawn, x))


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_instance_norm_is_of_each_channel_of_each_sample(shift):
  x = np.random.default_rng(2).normal(size=(2, 4, 3, 2, 5)).astype(np.float32) * 3 + np.float32(shift)
  scale, bias = np.arange(1, 6, dtype=np.float32), np.arange(5, dtype=np.float32)
  got = np.asarray(instance_norm(jnp.asarray(x), scale, bias))
  np.testing.assert_allclose(got.mean((1, 2, 3)), np.broadcast_to(bias, (2, 5)), atol=1e-3)
  np.testing.assert_allclose(got.std((1, 2, 3)), np.broadcast_to(scale, (2, 5)), rtol=1e-3)


def test_upsampling_repeats_voxels():
  x = np.random.default_rng(3).normal(size=(2, 2, 3, 1, 2)).astype(np.float32)
  np.testing.assert_array_equal(upsample(jnp.asarray(x)), np.kron(x, np.ones((1, 2, 2, 2, 1), np.float32)))


@pytest.mark.parametrize(
  ("shape", "dtype", "message"),
  [
    ((1, 8, 8, 12, 4), np.float32, r"multiples of 8 \(2 \*\* \(levels - 1\)\), got \(1, 8, 8, 12, 4\); pad it"),
    ((1, 8, 8, 8, 3), np.float32, r"x must be a floating-point array \[N, D, H, W, 4\], got float32 of shape"),
    ((8, 8, 8, 4), np.float32, "x must be a floating-point array"),
    ((1, 8, 8, 8, 4), np.int32, "x must be a floating-point array .* got int32"),
  ],
)
def test_shapes_that_do_not_fit(shape, dtype, message):
  with pytest.raises(InputError, match=message):
    UNet3D(TINY).init(jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))


def test_dropout_rate_out_of_range():
  with pytest.raises(InputError, match="dropout_rate must be at least 0 and below 1, got 1"):
    UNet3D(TINY, dropout_rate=1).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 8, 4), np.float32))
