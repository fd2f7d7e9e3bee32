"""One draw for a whole tree; what each layer starts at is tested where the layers are, in test_ops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models.initialization import declare, initial_values


def leaf(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


TREE = {
  "one": {"conv": {"kernel": leaf(3, 3, 3, 3, 4), "bias": leaf(4)}, "norm": {"scale": leaf(4), "bias": leaf(4)}},
  "two": {"deep": {"project": {"kernel": leaf(100, 7), "bias": leaf(7)}}},
  "hybrid": {"down_down": leaf(2, 6)},
}


def test_the_tree_is_kept():
  values = initial_values(jax.random.key(0), TREE)
  assert jax.tree.map(lambda value: value.shape, values) == jax.tree.map(lambda value: value.shape, TREE)
  assert {value.dtype for value in jax.tree.leaves(values)} == {jnp.dtype("float32")}


def test_bounds_by_hand():
  """81 inputs: within 1/9; 100 inputs: within 1/10; a bias is bound as its kernel is."""
  values = initial_values(jax.random.key(0), TREE)
  for layer, bound in ((values["one"]["conv"], 1 / 9), (values["two"]["deep"]["project"], 1 / 10)):
    assert 0.95 * bound < np.abs(layer["kernel"]).max() <= bound
    assert 0 < np.abs(layer["bias"]).max() <= bound
  assert (values["one"]["norm"]["scale"] == 1).all()
  assert (values["one"]["norm"]["bias"] == 0).all()
  assert (values["hybrid"]["down_down"] == 0).all()


def test_values_are_a_function_of_the_key():
  first, again, other = (jax.tree.leaves(initial_values(jax.random.key(seed), TREE)["one"]) for seed in (0, 0, 1))
  assert all(map(np.array_equal, first, again))
  assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_on_the_host_the_numbers_are_the_same(seed):
  tree = {**TREE, "gate": {"squeeze": {"kernel": leaf(5), "bias": leaf()}}}
  values, host = (initial_values(jax.random.key(seed), tree, host=host) for host in (False, True))
  assert jax.tree.structure(host) == jax.tree.structure(values)
  # A scalar of NumPy is as good as an array of no axes.
  assert all(isinstance(value, np.ndarray | np.float32) for value in jax.tree.leaves(host))
  assert all(isinstance(value, jax.Array) for value in jax.tree.leaves(values))
  jax.tree.map(lambda got, expected: np.testing.assert_array_equal(got, expected, strict=True), host, values)


def test_a_tree_without_anything_to_draw_on_the_host():
  values = initial_values(jax.random.key(0), {"norm": {"scale": leaf(3), "bias": leaf(3)}}, host=True)
  assert {type(value) for value in values["norm"].values()} == {np.ndarray}
  np.testing.assert_array_equal(values["norm"]["scale"], np.ones(3, np.float32), strict=True)
  assert initial_values(jax.random.key(0), {}, host=True) == {}


def test_a_tree_without_anything_to_draw():
  values = initial_values(jax.random.key(0), {"norm": {"scale": leaf(3), "bias": leaf(3)}})
  np.testing.assert_array_equal(values["norm"]["scale"], [1, 1, 1])
  assert initial_values(jax.random.key(0), {}) == {}


def test_kernels_of_unknown_layers():
  with pytest.raises(InputError, match=r"a kernel stands under 'mine/dense'; the last name must be one of conv, "):
    initial_values(jax.random.key(0), {"mine": {"dense": {"kernel": leaf(3, 3)}}})


def test_declare_makes_parameters_of_a_module():
  class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
      layer = declare(self, {"project": {"kernel": (2, 3), "bias": (3,)}})["project"]
      return x @ layer["kernel"] + layer["bias"]

  variables = Linear().init(jax.random.key(0), jnp.ones((1, 2)))
  assert jax.tree.map(jnp.shape, variables) == {"params": {"project": {"kernel": (2, 3), "bias": (3,)}}}
  given = {"params": {"project": {"kernel": jnp.ones((2, 3)), "bias": jnp.arange(3.0)}}}
  np.testing.assert_array_equal(Linear().apply(given, jnp.ones((1, 2))), [[2, 3, 4]])
