# %% [markdown]
# # A candidate operation of one's own, in a loop of one's own
#
# A Flax module that keeps, halves or doubles the resolution competes with the operations of the paper's Table 1.
# `docs/library.md` runs the same through `search` and `train`, with checkpoints; this is the bare network.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import nas3d_jax


class LargeKernel(nn.Module):
  """A depthwise 7x7x7 convolution, norm and ReLU, and the input beside it."""

  channels: int

  @nn.compact
  def __call__(self, x):
    """[N, D, H, W, channels] -> the same."""
    y = nn.Conv(self.channels, (7, 7, 7), feature_group_count=self.channels, dtype=x.dtype)(x)
    return x + nn.relu(nn.GroupNorm(num_groups=1, dtype=x.dtype)(y))


own = nas3d_jax.CustomOperation("large_kernel", "normal", LargeKernel)
space = nas3d_jax.SearchSpace.of(["conv", "pool", "identity"], operations=[own])
config = nas3d_jax.NetworkConfig(kernels=2, nodes=1, depth=2, space=space)
net = nas3d_jax.Supernet(config)

# %%
image = jax.random.uniform(jax.random.key(0), (1, 8, 8, 8, 4), minval=10, maxval=110)  # normalised, [N, D, H, W, M]
batch = image, (image[..., :3] > 60).astype(jnp.float32)
optimizers = optax.adam(1e-2), optax.adam(1e-3)
variables = net.init(jax.random.key(1), image)
state = nas3d_jax.SearchState.create(variables, *optimizers, jax.random.key(2))
step = nas3d_jax.make_search_step(net, *optimizers)
for _ in range(3):
  state, metrics = step(state, batch, batch)

# %%
names = space.candidates["normal"]
weights = jax.nn.softmax(state.hybrid["params"]["hybrid"]["up_normal"])  # [edge, candidate]
print(dict(zip(names, weights[0].tolist(), strict=True)))
print(nas3d_jax.Genotype.from_hybrid(state.hybrid, config))
