"""Operations are timed as a derived network computes them, each where it stands in the network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.search_space import CustomOperation, SearchSpace
from nas3d_jax.training import operation_times
from tests.models.test_search_space import DEPTHWISE

SPACE = SearchSpace.of(("conv", "identity", "pool"), [DEPTHWISE])


def test_each_candidate_is_timed_once_in_each_cell(monkeypatch):
  """Shapes of the inputs are those of the network; an operation of the user's own is timed as any other."""
  seen = []
  monkeypatch.setattr(operation_times, "_seconds", lambda net, shape, dtype: seen.append((net, shape)) or 0.5)
  config = NetworkConfig(kernels=3, nodes=1, depth=2, space=SPACE)
  times = operation_times.measured_times(config, (8, 16, 24), jnp.float32)
  cells = {"down": 2, "up": 3}
  counted = {
    name: [0.5 * cells[name.split("_")[0]]] * len(SPACE.candidates[name.split("_")[1]])
    for name in ("down_down", "up_normal", "up_up")
  }
  assert times == counted
  shapes = {(net.operation, net.channels, shape[1:4]) for net, shape in seen}
  # Downward cell 0 has 6 channels, from half the patch to a quarter; upward cell 2 has 3, from half of it to all.
  wanted = {("down_conv", 6, (4, 8, 12)), ("down_conv", 12, (2, 4, 6)), ("up_conv", 3, (4, 8, 12))}
  assert wanted | {("depthwise5", 3, (8, 16, 24))} <= shapes
  for net, shape in seen:
    y = jax.eval_shape(lambda x, net=net: net.init_with_output(jax.random.key(0), x)[0], jnp.zeros(shape))
    factor = {"down": 0.5, "up": 2, "normal": 1}[net.direction]
    assert y.shape == (1, *(int(length * factor) for length in shape[1:4]), net.channels)


class Repeated(nn.Module):
  """So many times the work of a product."""

  channels: int
  times: int

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.channels, self.channels))
    for _ in range(self.times):
      x = jnp.tanh(x @ kernel.astype(x.dtype))
    return x


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_more_work_takes_more_time(dtype):
  def seconds(times):
    own = CustomOperation(f"own{times}", "normal", lambda channels: Repeated(channels, times))
    config = NetworkConfig(space=SearchSpace.of((), [own]))
    net = operation_times._Operation(own.name, 4, "normal", config)
    return operation_times._seconds(net, (1, 8, 8, 8, 4), jnp.dtype(dtype))

  assert np.log2(seconds(64) / seconds(1)) > 2
