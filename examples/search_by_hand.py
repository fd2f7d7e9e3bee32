# %% [markdown]
# # A search step by hand
#
# The search of the paper's Table 2 in plain JAX and optax: one pytree, two partitions of it, an optimiser for each.
# `nas3d_jax.make_search_step` does the same, and leaves out updates that are not finite.

# %%
import jax
import jax.numpy as jnp
import optax

import nas3d_jax

space = nas3d_jax.SearchSpace.of(["conv", "dep_conv", "identity"])  # without it all candidates of the paper
config = nas3d_jax.NetworkConfig(kernels=2, nodes=1, depth=2, space=space)  # without sizes the paper's network
net = nas3d_jax.Supernet(config)
image = jax.random.uniform(jax.random.key(0), (1, 8, 8, 8, 4), minval=10, maxval=110)  # normalised, [N, D, H, W, M]
target = (image[..., :3] > 60).astype(jnp.float32)  # [N, D, H, W, region]

hybrid, kernel = nas3d_jax.partition(net.init(jax.random.key(1), image))
of_hybrid, of_kernel = optax.adam(1e-1), optax.adam(1e-3)
states = of_hybrid.init(hybrid), of_kernel.init(kernel)


# %%
def loss(hybrid, kernel, batch, key):
  """Dice loss of the supernet, with dropout."""
  image, target = batch
  probabilities = net.apply(nas3d_jax.merge(hybrid, kernel), image, train=True, rngs={"dropout": key})
  return nas3d_jax.dice_loss(probabilities, target)


@jax.jit
def step(hybrid, kernel, states, hybrid_batch, kernel_batch, key):
  """What to search on one batch, then what to train on another, with the new hybrid parameters."""
  keys = jax.random.split(key)
  gradient = jax.grad(loss, argnums=0)(hybrid, kernel, hybrid_batch, keys[0])
  updates, hybrid_state = of_hybrid.update(gradient, states[0])
  hybrid = optax.apply_updates(hybrid, updates)
  value, gradient = jax.value_and_grad(loss, argnums=1)(hybrid, kernel, kernel_batch, keys[1])
  updates, kernel_state = of_kernel.update(gradient, states[1])
  return hybrid, optax.apply_updates(kernel, updates), (hybrid_state, kernel_state), value


# %%
losses = []
for number in range(5):
  key = jax.random.fold_in(jax.random.key(2), number)
  hybrid, kernel, states, value = step(hybrid, kernel, states, (image, target), (image, target), key)
  losses.append(float(value))
genotype = nas3d_jax.Genotype.from_hybrid(hybrid, config)
print(losses)
print(genotype)
