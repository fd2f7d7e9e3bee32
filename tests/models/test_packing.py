"""One vector for a tree of parameters: no number is lost or moved, and what is read together stands together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models import fused_operations, group_norm
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet, Supernet, partition
from nas3d_jax.models.packing import PACKED, PackedNet, Packing
from nas3d_jax.models.search_space import CANDIDATES
from tests.support import reference

GENOTYPE = Genotype(down=(("down_conv", 0), ("down_dep_conv", 1)), up=(("identity", 0), ("up_se_conv", 1)))


def filled(tree, scale=0.5):
  """Other numbers everywhere, so that two arrays that are exchanged are seen."""
  random = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: scale * random.standard_normal(leaf.shape, np.float32), tree)


def small():
  """A tree whose keys are in no order, with a scalar among its leaves."""
  norms = {"scale": np.zeros((2, 3)), "bias": np.zeros((2, 3))}
  return filled({
    "stem": {"project": {"kernel": np.zeros(2), "bias": np.zeros(())}},
    "cell": {"state_1": {"conv": {"norm": norms}, "identity": {"norm": norms}}},
  })


def bits(array):
  array = np.asarray(array)
  assert array.dtype == np.float32
  return array.view(np.uint32)


def assert_same_bits(got, expected):
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(bits(a), bits(b), strict=True), got, expected)


def kernels(variables):
  return {name: leaf for name, leaf in variables["params"].items() if name != "hybrid"}


@pytest.mark.parametrize("which", ["small", "supernet"])
def test_round_trip_to_the_bit(which, tiny):
  tree = small() if which == "small" else filled(kernels(tiny.variables))
  largest = max(jax.tree.leaves(tree), key=np.size)
  # What a sum or a product would change.
  largest.ravel()[:5] = np.float32([-0.0, 1e-42, np.inf, -np.inf, np.nan])
  packing = Packing(tree)
  vector = packing.pack(tree)
  assert vector.shape == (packing.size,) == (sum(map(np.size, jax.tree.leaves(tree))),)
  assert_same_bits(packing.unpack(vector), tree)
  assert_same_bits(packing.unpack(jnp.asarray(vector)), tree)
  assert_same_bits(jax.jit(packing.read)(vector), tree)
  assert_same_bits(packing.pack(packing.unpack(vector)), vector)


def test_shapes_alone_make_a_packing():
  tree = small()
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), tree)
  assert_same_bits(Packing(shapes).pack(tree), Packing(tree).pack(tree))


@pytest.mark.parametrize("which", ["small", "supernet"])
def test_tree_order_is_that_of_jax(which, tiny):
  tree = small() if which == "small" else filled(kernels(tiny.variables))
  packing = Packing(tree)
  expected = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
  vector = packing.pack(tree)
  assert_same_bits(packing.in_tree_order(vector), expected)
  assert_same_bits(packing.in_tree_order(jnp.asarray(vector)), expected)
  assert_same_bits(packing.in_own_order(expected), vector)
  assert_same_bits(packing.in_tree_order(packing.in_own_order(expected)), expected)
  assert not np.array_equal(vector, expected), "one order would be tested against itself"


def test_own_order_by_hand():
  """Module by module; within one, the same array of all its operations, in the order in which they are read."""
  tree = small()
  conv, identity = (tree["cell"]["state_1"][name]["norm"] for name in ("conv", "identity"))
  stem = tree["stem"]["project"]
  parts = [identity["bias"], conv["bias"], identity["scale"], conv["scale"], stem["bias"], stem["kernel"]]
  assert_same_bits(Packing(tree).pack(tree), np.concatenate([part.ravel() for part in parts]))


def test_the_gradient_of_reading_packs_the_trees_gradient():
  """Of leaf k, its number times half its square: the gradient is that number times the leaf, by hand."""
  tree = small()
  packing = Packing(tree)
  vector = packing.pack(tree)

  def value(tree):
    return sum(number * jnp.sum(leaf**2) / 2 for number, leaf in enumerate(jax.tree.leaves(tree), 1))

  leaves, structure = jax.tree.flatten(tree)
  expected = packing.pack(structure.unflatten([number * leaf for number, leaf in enumerate(leaves, 1)]))
  gradient = jax.grad(lambda vector: value(packing.read(vector)))
  np.testing.assert_allclose(jax.jit(gradient)(vector), expected, rtol=1e-6)
  # And of that gradient: the numbers themselves.
  again = jax.jit(jax.grad(lambda vector: jnp.sum(gradient(vector))))(vector)
  numbers = [np.full(leaf.shape, number, np.float32) for number, leaf in enumerate(leaves, 1)]
  np.testing.assert_allclose(again, packing.pack(structure.unflatten(numbers)), rtol=1e-6)


def test_what_is_not_read_has_no_gradient():
  tree = small()
  packing = Packing(tree)
  got = jax.jit(jax.grad(lambda vector: jnp.sum(packing.read(vector)["stem"]["project"]["kernel"])))(packing.pack(tree))
  expected = jax.tree.map(np.zeros_like, tree)
  expected["stem"]["project"]["kernel"][:] = 1
  np.testing.assert_array_equal(got, packing.pack(expected))


# What is read together, by hand: the raw arrays are the state itself, the dilated convolution, then the dense one.
READ = {
  "normal": ("identity", "dil_conv", "se_conv", "dep_conv", "conv"),
  "down": ("down_dil_conv", "down_se_conv", "down_dep_conv", "down_conv"),
  "up": ("up_dil_conv", "up_se_conv", "up_dep_conv", "up_conv"),
}
STATES = pytest.mark.parametrize(
  ("direction", "cell", "state"),
  [
    ("normal", "down_1", "state_2"),
    ("normal", "up_0", "state_0"),
    ("down", "down_0", "state_1"),
    ("up", "up_2", "state_1"),
  ],
)


@pytest.fixture(scope="module")
def places():
  """The parameters of a supernet of 2 nodes, each number its own place in the vector; nothing is computed."""
  net = Supernet(NetworkConfig(kernels=2, nodes=2, depth=2))
  shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 8, 4), jnp.float32))
  packing = PackedNet(net, shapes).packing
  assert packing.size < 2**24, "float32 counts no further"
  return packing.unpack(np.arange(packing.size, dtype=np.float32))


def in_one_piece(parts):
  numbers = np.concatenate([np.ravel(part) for part in parts])
  return np.array_equal(numbers, numbers[0] + np.arange(numbers.size))


@STATES
@pytest.mark.parametrize("name", ["scale", "bias"])
def test_norms_of_a_state_stand_side_by_side(places, direction, cell, state, name):
  names = READ[direction]
  assert sorted(names, key=fused_operations.rank) == list(names)
  parts = [places[cell][state][operation]["norm"][name] for operation in names]
  assert all(part.shape == parts[0].shape for part in parts)
  assert in_one_piece(parts)


def test_what_is_not_read_together_stands_apart(places):
  first, second = (places["down_0"][state]["down_conv"]["norm"]["scale"] for state in ("state_0", "state_1"))
  assert not in_one_piece([first, second])
  norms = places["down_0"]["state_0"]["down_conv"]["norm"]
  assert not in_one_piece([norms["scale"], norms["bias"]])


@STATES
def test_fused_operations_read_the_vector_in_order(monkeypatch, places, direction, cell, state):
  """The rows that the norm is given are consecutive numbers of the vector."""
  given = places[cell][state]
  operations = {name: given.get(name, {}) for name in CANDIDATES[direction]}
  edges, channels = given[READ[direction][0]]["norm"]["scale"].shape
  seen = []

  def normalized(raws, bias, scale, shift, weight, layout, summed):
    seen.extend((scale, shift))
    return (jnp.zeros(()),)

  monkeypatch.setattr(group_norm, "normalized", normalized)

  @jax.jit
  def rows():
    x, weights = jnp.ones((1, 2, 2, 2, channels)), {name: jnp.ones(edges) for name in operations}
    fused_operations.evaluate(x, operations, direction, "paper", weights, summed=True)
    return tuple(seen)

  scale, shift = rows()
  for part in (scale, shift):
    assert part.shape == (len(READ[direction]) * edges, channels)
    assert in_one_piece([part])
  np.testing.assert_array_equal(scale[:edges], given[READ[direction][0]]["norm"]["scale"])


@pytest.mark.parametrize("which", ["supernet", "derived"])
def test_a_packed_network_computes_the_network(which, tiny):
  """Against the slow reference, on the tree; the smallest volume that there is."""
  image = tiny.image[:, :8, :8, :8]
  genotype = None if which == "supernet" else GENOTYPE
  net = tiny.net if genotype is None else DerivedNet(tiny.config, genotype)
  variables = filled(jax.eval_shape(net.init, jax.random.key(0), image))
  packed = PackedNet(net, variables)
  with jax.default_matmul_precision("float32"):
    got = jax.jit(packed.apply)(packed.pack(variables), image)
  double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
  expected = reference.network(tiny.config, double, image, genotype)
  assert expected.std() > 0.02, "a saturated network would show nothing"
  np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


def test_arguments_go_on_to_the_network(tiny):
  """Dropout is off without `train`, and needs its key with it."""
  packed = PackedNet(tiny.net, tiny.variables)
  variables = packed.pack(tiny.variables)
  shape = jax.eval_shape(packed.apply, variables, tiny.image)
  assert shape.shape == tiny.target.shape
  with pytest.raises(Exception, match="dropout"):
    jax.eval_shape(functools.partial(packed.apply, train=True), variables, tiny.image)


def test_hybrid_parameters_stay_apart(tiny):
  variables = filled(tiny.variables)
  packed = PackedNet(tiny.net, variables)
  flat = packed.pack(variables)
  hybrid, kernel = partition(flat)
  assert_same_bits(hybrid["params"]["hybrid"], variables["params"]["hybrid"])
  assert set(kernel["params"]) == {PACKED}
  assert isinstance(kernel["params"][PACKED], jax.Array)
  assert_same_bits(kernel["params"][PACKED], packed.packing.pack(kernels(variables)))
  assert_same_bits(packed.unpack(flat), variables)
  assert set(variables["params"]) == set(tiny.variables["params"]), "what is packed is left as it was"


def test_a_network_without_hybrid_parameters(tiny):
  net = DerivedNet(tiny.config, GENOTYPE)
  variables = filled(jax.eval_shape(net.init, jax.random.key(0), tiny.image))
  packed = PackedNet(net, variables)
  flat = packed.pack(variables)
  assert set(flat["params"]) == {PACKED}
  assert_same_bits(packed.unpack(flat), variables)


def test_what_is_unpacked_outlives_a_donation():
  """A step writes over the vector it is given; a tree that was read before keeps its numbers."""
  tree = small()
  packing = Packing(tree)
  vector = jnp.asarray(packing.pack(tree)) + 0
  before = packing.unpack(vector)
  jax.jit(lambda vector: vector + 1, donate_argnums=0)(vector).block_until_ready()
  assert_same_bits(before, tree)


def test_a_tree_without_parameters_is_refused():
  with pytest.raises(InputError, match="tree must have at least one parameter, got none"):
    Packing({})
