"""Single operations: where their parameters start, what they promise, and how they treat wrong input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models import fused_operations
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet, Supernet
from nas3d_jax.models.operations import Operation, layer_shapes, parameter_shapes, stack
from nas3d_jax.models.search_space import CANDIDATES, operation_direction
from tests.support import reference

OPERATIONS = [name for names in CANDIDATES.values() for name in names]
# Inputs that one output sums, by the layer and by C (the paper's initialisation is PyTorch's).
FAN_IN = {
  "conv": lambda channels: 27 * channels,
  "depthwise": lambda channels: 27,
  "pointwise": lambda channels: channels,
  "project": lambda channels: channels,
  "squeeze": lambda channels: channels,
  "excite": lambda channels: 1,
}


def check_start(path, values, channels):
  """Uniform within 1 / sqrt(fan-in): inside the bound, of deviation bound / sqrt(3); a norm is 1 and 0."""
  *_, layer, name = path
  values = np.asarray(values)
  if layer == "norm":
    assert (values == (name == "scale")).all(), path
    return
  bound = 1 / math.sqrt(FAN_IN[layer](channels))
  assert np.abs(values).max() <= bound, path
  if values.size >= 100:
    # The mean square of n draws scatters by 0.9 / sqrt(n) of itself; its mean by 0.58 / sqrt(n) of the bound. Five of
    # these.
    assert abs(3 * np.square(values).mean() / bound**2 - 1) < 5 * 0.9 / math.sqrt(values.size), path
    assert abs(values.mean() / bound) < 5 * 0.58 / math.sqrt(values.size), path
    assert np.abs(values).max() > (1 - 20 / values.size) * bound, path


def leaves(tree):
  return [([key.key for key in path], value) for path, value in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.mark.parametrize("channels", [4, 48])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_single_operation_starts_from_its_fan_in(name, channels):
  variables = jax.jit(Operation(name, channels).init)(jax.random.key(0), jnp.zeros((1, 2, 2, 2, channels)))
  for path, values in leaves(variables):
    check_start(path, values, channels)


# Channels of the inputs of a layer in a network of 4 kernels, 3 nodes and depth 2, by stage: the cell's own, X0's and
# X1's.
WIDTHS = {
  "down_0": (8, 12, 12), "down_1": (16, 12, 24),
  "up_0": (16, 24, 48), "up_1": (8, 12, 48), "up_2": (4, 12, 24),
}  # fmt: skip
GENOTYPE = Genotype(
  down=(("down_conv", 0), ("down_dep_conv", 1), ("down_se_conv", 0), ("dil_conv", 2), ("max_pool", 1), ("conv", 3)),
  up=(("se_conv", 0), ("up_conv", 1), ("up_dep_conv", 1), ("identity", 2), ("dep_conv", 0), ("up_dil_conv", 1)),
)


@pytest.mark.parametrize("genotype", [None, GENOTYPE], ids=["supernet", "derived"])
def test_stacking_does_not_change_the_start(genotype):
  config = NetworkConfig(depth=2)
  net = Supernet(config) if genotype is None else DerivedNet(config, genotype)
  variables = jax.jit(net.init)(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 8, 4), jnp.float32))
  params = variables["params"]
  assert all((values == 0).all() for values in params.pop("hybrid", {}).values())
  for path, values in leaves(params):
    own, x0, x1 = WIDTHS.get(path[0], (4, 4, 4))
    channels = {"preprocess0": x0, "preprocess1": x1}.get(path[1], 12 if path[0] == "head" else own)
    check_start(path, values, channels)


def test_no_two_layers_start_alike():
  x = jax.ShapeDtypeStruct((1, 8, 8, 8, 4), jnp.float32)
  variables = jax.jit(Supernet(NetworkConfig(depth=2)).init)(jax.random.key(0), x)
  drawn = [np.asarray(v).ravel() for p, v in leaves(variables) if "norm" not in p and "hybrid" not in p]
  firsts = [tuple(values[:4]) for values in drawn if values.size >= 4]
  assert len(set(firsts)) == len(firsts) > 100


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_stacked_parameters_are_single_ones_side_by_side(name, variant):
  random = np.random.default_rng(0)
  singles = [
    {layer: {key: random.standard_normal(shape) for key, shape in arrays.items()} for layer, arrays in shapes.items()}
    for shapes in [layer_shapes(name, 6, variant)] * 3
  ]
  stacked = stack(singles, name, 6, variant)
  shapes = jax.tree.map(jnp.shape, stacked)
  assert shapes == layer_shapes(name, 6, variant, edges=3)
  for edge, single in enumerate(singles):
    again = reference.edge_parameters(stacked, name, 6, edge, variant)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-6), again, single)


def test_layouts():
  """Kernels hold their edges beside the outputs, as a convolution wants them."""
  shapes = layer_shapes("se_conv", 4, "paper", edges=3)
  assert shapes == {
    "squeeze": {"kernel": (4, 3), "bias": (3,)},
    "excite": {"kernel": (3, 4), "bias": (3, 4)},
    "conv": {"kernel": (3, 3, 3, 4, 3, 4), "bias": (3, 4)},
    "norm": {"scale": (3, 4), "bias": (3, 4)},
  }
  assert layer_shapes("dep_conv", 4, "paper", edges=3)["depthwise"]["kernel"] == (3, 3, 3, 4, 3)
  assert layer_shapes("dep_conv", 4, "paper", edges=3)["pointwise"]["kernel"] == (4, 3, 4)
  assert layer_shapes("max_pool", 4, "paper", edges=3) == {}
  assert set(layer_shapes("se_conv", 4, "released")) == {"squeeze", "excite"}
  assert set(layer_shapes("up_se_conv", 4, "released")) == {"squeeze", "excite", "conv", "norm"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_lengths(name):
  x = jax.ShapeDtypeStruct((2, 2, 4, 6, 3), jnp.float32)
  y, _ = jax.eval_shape(Operation(name, 3).init_with_output, jax.random.key(0), x)
  scale = {"normal": 1, "down": 1 / 2, "up": 2}[operation_direction(name)]
  assert y.shape == (2, *(int(scale * length) for length in (2, 4, 6)), 3)


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_pools_by_hand(name):
  """Of the blocks 0..7, 7..0 and 1..1: the gradient of equal voxels goes to the first, as in PyTorch."""
  block = np.arange(8.0, dtype=np.float32).reshape(2, 2, 2)
  x = np.concatenate([block, block[::-1, ::-1, ::-1], np.ones((2, 2, 2), np.float32)], axis=2)[None, ..., None]
  y, backward = jax.vjp(lambda x: Operation(name, 1).apply({}, x), x)
  (grad,) = backward(jnp.ones_like(y))
  first, last = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
  first[0, 0, 0], last[1, 1, 1] = 1, 1
  expected = np.concatenate([last, first, first], axis=2) if name == "max_pool" else np.full((2, 2, 6), 1 / 8)
  np.testing.assert_array_equal(y.ravel(), [7, 7, 1] if name == "max_pool" else [3.5, 3.5, 1])
  np.testing.assert_array_equal(grad[0, ..., 0], expected)


def test_half_precision_is_kept():
  x = jnp.ones((1, 2, 2, 2, 4), jnp.bfloat16)
  operation = Operation("max_pool", 4)
  assert operation.apply({}, x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ("name", "shape", "message"),
  [
    ("conv", (1, 4, 4, 4, 3), r"x must be \[N, D, H, W, 4\] for conv, got shape \(1, 4, 4, 4, 3\)"),
    ("conv", (4, 4, 4, 4), r"x must be \[N, D, H, W, 4\]"),
    ("max_pool", (1, 4, 3, 4, 4), r"even lengths to be halved by max_pool, got shape \(1, 4, 3, 4, 4\); pad it"),
    ("convolve", (1, 4, 4, 4, 4), r"operation must be one of identity, .*; got 'convolve'"),
  ],
)
def test_wrong_input(name, shape, message):
  with pytest.raises(InputError, match=message):
    Operation(name, 4).init(jax.random.key(0), jnp.zeros(shape))


def test_parameters_of_an_unknown_operation():
  with pytest.raises(InputError, match="got 'pool'"):
    parameter_shapes("pool", 4, "paper")


@pytest.mark.parametrize("summed", [True, False])
def test_an_operation_without_a_computation_is_no_silent_zero(summed):
  operations, weights = {"max_pool": {}, "pool": {}}, {"max_pool": jnp.ones(1), "pool": jnp.ones(1)}
  with pytest.raises(InputError, match=r"operations must be candidates .*, got 'pool'; add a case for it"):
    fused_operations.evaluate(jnp.ones((1, 2, 2, 2, 4)), operations, "down", "paper", weights, summed=summed)


def test_a_sum_is_that_of_the_operations():
  """Two edges of each of three operations: a pool, which has no norm, a convolution and a dilated one."""
  random = np.random.default_rng(0)
  operations = {
    name: {
      layer: {key: random.standard_normal(shape, np.float32) for key, shape in arrays.items()}
      for layer, arrays in layer_shapes(name, 4, edges=2).items()
    }
    for name in ("max_pool", "down_conv", "down_dil_conv")
  }
  x = random.standard_normal((1, 4, 6, 2, 4), np.float32)
  weights = {name: random.uniform(0.2, 1, 2).astype(np.float32) for name in operations}
  each = fused_operations.evaluate(x, operations, "down", "paper", weights, summed=False)
  (total,) = fused_operations.evaluate(x, operations, "down", "paper", weights, summed=True)
  assert [y.shape for y in each] == [(1, 2, 3, 1, 2, 4)] * 3
  np.testing.assert_allclose(total, sum(np.asarray(y, np.float64) for y in each), atol=1e-5)
  pooled = x.reshape(1, 2, 2, 3, 2, 1, 2, 4).max((2, 4, 6))
  np.testing.assert_allclose(each[0], pooled[..., None, :] * weights["max_pool"][:, None], rtol=1e-6)
