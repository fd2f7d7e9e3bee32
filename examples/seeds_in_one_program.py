# %% [markdown]
# # Several searches in one program
#
# A search step is a pure function of its state, so `jax.vmap` makes one program of several seeds. They see the same
# batches and differ in their first parameters and in their dropout. On a GPU that a small network does not fill, three
# seeds take less than three times as long.

# %%
import jax
import jax.numpy as jnp
import optax

import nas3d_jax

SEEDS = jnp.arange(3)
space = nas3d_jax.SearchSpace.of(["conv", "dep_conv", "identity"])  # without it all candidates of the paper
config = nas3d_jax.NetworkConfig(kernels=2, nodes=1, depth=2, space=space)
net = nas3d_jax.Supernet(config)
image = jax.random.uniform(jax.random.key(0), (1, 8, 8, 8, 4), minval=10, maxval=110)  # normalised, [N, D, H, W, M]
batch = image, (image[..., :3] > 60).astype(jnp.float32)  # the target: [N, D, H, W, region]
optimizers = optax.adam(1e-1), optax.adam(1e-3)
search_step = nas3d_jax.make_search_step(net, *optimizers)


# %%
def create(seed):
  """The state of one search before its first step."""
  first, run = jax.random.split(jax.random.key(seed))
  return nas3d_jax.SearchState.create(net.init(first, image), *optimizers, run)


states = jax.jit(jax.vmap(create))(SEEDS)  # every array has an axis of seeds in front
step = jax.jit(jax.vmap(search_step, in_axes=(0, None, None)), donate_argnums=0)
for _ in range(2):
  states, metrics = step(states, batch, batch)
print(metrics["kernel_loss"])  # [seed]

# %% [markdown]
# One state is a slice of all; it goes on alone, becomes a checkpoint or a genotype.

# %%
genotypes = []
for index, seed in enumerate(SEEDS):
  state = jax.tree.map(lambda array, index=index: array[index], states)
  genotypes.append(nas3d_jax.Genotype.from_hybrid(state.hybrid, config))
  print(f"seed {seed}: {genotypes[-1]}")
