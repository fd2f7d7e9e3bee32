# %% [markdown]
# # A supernet cell inside a U-Net of one's own
#
# Cells are Flax modules that know nothing of the network around them. Here one searched cell is the bottom of a small
# U-Net made of plain Flax layers. Parameters named "hybrid" at the top of the tree are what `partition` and
# `make_search_step` take as the ones to search.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import nas3d_jax
from nas3d_jax.models.cells import SearchCell
from nas3d_jax.models.hybrid_parameters import hybrid_shapes

config = nas3d_jax.NetworkConfig(nodes=1)  # tells how many edges and candidates there are


class OwnUNet(nn.Module):
  """A U-Net of two levels with a searched cell at its bottom."""

  channels: int = 8

  @nn.compact
  def __call__(self, x, *, train=False):
    """[N, D, H, W, M], lengths multiples of 4 -> probabilities [N, D, H, W, 3]; there is no dropout to `train`."""
    shapes = {name: shape for name, shape in hybrid_shapes(config).items() if name.startswith("down_")}
    alphas = self.param("hybrid", lambda _: {name: jnp.zeros(shape) for name, shape in shapes.items()})
    weights = {name.removeprefix("down_"): jax.nn.softmax(alpha) for name, alpha in alphas.items()}
    fine = nn.relu(nn.Conv(self.channels, (3, 3, 3))(x))  # [N, D, H, W, channels]
    half = nn.relu(nn.Conv(self.channels, (3, 3, 3), strides=2)(fine))  # [N, D / 2, ...]
    deep = SearchCell("down", 2 * self.channels, config.nodes)(fine, half, weights)  # [N, D / 4, ...]
    for skip in (half, fine):
      deep = nn.ConvTranspose(self.channels, (2, 2, 2), strides=(2, 2, 2))(deep)
      deep = nn.relu(nn.Conv(self.channels, (3, 3, 3))(jnp.concatenate([deep, skip], -1)))
    return nn.sigmoid(nn.Conv(3, (1, 1, 1))(deep))


# %%
net = OwnUNet()
image = jax.random.uniform(jax.random.key(0), (1, 8, 8, 8, 4), minval=10, maxval=110) / 100
batch = image, (image[..., :3] > 0.6).astype(jnp.float32)
optimizers = optax.adam(1e-2), optax.adam(1e-3)
variables = jax.jit(net.init)(jax.random.key(1), image)
state = nas3d_jax.SearchState.create(variables, *optimizers, jax.random.key(2))
step = nas3d_jax.make_search_step(net, *optimizers)
for _ in range(3):
  state, metrics = step(state, batch, batch)
  print({name: float(value) for name, value in metrics.items()})
weights = {name: jax.nn.softmax(alpha) for name, alpha in state.hybrid["params"]["hybrid"].items()}
print(weights)  # [edge, candidate], columns as in nas3d_jax.models.search_space.CANDIDATES
