"""Parameters of the released program: layouts by hand, every fault in one error. test_golden checks values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet, Supernet
from nas3d_jax.models.released_weights import convert_derived, convert_operation, convert_supernet

CONFIG = NetworkConfig(in_channels=2, out_channels=1, nodes=1, depth=2)
GENOTYPE = Genotype(down=(("down_conv", 1), ("max_pool", 0)), up=(("up_conv", 1), ("se_conv", 0)))
OPERATION = {"conv.weight": (4, 4, 3, 3, 3), "conv.bias": (4,), "norm.weight": (4,), "norm.bias": (4,)}


def arrays(shapes):
  """Different numbers everywhere."""
  random = np.random.default_rng(0)
  return {name: random.standard_normal(shape) for name, shape in shapes.items()}


class TestOperation:
  def test_kernels_of_convolutions(self):
    """Theirs is [out, in, d, h, w]."""
    given = arrays(OPERATION)
    got = convert_operation(given, "conv", 4)
    assert jax.tree.map(np.shape, got) == {
      "conv": {"kernel": (3, 3, 3, 4, 4), "bias": (4,)}, "norm": {"scale": (4,), "bias": (4,)}
    }  # fmt: skip
    assert got["conv"]["kernel"][0, 1, 2, 3, 0] == np.float32(given["conv.weight"][0, 3, 0, 1, 2])
    np.testing.assert_array_equal(got["norm"]["scale"], given["norm.weight"].astype(np.float32))

  def test_kernels_of_transposed_convolutions(self):
    """Theirs is [in, out, d, h, w]."""
    given = arrays(OPERATION)
    got = convert_operation(given, "up_conv", 4)
    assert got["conv"]["kernel"][0, 1, 2, 3, 0] == np.float32(given["conv.weight"][3, 0, 0, 1, 2])

  def test_separable(self):
    shapes = {
      "depth_conv.weight": (4, 1, 3, 3, 3), "depth_conv.bias": (4,), "point_conv.weight": (4, 4, 1, 1, 1),
      "point_conv.bias": (4,), "norm.weight": (4,), "norm.bias": (4,),
    }  # fmt: skip
    given = arrays(shapes)
    got = convert_operation(given, "dep_conv", 4)
    assert got["depthwise"]["kernel"][0, 1, 2, 3] == np.float32(given["depth_conv.weight"][3, 0, 0, 1, 2])
    assert got["pointwise"]["kernel"][2, 1] == np.float32(given["point_conv.weight"][1, 2, 0, 0, 0])

  def test_gate(self):
    given = arrays({"fc.0.weight": (1, 4), "fc.0.bias": (1,), "fc.2.weight": (4, 1), "fc.2.bias": (4,)})
    got = convert_operation(given, "se_conv", 4, "released")
    assert jax.tree.map(np.shape, got) == {
      "squeeze": {"kernel": (4,), "bias": ()}, "excite": {"kernel": (4,), "bias": (4,)}
    }  # fmt: skip
    np.testing.assert_array_equal(got["excite"]["kernel"], given["fc.2.weight"][:, 0].astype(np.float32))
    assert got["squeeze"]["bias"] == np.float32(given["fc.0.bias"][0])

  def test_pools_have_none(self):
    assert convert_operation({}, "max_pool", 4) == {}

  def test_unknown(self):
    with pytest.raises(InputError, match="got 'convolve'"):
      convert_operation({}, "convolve", 4)


def names_that(convert, *arguments):
  """Names and shapes in the released program, from the error of an empty conversion; test_golden has the true ones."""
  with pytest.raises(InputError) as error:
    convert({}, *arguments)
  lines = str(error.value).splitlines()[1:]
  pairs = [line.removeprefix("  missing ").split(" of shape ") for line in lines]
  return {name: tuple(int(n) for n in shape.strip("(),").split(",") if n) for name, shape in pairs}


@pytest.fixture(scope="module", params=["supernet", "derived"])
def conversion(request):
  if request.param == "supernet":
    return Supernet(CONFIG), convert_supernet, (CONFIG,)
  return DerivedNet(CONFIG, GENOTYPE), convert_derived, (CONFIG, GENOTYPE)


def test_result_has_the_tree_of_the_network(conversion):
  net, convert, arguments = conversion
  got = convert(arrays(names_that(convert, *arguments)), *arguments)
  expected = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 8, 2), jnp.float32))
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), got) == jax.tree.map(
    lambda leaf: (leaf.shape, leaf.dtype), expected
  )


def test_every_fault_is_listed_in_one_error(conversion):
  _, convert, arguments = conversion
  given = arrays(names_that(convert, *arguments))
  prefix = "kernel." if convert is convert_supernet else ""
  del given[f"{prefix}stem0.conv.weight"]
  given[f"{prefix}stem1.conv.bias"] = np.zeros(5)
  given["extra"] = given["more"] = np.zeros(1)
  with pytest.raises(InputError) as error:
    convert(given, *arguments)
  first, *faults = str(error.value).splitlines()
  assert "4 faults; check depth, nodes, kernels, variant and genotype" in first
  assert sorted(line.strip() for line in faults) == sorted([
    f"missing {prefix}stem0.conv.weight of shape (2, 2, 1, 1, 1)",
    f"{prefix}stem1.conv.bias has shape (5,), not (2,)",
    "surplus extra",
    "surplus more",
  ])  # fmt: skip


def test_operations_of_a_derived_network_are_rows_of_the_genotype_given():
  """Row 0 of the downward cell is down_conv on X1, whatever the order of the states."""
  given = arrays(names_that(convert_derived, CONFIG, GENOTYPE))
  got = convert_derived(given, CONFIG, GENOTYPE)["params"]["down_0"]
  assert set(got) == {"preprocess0", "preprocess1", "op_0"}
  theirs = given["down_cells.0._ops.0.conv.weight"]
  np.testing.assert_array_equal(got["op_0"]["conv"]["kernel"], theirs.transpose(2, 3, 4, 1, 0).astype(np.float32))


def test_hybrid_parameters_take_the_rows_of_their_stride():
  """1 node downward: both edges are strided. Upward: edge 0 (X0) is not, edge 1 (X1) is."""
  given = arrays(names_that(convert_supernet, CONFIG))
  hybrid = convert_supernet(given, CONFIG)["params"]["hybrid"]
  expected = {
    "down_down": given["alpha2_down"], "up_normal": given["alpha1_up"][:1], "up_up": given["alpha2_up"][1:]
  }  # fmt: skip
  assert hybrid.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(hybrid[name], value.astype(np.float32))


def test_genotype_of_another_number_of_nodes():
  with pytest.raises(InputError, match="genotype has 1 nodes a cell"):
    convert_derived({}, NetworkConfig(), GENOTYPE)
