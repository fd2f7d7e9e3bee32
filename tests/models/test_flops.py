"""Operations of a forward pass, counted by hand and by XLA."""

import jax
import jax.numpy as jnp
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models import convolutions
from nas3d_jax.models.config import NetworkConfig, UNetConfig
from nas3d_jax.models.flops import forward_flops
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet, Supernet, variable_shapes
from nas3d_jax.models.unet3d import UNet3D
from tests.inference.test_predict import GENOTYPE


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

  monkeypatch.setattr(convolutions, "conv", plain(1))
  monkeypatch.setattr(convolutions, "conv_down", plain(2))
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
  with pytest.raises(InputError, match="net must be a network that is trained, got Supernet; give a training"):
    forward_flops(Supernet(config), 8)
  with pytest.raises(InputError, match="patch_size must be a multiple of 8"):
    forward_flops(DerivedNet(config, GENOTYPE), 12)
