"""Random genotypes are drawn evenly, and what chance makes alike is what is computed."""

import collections
import itertools

import numpy as np
import pytest
from scipy import stats

from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.genotype_statistics import chance_overlap, edge_overlap, parameter_free_share, row_overlap
from nas3d_jax.models.random_genotype import random_genotype
from nas3d_jax.models.search_space import SearchSpace

SMALL = NetworkConfig(nodes=2, space=SearchSpace.of(("normal_conv", "identity", "max_pool", "up_conv")))


def test_every_genotype_is_as_likely():
  """A node of two reads a pair of three states; of the upward cell they have 2, 1 and 2 candidates: 2 + 4 + 2 ways."""
  drawn = [random_genotype(SMALL, seed) for seed in range(6000)]
  # Downward: node 0 has 1 way; node 1 reads X0 and X1 (1), or one of them and node 0 (2 each).
  down = collections.Counter(genotype.structure()[0] for genotype in drawn)
  up = collections.Counter(genotype.structure()[1] for genotype in drawn)
  assert (len(down), len(up)) == (1 * 5, 2 * 8)
  for counts in (down, up):
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_a_seed_is_a_genotype():
  config = NetworkConfig()
  assert random_genotype(config, 3) == random_genotype(config, 3)
  assert len({random_genotype(config, seed) for seed in range(20)}) == 20
  # Whatever the version of Python.
  assert random_genotype(config, 0).down[:2] == (("down_conv", 0), ("avg_pool", 1))


@pytest.mark.parametrize("config", [SMALL, NetworkConfig()])
def test_the_overlap_by_chance(config):
  drawn = [random_genotype(config, seed) for seed in range(400)]
  pairs = list(itertools.pairwise(drawn))
  for overlap, expected in zip((edge_overlap, row_overlap), chance_overlap(config), strict=True):
    found = np.array([overlap(*pair) for pair in pairs])
    assert abs(found.mean() - expected) < 5 * found.std() / len(pairs) ** 0.5


def test_overlaps_by_hand():
  one = Genotype((("max_pool", 0), ("down_conv", 1)), (("conv", 0), ("up_conv", 1)))
  other = Genotype((("avg_pool", 0), ("down_conv", 1)), (("conv", 0), ("up_dil_conv", 1)))
  assert (edge_overlap(one, other), row_overlap(one, other)) == (1, 0.5)
  assert edge_overlap(one, random_genotype(NetworkConfig(), 0)) == 0  # other nodes
  assert parameter_free_share(one) == 1 / 4
  assert parameter_free_share(Genotype(one.down, (("identity", 0), ("up_conv", 1)))) == 1 / 2
