"""Everything in the golden arrays, computed by the released program: outputs, losses, gradients, genotypes."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.hybrid_parameters import hybrid_shapes
from nas3d_jax.models.networks import DerivedNet, Supernet
from nas3d_jax.models.operations import Operation
from nas3d_jax.models.released_weights import RELEASED, convert_derived, convert_operation, convert_supernet
from nas3d_jax.models.search_space import direction_of, edge_list
from nas3d_jax.training.losses import dice_loss

OPERATIONS = [name for names in RELEASED.values() for name in names]
CASES = [(name, "released") for name in OPERATIONS] + [(name, "paper") for name in OPERATIONS if "se_conv" in name]
CONFIG = NetworkConfig(depth=2, variant="released")


@pytest.fixture(scope="module", autouse=True)
def full_precision():
  with jax.default_matmul_precision("float32"):
    yield


def entries(arrays, prefix):
  """The arrays under a prefix, by the rest of their name."""
  return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


@pytest.fixture(scope="module")
def operations(golden):
  with np.load(golden("ops.npz"), allow_pickle=False) as arrays:
    return dict(arrays)


@pytest.mark.parametrize("channels", [4, 32])
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_operation(operations, name, variant, channels):
  case = entries(operations, f"{'paper:' if variant == 'paper' else ''}{name}/c{channels}/")
  params = convert_operation(entries(case, "sd/"), name, channels, variant)
  operation = Operation(name, channels, variant)

  @jax.jit
  def run(x, cotangent):
    y, backward = jax.vjp(lambda x: operation.apply({"params": params}, x), x)
    return y, *backward(cotangent)

  y, grad_x = run(case["x"], case["cotangent"])
  np.testing.assert_allclose(y, case["y"], rtol=0, atol=1e-4)
  np.testing.assert_allclose(grad_x, case["grad_x"], rtol=0, atol=1e-4)


@pytest.fixture(scope="module", params=["supernet", "derived"])
def network(request, golden):
  """What the file of a network holds, in our layout, and what we compute: one compilation each."""
  with np.load(golden(f"depth2_{request.param}.npz"), allow_pickle=False) as file:
    arrays = dict(file)
  genotype = Genotype(**json.loads(str(arrays["genotype"])))
  if request.param == "supernet":
    net, convert = Supernet(CONFIG), lambda entries: convert_supernet(entries, CONFIG)
  else:
    net, convert = DerivedNet(CONFIG, genotype), lambda entries: convert_derived(entries, CONFIG, genotype)
  variables = convert(entries(arrays, "sd/"))
  # Rows of hybrid parameters of the other stride have no gradient of their own, nor are they in our layout.
  gradient = convert({**jax.tree.map(np.zeros_like, entries(arrays, "sd/")), **entries(arrays, "grad/")})

  @jax.jit
  def run(variables):
    def loss(variables):
      probabilities = net.apply(variables, arrays["x"])
      return dice_loss(probabilities, arrays["target"]), probabilities

    return jax.value_and_grad(loss, has_aux=True)(variables)

  (loss, probabilities), ours = run(variables)
  return SimpleNamespace(
    arrays=arrays, genotype=genotype, net=net, variables=variables, expected=gradient,
    loss=loss, probabilities=probabilities, gradient=ours,
  )


def test_probabilities(network):
  np.testing.assert_allclose(network.probabilities, network.arrays["probabilities"], rtol=0, atol=1e-4)


def test_loss(network):
  np.testing.assert_allclose(network.loss, network.arrays["loss"], rtol=0, atol=1e-5)


def test_gradients(network):
  assert jax.tree.structure(network.gradient) == jax.tree.structure(network.expected)
  leaves = jax.tree_util.tree_leaves_with_path(network.expected)
  everything = np.sqrt(sum(np.square(leaf).sum() for _, leaf in leaves))
  off = [
    jax.tree_util.keystr(path)
    for (path, expected), ours in zip(leaves, jax.tree.leaves(network.gradient), strict=True)
    if not np.linalg.norm(ours - expected) <= 1e-3 * np.linalg.norm(expected) + 1e-6 * everything
  ]
  assert not off


def test_conversion_has_the_tree_of_the_network(network):
  ours = jax.eval_shape(network.net.init, jax.random.key(0), network.arrays["x"])
  assert jax.tree.structure(ours) == jax.tree.structure(network.variables)
  for want, got in zip(jax.tree.leaves(ours), jax.tree.leaves(network.variables), strict=True):
    assert (want.shape, want.dtype) == (got.shape, got.dtype)


@pytest.mark.parametrize("network", ["supernet"], indirect=True)
def test_genotype_of_the_supernet(network):
  assert Genotype.from_hybrid(network.variables, CONFIG) == network.genotype


@pytest.mark.parametrize("number", range(20))
def test_genotype(golden, number):
  case = json.loads(golden("genotypes.json").read_text())[number]
  hybrid = {}
  for name in hybrid_shapes(CONFIG):
    cell, direction = name.split("_")
    rows = [row for row, (_, state) in enumerate(edge_list(3)) if direction_of(cell, state) == direction]
    hybrid[name] = jnp.asarray(case[f"alpha{1 if direction == 'normal' else 2}_{cell}"])[np.asarray(rows)]
  assert Genotype.from_hybrid(hybrid, CONFIG) == Genotype(case["down"], case["up"])
