"""Search spaces: parts of Table 1, and operations of the user's own inside the networks."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models.cells import DerivedCell, HybridModules
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.flops import forward_flops
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.hybrid_parameters import hybrid_shapes
from nas3d_jax.models.networks import DerivedNet, Supernet, variable_shapes
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.models.search_space import PAPER_SPACE, CustomOperation, SearchSpace
from tests.support import reference


class Depthwise5(nn.Module):
  """A 5x5x5 depthwise convolution and ReLU."""

  channels: int

  @nn.compact
  def __call__(self, x):
    return nn.relu(nn.Conv(self.channels, (5, 5, 5), feature_group_count=self.channels, dtype=x.dtype)(x))


class Kernel(nn.Module):
  """The kernel of a 3x3x3 convolution, all ones on the diagonal of the channels."""

  channels: int

  @nn.compact
  def __call__(self):
    return self.param("taps", nn.initializers.normal(0.1), (3, 3, 3, self.channels, self.channels))


DEPTHWISE = CustomOperation("depthwise5", "normal", Depthwise5)
KERNEL = CustomOperation("merged", "down", Kernel, dense=True)


@pytest.mark.parametrize(
  ("words", "down", "up", "normal"),
  [
    ((), PAPER_SPACE.down, PAPER_SPACE.up, PAPER_SPACE.normal),
    (("conv",), ("down_conv",), ("up_conv",), ("conv",)),
    (("conv", "pool", "identity"), ("avg_pool", "max_pool", "down_conv"), ("up_conv",), ("identity", "conv")),
    (
      ("max_pool", "up_dil_conv", "normal_conv", "down_se_conv"),
      ("max_pool", "down_se_conv"), ("up_dil_conv",), ("conv",),
    ),
  ],
)
def test_words_name_families_and_single_operations(words, down, up, normal):
  assert SearchSpace.of(words) == SearchSpace(down, up, normal)


def test_operations_of_ones_own_stand_behind_the_others():
  space = SearchSpace.of(("conv",), [DEPTHWISE, KERNEL])
  assert space.candidates == {"normal": ("conv", "depthwise5"), "down": ("down_conv", "merged"), "up": ("up_conv",)}
  assert hybrid_shapes(NetworkConfig(nodes=1, space=space)) == {
    "down_down": (2, 2), "up_normal": (1, 2), "up_up": (1, 1)
  }
  known = SearchSpace.from_dict(space.to_dict())
  assert known == space
  with pytest.raises(InputError, match=r"operation 'merged' is not one of Table 1; give its CustomOperation in `oper"):
    known.custom_operation("merged")
  assert known.with_operations([KERNEL]).custom_operation("merged").module is Kernel
  assert known.custom_operation("conv") is None


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: SearchSpace.of(["conv", "sep_conv"]), "operations must be of avg_pool, conv, dep_conv, .* got 'sep_conv'"),
    (lambda: SearchSpace.of(["pool", "conv", "normal_pool"]), "got 'normal_pool'"),
    (lambda: SearchSpace.of(["identity"]), r"each direction, got none of direction 'down' in identity; add one of"),
    (lambda: SearchSpace(up=()), r"a search space needs candidates of direction 'up', got \(\); name one"),
    (lambda: SearchSpace(up=("conv",)), "candidates of direction 'up' are of up_se_conv, .*; got 'conv'"),
    (lambda: SearchSpace(up=("mine",)), "got 'mine'"),
    (lambda: SearchSpace(normal=("conv", "conv")), "candidates of direction 'normal' must differ, got conv, conv"),
    (lambda: SearchSpace(normal="conv"), "needs candidates of direction 'normal', got 'conv'"),
    (lambda: SearchSpace.of((), [DEPTHWISE, DEPTHWISE]), "operations must have different names, got depthwise5, depth"),
    (lambda: CustomOperation("conv", "down", Kernel), "name of an operation must be an identifier without the names"),
    (lambda: CustomOperation("up_identity", "up", Kernel), "got 'up_identity'"),
    (lambda: CustomOperation("a/b", "down", Kernel), "got 'a/b'"),
    (lambda: CustomOperation("mine", "sideways", Kernel), "direction of mine must be one of normal, down, up, got 'si"),
    (lambda: SearchSpace.from_dict({"down": ["down_conv"]}), "must have the directions normal, down, up, got"),
    (lambda: SearchSpace.from_dict({"down": [1], "up": [], "normal": []}), "a list of names for each direction"),
    (lambda: NetworkConfig(space="conv"), "space must be a SearchSpace, got 'conv'"),
  ],
)
def test_wrong_spaces(make, message):
  with pytest.raises(InputError, match=message):
    make()


def test_a_configuration_and_a_genotype_carry_the_space():
  space = SearchSpace.of(("conv", "identity"), [DEPTHWISE])
  config = NetworkConfig(nodes=1, space=space)
  assert NetworkConfig.from_dict(config.to_dict()) == config
  assert "space" not in NetworkConfig().to_dict()
  genotype = Genotype((("down_conv", 0), ("down_conv", 1)), (("depthwise5", 0), ("up_conv", 1)), space)
  genotype.check(config)
  read = Genotype.from_json(genotype.to_json())
  assert (read, read.space) == (genotype, space)
  with pytest.raises(InputError, match=r"genotype is of the search space \{.*depthwise5.*\}, but the network has"):
    genotype.check(NetworkConfig(nodes=1))
  with pytest.raises(InputError, match=r"genotype.up\[0\]: operation must be one of identity, .*; got 'depthwise5'"):
    Genotype(genotype.down, genotype.up)
  with pytest.raises(InputError, match=r"genotype.down\[0\]: operation must be one of .*; got 'max_pool'"):
    Genotype((("max_pool", 0), ("down_conv", 1)), genotype.up, space)


def test_hybrid_parameters_choose_among_the_space():
  space = SearchSpace.of(("conv", "dil_conv"), [DEPTHWISE])
  hybrid = {name: np.zeros(shape) for name, shape in hybrid_shapes(NetworkConfig(nodes=1, space=space)).items()}
  hybrid["up_normal"][0, 2] = 1
  hybrid["down_down"][:, 1] = 1
  genotype = Genotype.from_hybrid(hybrid, NetworkConfig(nodes=1, space=space))
  assert genotype.down == (("down_conv", 0), ("down_conv", 1))
  assert genotype.up == (("depthwise5", 0), ("up_conv", 1))


def test_a_part_of_table_1_against_numpy(tiny):
  config = NetworkConfig(kernels=1, nodes=1, depth=2, space=SearchSpace.of(("max_pool", "dep_conv", "identity")))
  net, x = Supernet(config), tiny.image[:, :8, :8, :8]
  variables = net.init(jax.random.key(1), x)
  assert "se_conv" not in variables["params"]["up_0"]["state_0"]
  variables["params"]["hybrid"]["up_normal"] = jnp.array([[0.3, -1.0]])
  np.testing.assert_allclose(
    jax.jit(net.apply)(variables, x), reference.network(config, variables, x), rtol=2e-4, atol=2e-6
  )


def test_a_mixture_with_an_operation_that_is_not_dense():
  """Against the same module applied to each edge, and weighed, by hand."""
  space, x = SearchSpace.of(("identity", "conv"), [DEPTHWISE]), jax.random.normal(jax.random.key(2), (1, 4, 6, 4, 3))
  modules = HybridModules("normal", 3, 2, space=space)
  weights = jnp.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
  variables = modules.init(jax.random.key(3), x, weights)
  own = variables["params"]["depthwise5"]["custom_depthwise5"]
  assert own["Conv_0"]["kernel"].shape == (2, 5, 5, 5, 1, 3)
  assert not np.array_equal(*own["Conv_0"]["kernel"])
  y = modules.apply(variables, x, weights)
  without = HybridModules("normal", 3, 2, space=SearchSpace.of(("identity", "conv")))
  expected = np.array(without.apply(variables, x, weights[:, :2]))
  for edge in range(2):
    single = jax.tree.map(lambda leaf, edge=edge: leaf[edge], own)
    expected[..., edge, :] += weights[edge, 2] * Depthwise5(3).apply({"params": single}, x)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_a_dense_operation_is_one_of_the_convolutions():
  """With the parameters of "down_conv" it gives what that gives, in a mixture and in a derived cell."""
  x, weights = jax.random.normal(jax.random.key(2), (2, 4, 6, 4, 3)), jnp.array([[0.2, 0.8], [0.7, 0.3]])
  plain = HybridModules("down", 3, 2, space=SearchSpace(down=("max_pool", "down_conv")))
  variables = plain.init(jax.random.key(3), x, weights)
  conv = variables["params"].pop("down_conv")
  merged = {"taps": {"custom_merged": {"taps": jnp.moveaxis(conv["conv"].pop("kernel"), -2, 0)}}, **conv}
  own = HybridModules("down", 3, 2, space=SearchSpace(down=("max_pool", "merged"), custom=(KERNEL,)))
  drawn = own.init(jax.random.key(3), x, weights)["params"]["merged"]
  assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, merged)
  conv["conv"]["kernel"] = jnp.moveaxis(merged["taps"]["custom_merged"]["taps"], 0, -2)
  np.testing.assert_array_equal(
    own.apply({"params": {**variables["params"], "merged": merged}}, x, weights),
    plain.apply({"params": {**variables["params"], "down_conv": conv}}, x, weights),
  )
  # Both rows of a derived cell are computed at once.
  x0, x1 = jnp.ones((1, 8, 8, 8, 3)), jax.random.normal(jax.random.key(4), (1, 4, 4, 4, 3))
  rows = (("down_conv", 0), ("down_conv", 1))
  cell = DerivedCell("down", 3, rows)
  params = cell.init(jax.random.key(5), x0, x1)["params"]
  expected = cell.apply({"params": params}, x0, x1)
  for name in ("op_0", "op_1"):
    params[name]["taps"] = {"custom_merged": {"taps": params[name]["conv"].pop("kernel")}}
  cell = DerivedCell("down", 3, tuple(("merged", state) for _, state in rows), space=own.space)
  np.testing.assert_array_equal(cell.apply({"params": params}, x0, x1), expected)


def test_networks_with_operations_of_ones_own_draw_the_modules_own_values():
  space = SearchSpace.of(("conv",), [DEPTHWISE, KERNEL])
  config = NetworkConfig(kernels=1, nodes=1, depth=2, space=space)
  x = jax.ShapeDtypeStruct((1, 8, 8, 8, 4), jnp.float32)
  params = Supernet(config).init(jax.random.key(0), x)["params"]
  states = [params[f"down_{level}"][f"state_{state}"] for level in (0, 1) for state in (0, 1)]
  taps = [state["merged"]["taps"]["custom_merged"]["taps"] for state in states]
  # Kernel draws with a deviation of 0.1.
  assert [leaf.shape for leaf in taps] == [(1, 3, 3, 3, c, c) for c in (2, 2, 4, 4)]
  assert all(abs(float(leaf.std()) - 0.1) < 0.03 for leaf in taps)
  assert not np.array_equal(taps[0], taps[1])
  genotype = Genotype((("merged", 0), ("down_conv", 1)), (("depthwise5", 0), ("up_conv", 1)), space)
  net = DerivedNet(config, genotype)
  variables = net.init(jax.random.key(0), x)
  own = variables["params"]["up_1"]["op_0"]["custom_depthwise5"]["Conv_0"]
  assert own["kernel"].shape == (5, 5, 5, 1, 2)
  assert float(jnp.abs(own["bias"]).max()) == 0  # as Flax draws it
  packed = PackedNet(net, variables)
  assert jax.tree.all(jax.tree.map(np.array_equal, packed.unpack(packed.pack(variables)), variables))
  plain = Genotype((("down_conv", 0), ("down_conv", 1)), (("conv", 0), ("up_conv", 1)), space)
  # 5x5x5 of each channel in the place of 3x3x3 of each pair, on the levels 3, 2 and 1 of 8^3 voxels with channels 4, 2
  # and 1: upward cells work at twice the lengths of their coarse input.
  more = sum(2 * 8**3 / 8**level * (125 * c - 27 * c * c) for level, c in ((2, 4), (1, 2), (0, 1)))
  assert forward_flops(net, 8) - forward_flops(DerivedNet(config, plain), 8) == more


@pytest.mark.parametrize(
  ("operation", "message"),
  [
    (CustomOperation("wide", "normal", lambda c: nn.Dense(2 * c)), "'wide' must give a result of shape (1, 2, 2, 2"),
    (CustomOperation("flat", "up", Depthwise5), "'flat' must give a result of shape (1, 2, 2, 2, 4) and float32, got"),
    (CustomOperation("big", "down", lambda c: Kernel(2 * c), dense=True), "'big' must give a kernel of shape (3, 3"),
    (CustomOperation("unknown", "normal"), "operation 'unknown' is not one of Table 1; give its CustomOperation"),
  ],
)
def test_wrong_modules(operation, message):
  config = NetworkConfig(kernels=1, nodes=1, depth=2, space=SearchSpace.of(("conv",), [operation]))
  with pytest.raises(InputError, match=re.escape(message)):
    jax.eval_shape(Supernet(config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 8, 4), jnp.float32))


def test_shapes_of_variables_are_those_of_the_modules_at_hand():
  """Operations of one name are equal, whatever their modules; what was asked before must not answer."""

  def has_kernel_of_5(module):
    space = SearchSpace.of(("conv",), (CustomOperation("depthwise5", "normal", module),))
    shapes = variable_shapes(Supernet(NetworkConfig(kernels=2, nodes=1, depth=2, space=space)))
    return any(leaf.shape.count(5) == 3 for leaf in jax.tree.leaves(shapes))

  assert has_kernel_of_5(Depthwise5)
  assert not has_kernel_of_5(lambda channels: nn.Conv(channels, (3, 3, 3)))


def test_shapes_of_variables_follow_the_rows_and_belong_to_who_asks():
  rows = dict(down=(("down_conv", 1), ("max_pool", 0)), up=(("identity", 0), ("up_conv", 1)))
  genotype, swapped = (Genotype(**{cell: found[::step] for cell, found in rows.items()}) for step in (1, -1))
  assert genotype == swapped
  config = NetworkConfig(kernels=2, nodes=1, depth=2)
  one, other = (variable_shapes(DerivedNet(config, found)) for found in (genotype, swapped))
  assert jax.tree.structure(one) != jax.tree.structure(other)
  one["params"].clear()
  assert variable_shapes(DerivedNet(config, genotype))["params"]
