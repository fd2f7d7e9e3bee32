"""What a network costs: operations counted by hand and by XLA, and figures that a training step shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_predict import CONFIG, GENOTYPE, save_run

from nas3d_jax import rearrange
from nas3d_jax.config import NetworkConfig, UNetConfig
from nas3d_jax.costs import forward_flops, measure_costs
from nas3d_jax.errors import InputError
from nas3d_jax.genotype import Genotype
from nas3d_jax.networks import DerivedNet, Supernet
from nas3d_jax.restoring import variable_shapes
from nas3d_jax.unet3d import UNet3D


def test_the_3d_u_net_by_hand():
  # 8^3 = 512 voxels, then 64; 2 and 4 channels.
  down = 512 * 27 * 4 * 2 + 64 * 27 * 2 * 4
  context = 2 * 512 * 27 * 2 * 2 + 2 * 64 * 27 * 4 * 4
  up = 512 * (27 * 4 * 2 + 27 * 4 * 4 + 4 * 2)
  segment = 512 * 2 * 3
  assert forward_flops(UNet3D(UNetConfig(filters=2, levels=2)), 8) == 2 * (down + context + up + segment)


def test_the_3d_u_net_by_xla(monkeypatch):
  """XLA counts norms and activations as well, but not the taps in the padding."""

  def plain(stride):
    layout = ("NDHWC", "DHWIO", "NDHWC")
    return lambda x, kernel: jax.lax.conv_general_dilated(
      x, kernel, (stride,) * 3, ((1, 1),) * 3, dimension_numbers=layout
    )

  monkeypatch.setattr(rearrange, "conv", plain(1))
  monkeypatch.setattr(rearrange, "conv_down", plain(2))
  net = UNet3D(UNetConfig())
  x = jax.ShapeDtypeStruct((1, 128, 128, 128, 4), jnp.float32)
  counted = jax.jit(net.apply).lower(variable_shapes(net), x).cost_analysis()["flops"]
  assert forward_flops(net, 128) == pytest.approx(counted, rel=0.05)


def test_a_derived_network_by_hand():
  # Down: X0 and X1 (preprocessed at half the cell's input, 2^level 1 kernels) go one level down; up likewise, back.
  genotype = Genotype(down=(("down_se_conv", 0), ("down_dep_conv", 1)), up=(("dil_conv", 0), ("up_dep_conv", 1)))
  net = DerivedNet(NetworkConfig(kernels=1, nodes=1, depth=2), genotype)
  v = [16**3, 8**3, 4**3, 2**3]
  stem = v[0] * 4 * 1 + v[1] * 27 * 4 * 1
  cells = 0
  # name, level of the preprocessed inputs, of the output, their channels before, the cell's channels
  for fine, inputs, c in ((1, (1, 1), 2), (2, (1, 2), 4)):
    coarse = fine + 1
    cells += v[fine] * sum(inputs) * c  # preprocess
    cells += v[coarse] * 27 * c * c + 2 * c  # gate and convolution
    cells += v[coarse] * (27 * c + c * c)  # depthwise and pointwise
  for coarse, inputs, c in ((3, (2, 4), 4), (2, (1, 4), 2), (1, (1, 2), 1)):
    fine = coarse - 1
    cells += v[fine] * inputs[0] * c + v[coarse] * inputs[1] * c
    cells += v[fine] * 27 * c * c
    cells += v[coarse] * 27 * c + v[fine] * c * c
  head = v[0] * 1 * 3
  assert forward_flops(net, 16) == 2 * (stem + cells + head)


def test_what_cannot_be_counted():
  config = NetworkConfig(kernels=1, nodes=1, depth=2)
  with pytest.raises(InputError, match="net must be a DerivedNet or a UNet3D, got Supernet; give a training"):
    forward_flops(Supernet(config), 8)
  with pytest.raises(InputError, match="patch_size must be a multiple of 8"):
    forward_flops(DerivedNet(config, GENOTYPE), 12)


def test_measured_on_this_device(tmp_path):
  run = save_run(tmp_path / "run", (0.9, 0.5, 0.1))
  image = np.random.default_rng(0).integers(1, 9, (8, 9, 8, 4)).astype(np.int16)
  costs = measure_costs(run, [image])
  params = 0
  for leaf in jax.tree.leaves(variable_shapes(DerivedNet(CONFIG, GENOTYPE))):
    params += leaf.size
  assert (costs.parameters, costs.patch_size) == (params, 8)
  # At least parameters, two moments, image and target have to be there.
  assert costs.peak_bytes > 4 * (3 * params + 8**3 * 7)
  assert 0 < costs.step_ms < 60_000
  assert 0 < costs.case_s < 60
  assert costs.device == jax.devices()[0].device_kind
  assert measure_costs(run).case_s is None


