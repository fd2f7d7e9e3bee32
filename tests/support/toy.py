"""Networks that compile in no time, in the place of the supernet and the derived network in tests of the loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.hybrid_parameters import hybrid_shapes
from nas3d_jax.models.networks import Network

LOW, HIGH = 10.0, 110.0  # of the normalised input


class ToySupernet(Network):
  """A 1x1x1 convolution of the input times a mixture, on which each hybrid parameter acts with its own strength."""

  config: NetworkConfig
  dropout_rate: float = 0.1
  dtype: object = None

  @nn.compact
  def __call__(self, x, *, train=False, logits=False, weights=None):
    shapes = hybrid_shapes(self.config)
    hybrid = self.param("hybrid", lambda _: {name: jnp.zeros(shape) for name, shape in shapes.items()})
    if weights is None:
      weights = [jax.nn.softmax(value) for value in hybrid.values()]
    else:
      paths = (weights[name] for name in hybrid)
      weights = [jax.nn.one_hot(p.choice, shapes[n][1]) * p.weight[:, None] for n, p in zip(hybrid, paths, strict=True)]
    strengths = (jnp.sin(jnp.arange(weight.size)).reshape(weight.shape) for weight in weights)
    mixture = 1 + sum((weight * strength).sum() for weight, strength in zip(weights, strengths, strict=True))
    return _answer(self, x * mixture, train, logits)


class ToyDerivedNet(Network):
  """A 1x1x1 convolution."""

  config: NetworkConfig
  genotype: Genotype
  dropout_rate: float = 0.5
  dtype: object = None

  @nn.compact
  def __call__(self, x, *, train=False, logits=False):
    return _answer(self, x, train, logits)


def _answer(net, x, train, logits):
  x = nn.Dropout(net.dropout_rate, broadcast_dims=(1, 2, 3), deterministic=not train)(x / HIGH)
  y = nn.Dense(net.config.out_channels, name="project")(x)
  return y if logits else jax.nn.sigmoid(y)


def toy_batch(random, size=1):
  """An image [size, 4, 4, 4, 4] and a target [size, 4, 4, 4, 3]."""
  image = random.uniform(LOW, HIGH, (size, 4, 4, 4, 4)).astype("float32")
  return image, (random.random((size, 4, 4, 4, 3)) < 0.3).astype("float32")
