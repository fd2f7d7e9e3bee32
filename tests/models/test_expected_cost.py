"""The expected cost is that of the derived network where the weights are settled, and its gradient its slope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.expected_cost import make_expected_cost, operation_costs
from nas3d_jax.models.flops import forward_flops
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.hybrid_parameters import hybrid_shapes
from nas3d_jax.models.networks import DerivedNet, variable_shapes
from nas3d_jax.models.random_genotype import random_genotype
from nas3d_jax.models.search_space import SearchSpace, direction_of, edge_row
from tests.models.test_search_space import DEPTHWISE

CONFIG = NetworkConfig(kernels=2, nodes=2, depth=2)


def expected_cost(kind="flops"):
  return jax.jit(make_expected_cost(CONFIG, operation_costs(CONFIG, kind, 16)))


def settled(genotype):
  """Hybrid parameters that stand for a genotype: one-hot on the edges that it keeps, even on the others."""
  hybrid = {name: np.zeros(shape, np.float32) for name, shape in hybrid_shapes(CONFIG).items()}
  for cell in ("down", "up"):
    for index, (operation, state) in enumerate(getattr(genotype, cell)):
      direction = direction_of(cell, state)
      column = CONFIG.space.candidates[direction].index(operation)
      hybrid[f"{cell}_{direction}"][edge_row(cell, index // 2, state), column] = 200
  return hybrid


def of_cells(kind, genotype):
  """Counted from the network, without what all genotypes share."""
  net = DerivedNet(CONFIG, genotype)
  if kind == "flops":
    return forward_flops(net, 16)
  return sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(net)))


@pytest.mark.parametrize("kind", ["flops", "parameters"])
def test_settled_weights_cost_what_the_derived_network_does(kind):
  cost, genotypes = expected_cost(kind), [random_genotype(CONFIG, seed) for seed in range(6)]
  found = np.array([float(cost(settled(genotype))) for genotype in genotypes])
  counted = np.array([of_cells(kind, genotype) for genotype in genotypes], np.float64)
  # In one unit, and without what all networks share; the numbers are in single precision.
  costs = {name: costs.mean() for name, costs in operation_costs(CONFIG, kind, 16).items()}
  # Node 0 keeps both of its edges, node 1 two of three. Downward X0 and X1 are halved, upward X1 alone is doubled.
  unit = (2 + 4 / 3) * costs["down_down"] + 2 / 3 * costs["down_normal"]
  unit += (1 + 2 / 3) * costs["up_up"] + (1 + 4 / 3) * costs["up_normal"]
  np.testing.assert_allclose((found - found[0]) * unit, counted - counted[0], atol=1e-6 * unit)
  assert all(Genotype.from_hybrid(settled(genotype), CONFIG) == genotype for genotype in genotypes)


def test_a_random_genotype_costs_about_one():
  """The mean takes all pairs of edges as likely, draws are even over genotypes: nearly the same."""
  cost = expected_cost()
  drawn = [float(cost(settled(random_genotype(CONFIG, seed)))) for seed in range(200)]
  assert np.mean(drawn) == pytest.approx(1, abs=0.1)


def test_the_gradient_is_the_slope():
  cost, random = expected_cost(), np.random.default_rng(0)
  hybrid = {name: random.normal(size=shape).astype(np.float32) for name, shape in hybrid_shapes(CONFIG).items()}
  gradient = jax.grad(cost)(hybrid)
  for name, alpha in hybrid.items():
    for place in np.ndindex(alpha.shape):
      ends = []
      for step in (0.01, -0.01):
        moved = alpha.copy()
        moved[place] += step
        ends.append(float(cost({**hybrid, name: moved})))
      assert float(gradient[name][place]) == pytest.approx((ends[0] - ends[1]) / 0.02, abs=2e-4)


def test_a_great_weight_finds_the_cheapest_operations():
  cost, hybrid = expected_cost(), settled(random_genotype(CONFIG, 3))
  hybrid = {name: jnp.asarray(alpha) / 100 for name, alpha in hybrid.items()}
  lower = jax.jit(lambda hybrid: jax.tree.map(lambda a, g: a - jnp.sign(g) * 0.1, hybrid, jax.grad(cost)(hybrid)))
  for _ in range(100):
    hybrid = lower(hybrid)
  costs = operation_costs(CONFIG, "flops", 16)
  genotype = Genotype.from_hybrid(hybrid, CONFIG)
  for cell in ("down", "up"):
    for operation, state in getattr(genotype, cell):
      direction = direction_of(cell, state)
      own = costs[f"{cell}_{direction}"]
      assert own[CONFIG.space.candidates[direction].index(operation)] == own.min()


def test_operations_of_ones_own_have_no_known_cost():
  config = NetworkConfig(space=SearchSpace.of((), [DEPTHWISE]))
  with pytest.raises(InputError, match="the cost of operations of one's own is not known, got depthwise5; give"):
    operation_costs(config, "flops", 16)
