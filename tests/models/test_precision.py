"""Precision: what computes in it, and that parameters, statistics and losses do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models.precision import activation_dtype, computing


@pytest.mark.parametrize(("precision", "dtype"), [("float32", "f4"), ("tf32", "f4"), ("bfloat16", jnp.bfloat16)])
def test_arrays_of_voxels(precision, dtype):
  assert activation_dtype(precision) == np.dtype(dtype)


@pytest.mark.parametrize(("precision", "attribute"), [("float32", "HIGHEST, HIGHEST"), ("tf32", "HIGH, HIGH")])
def test_products_are_lowered_to_the_precision(precision, attribute):
  with computing(precision):
    text = jax.jit(jnp.dot).trace(jnp.ones((2, 2)), jnp.ones((2, 2))).lower(lowering_platforms=("cuda",)).as_text()
  assert f"precision = [{attribute}]" in text  # HIGH lets cuDNN and cuBLAS take TF32, HIGHEST does not


def test_an_unknown_precision():
  with pytest.raises(InputError, match="precision must be one of float32, tf32, bfloat16, got 'half'"):
    computing("half")


def test_half_precision_is_near_and_its_probabilities_are_single(tiny):
  half = tiny.net.clone(dtype=jnp.bfloat16)
  outputs = [jax.jit(net.apply)(tiny.variables, tiny.image) for net in (tiny.net, half)]
  assert outputs[1].dtype == jnp.float32
  difference = np.abs(outputs[0] - outputs[1])
  # Eight bits of mantissa: half a percent a layer, over a dozen layers; and not the same numbers.
  assert 0 < difference.mean() < 0.02
  gradient = jax.jit(jax.grad(lambda variables: half.apply(variables, tiny.image).mean()))(tiny.variables)
  for leaf in jax.tree.leaves(gradient):
    assert leaf.dtype == jnp.float32
    assert np.isfinite(leaf).all()
