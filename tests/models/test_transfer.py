"""What a network takes from one of other channels, beside arrays that are cut by hand."""

import jax
import numpy as np
import pytest

from nas3d_jax.models.config import NetworkConfig, UNetConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet, variable_shapes
from nas3d_jax.models.transfer import take_over
from nas3d_jax.models.unet3d import UNet3D

GENOTYPE = Genotype(down=(("max_pool", 1), ("down_conv", 0)), up=(("identity", 0), ("up_conv", 1)))


def numbered(net, start):
  """Variables whose values are all different, and different for each start."""
  leaves, tree = jax.tree.flatten(variable_shapes(net))
  ends = np.cumsum([0, *(leaf.size for leaf in leaves)]) + start
  pairs = zip(ends, leaves, strict=False)
  return tree.unflatten([np.arange(e, e + leaf.size, dtype=np.float32).reshape(leaf.shape) for e, leaf in pairs])


def searched(modalities, regions):
  return DerivedNet(NetworkConfig(modalities, regions, kernels=2, nodes=1, depth=2), GENOTYPE)


def test_a_subset_of_modalities_is_the_same_layer_for_layer():
  # flair, t1, t1ce, t2 there; t2, flair here, in this order.
  there, here = numbered(searched(4, 3), 1), numbered(searched(2, 3), 10**6)
  found = take_over(searched(2, 3), here, there, modalities=[(0, 3), (1, 0)], regions=[(0, 0), (1, 1), (2, 2)])
  expected = jax.tree.map(np.copy, there)
  for layer, kind in (("stem0", "project"), ("stem1", "conv")):
    expected["params"][layer][kind]["kernel"] = there["params"][layer][kind]["kernel"][..., [3, 0], :]
  jax.tree.map(np.testing.assert_array_equal, found.variables, expected)
  assert found.drawn == {}
  assert found.taken == sum(leaf.size for leaf in jax.tree.leaves(here))


@pytest.mark.parametrize(
  ("make", "inputs", "outputs"),
  [
    (searched, {"stem0": "project", "stem1": "conv"}, ["head"]),
    (
      lambda *channels: UNet3D(UNetConfig(*channels, filters=2, levels=3)),
      {"down_0": "conv"}, ["segment_0", "segment_1"],
    ),
  ],
)  # fmt: skip
def test_what_the_other_lacks_is_drawn(make, inputs, outputs):
  # Here a new modality comes first, as many as there; of two regions the second is the other's third.
  there, here = numbered(make(2, 3), 1), numbered(make(2, 2), 10**6)
  found = take_over(make(2, 2), here, there, modalities=[(1, 0)], regions=[(1, 2)])
  got, drawn = found.variables["params"], {}
  for layer, kind in inputs.items():
    kernel = got[layer][kind]["kernel"]
    np.testing.assert_array_equal(kernel[..., 0, :], here["params"][layer][kind]["kernel"][..., 0, :])
    np.testing.assert_array_equal(kernel[..., 1, :], there["params"][layer][kind]["kernel"][..., 0, :])
    drawn[layer] = kernel.size // 2
  for layer in outputs:
    for name, value in got[layer].get("project", got[layer]).items():
      old, new = (tree["params"][layer]["project"][name] for tree in (there, here))
      np.testing.assert_array_equal(value, np.stack([new[..., 0], old[..., 2]], axis=-1))
      drawn[layer] = drawn.get(layer, 0) + value.size // 2
  assert found.drawn == drawn
  norm = got[next(iter(inputs))]["norm"]["scale"]
  np.testing.assert_array_equal(norm, there["params"][next(iter(inputs))]["norm"]["scale"])
