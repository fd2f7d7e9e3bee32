"""The merged networks against the slow and obvious ones, and what they promise to those who use them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models.cells import DerivedCell, SearchCell
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet, Supernet, merge, partition
from nas3d_jax.models.search_space import CANDIDATES, direction_of
from nas3d_jax.training.losses import dice_loss
from tests.support import reference

# Lengths are multiples of 8, the smallest size of depth 2: even and odd ones, so that the deepest maps are 1, 2 and 3
# long.
ODD, EVEN, MIXED = (8, 8, 24), (16, 16, 16), (24, 8, 16)
ONE_NODE = Genotype(down=(("max_pool", 0), ("down_se_conv", 1)), up=(("se_conv", 0), ("up_se_conv", 1)))
# Both cells have one operation twice on one state, which are then evaluated together.
THREE_NODES = Genotype(
  down=(
    ("down_conv", 0), ("down_dil_conv", 1),
    ("down_conv", 0), ("se_conv", 2),
    ("avg_pool", 1), ("identity", 3),
  ),
  up=(
    ("dil_conv", 0), ("up_se_conv", 1),
    ("up_dil_conv", 1), ("conv", 2),
    ("up_se_conv", 1), ("dep_conv", 2),
  ),
)  # fmt: skip


def make(config, batch, lengths, genotype=None):
  net = Supernet(config) if genotype is None else DerivedNet(config, genotype)
  random = np.random.default_rng(0)
  x = random.uniform(10, 110, (batch, *lengths, config.in_channels)).astype(np.float32)
  x[:, : lengths[0] // 4] = 0
  # Away from their start, so that a scale of 1 or a hybrid parameter of 0 hides nothing.
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)
  return net, jax.tree.map(lambda leaf: 0.5 * random.standard_normal(leaf.shape, np.float32), shapes), x


def doubles(variables):
  return jax.tree.map(lambda value: np.asarray(value, np.float64), variables)


# The golden arrays are of 3 nodes, "released", batch 2.
NETWORKS = [
  pytest.param(1, "paper", 2, EVEN, None, id="supernet-1-node-batch-2"),
  pytest.param(3, "paper", 1, ODD, None, id="supernet-3-nodes"),
  pytest.param(1, "released", 1, EVEN, ONE_NODE, id="derived-1-node-released"),
  pytest.param(3, "paper", 1, ODD, THREE_NODES, id="derived-3-nodes"),
  pytest.param(3, "paper", 2, MIXED, THREE_NODES, id="derived-3-nodes-batch-2"),
]


@pytest.mark.parametrize(("nodes", "variant", "batch", "lengths", "genotype"), NETWORKS)
def test_merged_equals_one_operation_at_a_time(nodes, variant, batch, lengths, genotype):
  config = NetworkConfig(kernels=3, nodes=nodes, depth=2, variant=variant)
  net, variables, x = make(config, batch, lengths, genotype)
  with jax.default_matmul_precision("float32"):
    got = jax.jit(net.apply)(variables, x)
  expected = reference.network(config, doubles(variables), x, genotype)
  assert got.dtype == jnp.float32
  assert expected.std() > 0.02, "a saturated network would show nothing"
  np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


LAYERS = ("hybrid", "conv", "depthwise", "pointwise", "squeeze", "excite", "project", "norm")


def test_gradients_are_the_slopes_of_the_reference():
  """Along one random direction for every kind of layer, by central differences in float64."""
  config = NetworkConfig(kernels=2, nodes=1, depth=2)
  net, variables, x = make(config, 1, ODD)
  cotangent = np.random.default_rng(3).standard_normal((*x.shape[:4], 3))

  @jax.jit
  def gradient(variables):
    return jax.grad(lambda variables: jnp.vdot(net.apply(variables, x), cotangent.astype(np.float32)))(variables)

  with jax.default_matmul_precision("float32"):
    ours = jax.tree_util.tree_leaves_with_path(gradient(variables))
  values, treedef = jax.tree.flatten(doubles(variables))
  layers = [next(name for name in reversed([key.key for key in path]) if name in LAYERS) for path, _ in ours]
  assert set(layers) == set(LAYERS)
  for layer in LAYERS:
    random = np.random.default_rng(4)
    ways = [random.standard_normal(v.shape) * (own == layer) for v, own in zip(values, layers, strict=True)]

    def along(step, ways=ways):
      moved = [value + step * way for value, way in zip(values, ways, strict=True)]
      return np.vdot(reference.network(config, treedef.unflatten(moved), x), cotangent)

    slope = (along(1e-6) - along(-1e-6)) / 2e-6
    parts = [float(np.vdot(g, way)) for (_, g), way in zip(ours, ways, strict=True)]
    scale = np.sqrt(sum(np.square(g * (own == layer)).sum() for (_, g), own in zip(ours, layers, strict=True)))
    assert abs(sum(parts) - slope) <= 1e-3 * scale, layer


def stages(config, lengths):
  """Shape of what every direct part of the network returns, by its name, without computing."""
  net = Supernet(config)
  x = jax.ShapeDtypeStruct((1, *lengths, config.in_channels), jnp.float32)
  direct = functools.partial(net.init_with_output, capture_intermediates=lambda module, _: len(module.path) == 1)
  _, state = jax.eval_shape(direct, jax.random.key(0), x)
  named = {name: value["__call__"][0].shape for name, value in state["intermediates"].items() if name != "__call__"}
  assert named.pop("Dropout_0") == named[f"up_{config.depth}"]
  return named


def test_channels_and_sizes_of_the_stages():
  """The table of the design, at 64^3: 4 kernels, 3 nodes, depth 4."""
  table = {
    "stem0": (12, 64), "stem1": (12, 32),
    "down_0": (24, 16), "down_1": (48, 8), "down_2": (96, 4), "down_3": (192, 2),
    "up_0": (192, 4), "up_1": (96, 8), "up_2": (48, 16), "up_3": (24, 32), "up_4": (12, 64),
    "head": (3, 64),
  }  # fmt: skip
  got = stages(NetworkConfig(), (64, 64, 64))
  assert got == {name: (1, size, size, size, channels) for name, (channels, size) in table.items()}


@pytest.mark.parametrize(
  "config",
  [
    NetworkConfig(nodes=1, depth=2, in_channels=1, out_channels=1),
    NetworkConfig(nodes=2, depth=3, in_channels=2, kernels=3),
    NetworkConfig(nodes=4, depth=2, out_channels=5, variant="released"),
  ],
  ids=lambda config: f"{config.nodes}-nodes-depth-{config.depth}",
)
def test_other_sizes(config):
  """Lengths double from stage to stage, a third axis of its own length among them; widths are nodes m 2^i."""
  unit = config.multiple
  got = stages(config, (unit, 3 * unit, 2 * unit))
  width = config.nodes * config.kernels
  for level in range(config.depth):
    scale = 2 ** (level + 2)
    assert got[f"down_{level}"] == (1, unit // scale, 3 * unit // scale, 2 * unit // scale, width * 2 ** (level + 1))
  for level in range(config.depth + 1):
    scale = 2 ** (config.depth - level)
    assert got[f"up_{level}"] == (1, unit // scale, 3 * unit // scale, 2 * unit // scale, width * scale)
  assert got["head"] == (1, unit, 3 * unit, 2 * unit, config.out_channels)


def test_hybrid_parameters_start_at_zero(tiny):
  hybrid, _ = partition(tiny.variables)
  shapes = {"down_down": (2, 6), "up_normal": (1, 5), "up_up": (1, 4)}
  assert {name: value.shape for name, value in hybrid["params"]["hybrid"].items()} == shapes
  assert not any(value.any() for value in jax.tree.leaves(hybrid))


def test_partition_and_merge(tiny):
  hybrid, kernel = jax.jit(partition)(tiny.variables)
  assert set(hybrid["params"]) == {"hybrid"}
  assert "hybrid" not in kernel["params"]
  again = jax.jit(merge)(hybrid, kernel)
  assert jax.tree.structure(again) == jax.tree.structure(tiny.variables)
  assert jax.tree.all(jax.tree.map(np.array_equal, again, tiny.variables))


def test_partition_wants_a_supernets_variables():
  with pytest.raises(InputError, match=r"must be a supernet's.*got params of \['stem0'\]"):
    partition({"params": {"stem0": {}}})


def test_init_is_the_same_under_jit_and_by_shape(tiny):
  shape = jax.ShapeDtypeStruct(tiny.image.shape, tiny.image.dtype)
  jitted = jax.jit(tiny.net.init)({"params": jax.random.key(0)}, shape)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), jitted, tiny.variables)
  other = tiny.net.init(jax.random.key(1), shape)
  stems = [variables["params"]["stem0"]["project"]["kernel"] for variables in (other, tiny.variables)]
  assert not np.array_equal(*stems)


def test_loss_has_a_gradient_by_shape(tiny):
  def loss(hybrid, kernel, x):
    return dice_loss(tiny.net.apply(merge(hybrid, kernel), x), tiny.target)

  hybrid, kernel = partition(tiny.variables)
  got = jax.eval_shape(jax.grad(loss), hybrid, kernel, tiny.image)
  assert jax.tree.map(lambda leaf: leaf.shape, got) == jax.tree.map(jnp.shape, hybrid)


def test_dropout_needs_a_key_only_while_training(tiny):
  jax.eval_shape(tiny.net.apply, tiny.variables, tiny.image)
  with pytest.raises(Exception, match="dropout"):
    jax.eval_shape(functools.partial(tiny.net.apply, train=True), tiny.variables, tiny.image)


def test_dropout_drops_whole_channels(tiny):
  """2 channels stand before the head: whatever the key, each is dropped or doubled in all voxels."""
  net = Supernet(tiny.config, dropout_rate=0.5)

  @jax.jit
  def apply(key):
    def last(module, method):
      return module.name == "up_2"

    return net.apply(tiny.variables, tiny.image, train=True, rngs={"dropout": key}, capture_intermediates=last)

  head, seen = tiny.variables["params"]["head"]["project"], set()
  for seed in range(12):
    got, state = apply(jax.random.key(seed))
    (features,) = state["intermediates"]["up_2"]["__call__"]
    choices = [
      reference.sigmoid(features * np.array(kept) @ head["kernel"] + head["bias"])
      for kept in ((0, 0), (0, 2), (2, 0), (2, 2))
    ]
    off = [np.abs(got - choice).max() for choice in choices]
    assert min(off) < 1e-5
    seen.add(int(np.argmin(off)))
  assert len(seen) > 1


@pytest.mark.parametrize(("net", "rate"), [(Supernet, 0.1), (functools.partial(DerivedNet, genotype=ONE_NODE), 0.5)])
def test_default_dropout_rate(tiny, net, rate):
  assert net(config=tiny.config).dropout_rate == rate


@pytest.mark.parametrize(
  ("shape", "dtype", "message"),
  [
    ((1, 16, 16, 12, 4), "float32", r"multiples of 8 \(2 \*\* \(depth \+ 1\)\), got \(1, 16, 16, 12, 4\)"),
    ((1, 0, 16, 16, 4), "float32", r"multiples of 8"),
    ((1, 16, 16, 16, 3), "float32", r"\[N, D, H, W, 4\], got float32 of shape \(1, 16, 16, 16, 3\)"),
    ((16, 16, 16, 4), "float32", r"\[N, D, H, W, 4\]"),
    ((1, 16, 16, 16, 4), "int16", r"floating-point array.*got int16"),
  ],
)
@pytest.mark.parametrize("method", ["init", "apply"])
def test_wrong_input(tiny, method, shape, dtype, message):
  x = jax.ShapeDtypeStruct(shape, dtype)
  first = jax.random.key(0) if method == "init" else tiny.variables
  with pytest.raises(InputError, match=message):
    jax.eval_shape(getattr(tiny.net, method), first, x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_wrong_dropout_rate(tiny, rate):
  with pytest.raises(InputError, match=r"dropout_rate must be at least 0 and below 1, got"):
    jax.eval_shape(Supernet(tiny.config, dropout_rate=rate).init, jax.random.key(0), tiny.image)


def test_genotype_of_another_number_of_nodes(tiny):
  net = DerivedNet(tiny.config, THREE_NODES)
  with pytest.raises(InputError, match=r"genotype has 3 nodes a cell, but the network has nodes=1"):
    jax.eval_shape(net.init, jax.random.key(0), tiny.image)


@pytest.mark.parametrize(("kind", "lengths"), [("down", (2, 4, 6)), ("up", (8, 16, 24))])
def test_cells_stand_alone(kind, lengths):
  """X0 has twice the lengths of X1, here 4, 8, 12; a cell halves or doubles the latter."""
  x0, x1 = jnp.zeros((1, 8, 16, 24, 5)), jnp.zeros((1, 4, 8, 12, 7))
  weights = {
    direction: jnp.ones((rows, len(names)))
    for direction, names in CANDIDATES.items()
    if (rows := sum(direction_of(kind, state) == direction for state in (0, 1, 0, 1, 2)))
  }
  cell = SearchCell(kind, channels=6, nodes=2)
  assert jax.eval_shape(cell.init_with_output, jax.random.key(0), x0, x1, weights)[0].shape == (1, *lengths, 12)
  rows = getattr(ONE_NODE, kind)
  derived = DerivedCell(kind, channels=6, rows=rows)
  assert jax.eval_shape(derived.init_with_output, jax.random.key(0), x0, x1)[0].shape == (1, *lengths, 6)
