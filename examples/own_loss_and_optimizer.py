# %% [markdown]
# # A loss and an optax chain of one's own
#
# The steps take any loss (probabilities, target) -> scalar, and any optax optimiser. With `logits=True` the loss gets
# what comes before the last activation instead, which is what a cross-entropy wants.

# %%
import jax
import jax.numpy as jnp
import optax

import nas3d_jax

config = nas3d_jax.NetworkConfig(kernels=2, nodes=1, depth=2)
genotype = nas3d_jax.Genotype(
  down=(("down_conv", 0), ("max_pool", 1)),  # two (operation, state) a node
  up=(("conv", 0), ("up_conv", 1)),
)
net = nas3d_jax.DerivedNet(config, genotype)


# %%
def tversky_and_cross_entropy(logits, target, alpha=0.3, beta=0.7):
  """Scalar, float32: the Tversky loss, which weighs what is missed (beta) against what is too much, and CE."""
  p, voxels = jax.nn.sigmoid(logits), (1, 2, 3)
  hit, excess, missed = ((a * b).sum(voxels) for a, b in ((p, target), (p, 1 - target), (1 - p, target)))
  tversky = (hit + 1e-6) / (hit + alpha * excess + beta * missed + 1e-6)
  return 1 - tversky.mean() + optax.sigmoid_binary_cross_entropy(logits, target).mean()


optimizer = optax.chain(
  optax.clip_by_global_norm(1.0),
  optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-2, warmup_steps=2, decay_steps=20), weight_decay=1e-4),
)

# %%
image = jax.random.uniform(jax.random.key(0), (1, 8, 8, 8, 4), minval=10, maxval=110)  # normalised, [N, D, H, W, M]
batch = image, (image[..., :3] > 60).astype(jnp.float32)
state = nas3d_jax.TrainState.create(net.init(jax.random.key(1), image), optimizer, jax.random.key(2))
step = nas3d_jax.make_train_step(net, optimizer, loss=tversky_and_cross_entropy, logits=True)
losses = []
for _ in range(20):
  state, metrics = step(state, batch)
  losses.append(float(metrics["loss"]))
print(losses[0], "->", losses[-1])
