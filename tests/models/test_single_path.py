"""Paths of the supernet: they are mixtures of one operation, their mean is the mixture, their gradient is GDAS's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.models.cells import HybridModules
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.inheritance import derived_variables, genotype_paths
from nas3d_jax.models.networks import DerivedNet, Supernet
from nas3d_jax.models.random_genotype import random_genotype
from nas3d_jax.models.search_space import CANDIDATES, SearchSpace
from nas3d_jax.models.single_path import Path, sampled_paths, strongest_paths
from tests.models.test_search_space import DEPTHWISE, KERNEL


def modules_and_input(direction, edges, samples=1, variant="paper", space=None):
  modules = HybridModules(direction, 4, edges, variant, **({} if space is None else {"space": space}))
  x = jax.random.normal(jax.random.key(0), (samples, 4, 4, 6, 4))
  count = len(modules.space.candidates[direction])
  variables = jax.jit(modules.init)(jax.random.key(1), x, jnp.ones((edges, count)))
  random = np.random.default_rng(0)
  # Norms that differ from edge to edge.
  return modules, jax.tree.map(lambda leaf: leaf + random.normal(0, 0.1, leaf.shape).astype("float32"), variables), x


@pytest.mark.parametrize(("variant", "samples"), [("paper", 1), ("released", 2)])
@pytest.mark.parametrize("direction", CANDIDATES)
def test_a_path_is_a_mixture_of_one(direction, variant, samples):
  """In value and in the gradient of all parameters: those of other operations have none."""
  count = len(CANDIDATES[direction])
  modules, variables, x = modules_and_input(direction, count, samples, variant)
  choice = jnp.asarray(np.random.default_rng(0).permutation(count), jnp.int32)
  factors = jnp.arange(1.0, 5)

  @jax.jit
  def both(variables, weights):
    def value(variables):
      y = modules.apply(variables, x, weights)
      return (jnp.sin(y) * factors).sum(), y

    return jax.grad(value, has_aux=True)(variables)

  found = both(variables, Path(choice, jnp.full(count, 1.5)))
  expected = both(variables, 1.5 * jax.nn.one_hot(choice, count))
  for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize("direction", ["normal", "down"])
def test_operations_of_ones_own_are_on_paths_too(direction):
  modules, variables, x = modules_and_input(direction, 2, space=SearchSpace.of(("conv", "pool"), [DEPTHWISE, KERNEL]))
  count = len(modules.space.candidates[direction])
  apply = jax.jit(modules.apply)
  for column in range(count):
    choice = jnp.array([column, 0])
    found, expected = (apply(variables, x, w) for w in (Path(choice, jnp.ones(2)), jax.nn.one_hot(choice, count)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", CANDIDATES)
def test_the_mean_of_paths_is_the_mixture(direction):
  modules, variables, x = modules_and_input(direction, 2)
  alpha = jnp.asarray(np.random.default_rng(1).normal(size=(2, len(CANDIDATES[direction]))), jnp.float32)

  def draw(key):
    return modules.apply(variables, x, sampled_paths({"a": alpha}, key, 1.0)["a"]).mean((0, 1, 2, 3))

  drawn = np.asarray(jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.split(jax.random.key(2), 1000)))
  mixture = modules.apply(variables, x, jax.nn.softmax(alpha)).mean((0, 1, 2, 3))
  error = drawn.std(0) / len(drawn) ** 0.5
  assert (np.abs(drawn.mean(0) - mixture) < 4.5 * error + 1e-5).all()


def test_the_gradient_by_hand():
  """d weight / d alpha_j = p_c ((j = c) - p_j) / temperature, with p the softmax of the noisy log weights."""
  alpha, key, temperature = jnp.array([[0.3, -0.5, 1.0], [0.0, 2.0, 0.1]]), jax.random.key(7), 0.7
  path = sampled_paths({"a": alpha}, key, temperature)["a"]
  np.testing.assert_array_equal(path.weight, [1, 1])
  slopes = jnp.array([2.0, -3.0])
  found = jax.grad(lambda a: (sampled_paths({"a": a}, key, temperature)["a"].weight * slopes).sum())(alpha)
  noise = np.asarray(jax.random.gumbel(jax.random.split(key, 1)[0], alpha.shape))
  noisy = np.asarray(jax.nn.log_softmax(alpha)) + noise
  assert path.choice.tolist() == noisy.argmax(-1).tolist()
  soft = np.exp(noisy / temperature) / np.exp(noisy / temperature).sum(-1, keepdims=True)
  for edge, slope in enumerate((2.0, -3.0)):
    own = int(path.choice[edge])
    expected = slope * soft[edge, own] * (np.eye(3)[own] - soft[edge]) / temperature
    np.testing.assert_allclose(found[edge], expected, rtol=1e-4, atol=1e-6)


def test_the_strongest_path():
  paths = strongest_paths({"a": jnp.array([[0.0, 0, 0], [1, 3, 2]])})
  assert (paths["a"].choice.tolist(), paths["a"].weight.tolist()) == ([0, 1], [1, 1])


@pytest.mark.parametrize("space", [SearchSpace(), SearchSpace.of(("conv", "pool"), [DEPTHWISE, KERNEL])])
def test_the_paths_of_a_genotype_are_the_derived_network(space):
  config = NetworkConfig(kernels=1, nodes=2, depth=2, space=space)
  genotype = random_genotype(config, 1)
  if space.custom:
    down = (("merged", 0), ("down_conv", 1), ("merged", 1), ("depthwise5", 2))
    genotype = Genotype(down, (("depthwise5", 0), ("up_conv", 1), ("conv", 0), ("depthwise5", 2)), space)
  x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 8, 4), minval=10.0, maxval=110.0)
  net, derived = Supernet(config), DerivedNet(config, genotype)
  variables = net.init(jax.random.key(1), x)
  own = derived_variables(variables, genotype, config)
  wanted = jax.eval_shape(derived.init, jax.random.key(2), x)
  assert jax.tree.map(jnp.shape, own) == jax.tree.map(lambda leaf: leaf.shape, wanted)
  found = jax.jit(lambda v: net.apply(v, x, weights=genotype_paths(genotype, config)))(variables)
  np.testing.assert_allclose(found, jax.jit(derived.apply)(own, x), rtol=1e-4, atol=1e-6)
