"""The U-shape, shared by the supernet and the derived network (section 2.1, Fig. 3)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nas3d_jax.errors import InputError
from nas3d_jax.models.cells import DerivedCell, Projection, SearchCell
from nas3d_jax.models.config import SEARCH_DROPOUT, TRAIN_DROPOUT, NetworkConfig, UNetConfig
from nas3d_jax.models.custom_operations import initial_parameters
from nas3d_jax.models.dropout import Dropout
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.hybrid_parameters import hybrid_shapes
from nas3d_jax.models.output_head import OutputHead, probabilities_of
from nas3d_jax.models.search_space import CellKind
from nas3d_jax.models.single_path import Path

Variables = dict[str, Any]

MakeCell = Callable[[CellKind, int, str], Callable[[jax.Array, jax.Array], jax.Array]]


class Network(nn.Module):
  """A network whose `init` draws all parameters at once and computes nothing else."""

  @nn.nowrap
  def init(self, rngs: jax.Array | Mapping[str, jax.Array], x: jax.Array, **kwargs: Any) -> dict[str, Any]:
    """Draws the variables.

    Args:
      rngs: a random key, or a dict that holds one as "params".
      x: an input, or its `jax.ShapeDtypeStruct`; only its shape and dtype count.
      **kwargs: those of `__call__`.

    Returns:
      {"params": nested dict of float32 arrays}, which `apply` takes.

    Raises:
      InputError: a shape that does not fit.
    """
    shapes = jax.eval_shape(functools.partial(super().init, **kwargs), rngs, x)
    key = rngs["params"] if isinstance(rngs, Mapping) else rngs
    return {"params": initial_parameters(key, shapes["params"], self.config)}


class Supernet(Network):
  """The network that is searched (section 2.2): every edge mixes all candidate operations by the hybrid parameters.

  All downward cells share one set of hybrid parameters, all upward cells another. They stand under `params/hybrid`,
  with the shapes of `hybrid_parameters.hybrid_shapes`, and start at zero. `partition` separates them from the kernel
  parameters.

  Attributes:
    config: size and variant.
    dropout_rate: channels dropped before the last convolution while training.
    dtype: of the arrays of voxels between the layers, float32 or bfloat16; parameters and statistics are float32.
  """

  config: NetworkConfig
  dropout_rate: float = SEARCH_DROPOUT
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool = False,
    logits: bool = False,
    weights: Mapping[str, jax.Array | Path] | None = None,
  ) -> jax.Array:
    """Computes the probability of each region.

    Args:
      x: normalised modalities, [N, D, H, W, in_channels] floating point; lengths are multiples of 2 ** (depth + 1).
      train: whether dropout is on; it then needs `rngs={"dropout": key}`.
      logits: give what `config.output` is applied to instead.
      weights: of the operations, by the names of the hybrid parameters, in the place of their softmax: float32 [edges,
        candidates] of at least 0, or paths (see `single_path`).

    Returns:
      [N, D, H, W, out_channels] between 0 and 1, float32.

    Raises:
      InputError: a shape that does not fit.
    """
    config = self.config
    alphas = self.param("hybrid", _zeros_of, hybrid_shapes(config))
    if weights is None:
      weights = {name: jax.nn.softmax(value) for name, value in alphas.items()}

    def make_cell(kind, channels, name):
      cell = SearchCell(kind, channels, config.nodes, config.variant, config.space, name=name)
      by_direction = {name.removeprefix(f"{kind}_"): w for name, w in weights.items() if name.startswith(f"{kind}_")}
      return lambda x0, x1: cell(x0, x1, by_direction)

    return _u_shape(config, x, make_cell, self.dropout_rate, train, self.dtype, logits)


class DerivedNet(Network):
  """The network of a genotype (section 2.4).

  Attributes:
    config: size and variant.
    genotype: operations and wiring of its cells.
    dropout_rate: channels dropped before the last convolution while training.
    dtype: of the arrays of voxels between the layers, float32 or bfloat16; parameters and statistics are float32.
  """

  config: NetworkConfig
  genotype: Genotype
  dropout_rate: float = TRAIN_DROPOUT
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False, logits: bool = False) -> jax.Array:
    """Computes the probability of each region: arguments, result and errors of `Supernet`."""
    self.genotype.check(self.config)

    def make_cell(kind, channels, name):
      rows = self.genotype.down if kind == "down" else self.genotype.up
      return DerivedCell(kind, channels, rows, self.config.variant, self.config.space, name=name)

    return _u_shape(self.config, x, make_cell, self.dropout_rate, train, self.dtype, logits)


def partition(variables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits a supernet's variables into hybrid and kernel parameters, which a search updates in turn (Table 2).

  Returns:
    {"params": {"hybrid": ...}} and {"params": everything else}; `merge` is the inverse.

  Raises:
    InputError: there are no hybrid parameters.
  """
  params = variables.get("params", {})
  if "hybrid" not in params:
    raise InputError(f"variables must be a supernet's, with params/hybrid; got params of {sorted(params)}")
  kernel = {name: value for name, value in params.items() if name != "hybrid"}
  return {"params": {"hybrid": params["hybrid"]}}, {"params": kernel}


def merge(hybrid: Mapping[str, Any], kernel: Mapping[str, Any]) -> dict[str, Any]:
  """The variables of a supernet from its hybrid and its kernel parameters: the inverse of `partition`."""
  return {"params": {**kernel["params"], **hybrid["params"]}}


def _zeros_of(key: jax.Array, shapes: Mapping[str, tuple[int, int]]) -> dict[str, jax.Array]:
  """Hybrid parameters at the start: float32 zeros by name."""
  return {name: nn.initializers.zeros(key, shape, jnp.float32) for name, shape in shapes.items()}


def _u_shape(
  config: NetworkConfig,
  x: jax.Array,
  make_cell: MakeCell,
  dropout_rate: float,
  train: bool,
  dtype: Any,
  logits: bool,
) -> jax.Array:
  """P0 and P1, downward cells, upward cells with skips, dropout, output head (Fig. 3); called inside a compact module.

  Channels and lengths with m = 4 kernels, n = 3 nodes, depth 4 and an input of 64^3:

      P0               12 of 64^3    m n
      P1               12 of 32^3    m n
      downward cells   24 of 16^3, 48 of 8^3, 96 of 4^3, 192 of 2^3
      upward cells     192 of 4^3, 96 of 8^3, 48 of 16^3, 24 of 32^3, 12 of 64^3

  The output of the last downward cell is X1 of the first upward cell; the others, P1 and P0 are the skips (X0).

  Args:
    config: size of the network.
    x: the input of `Supernet` or `DerivedNet`.
    make_cell: makes the cell of a kind, with so many channels a node and a name.
    dropout_rate: channels dropped before the last convolution.
    train: whether dropout is on.
    dtype: of the arrays of voxels.
    logits: whether to leave out the last activation.

  Returns:
    [N, D, H, W, out_channels], float32; between 0 and 1 but for logits.
  """
  check_call(config, x, dropout_rate)
  x = x.astype(dtype)
  width = config.nodes * config.kernels
  p0 = Projection(width, name="stem0")(x)
  p1 = Projection(width, size=3, stride=2, name="stem1")(x)
  skips, channels = [p0, p1], config.kernels
  for level in range(config.depth):
    channels *= 2
    skips.append(make_cell("down", channels, f"down_{level}")(skips[-2], skips[-1]))
  y = skips.pop()
  for level in range(config.depth + 1):
    y = make_cell("up", channels, f"up_{level}")(skips.pop(), y)
    channels //= 2
  y = Dropout(dropout_rate)(y, train=train)
  y = OutputHead(config.out_channels, name="head")(y)
  return y if logits else probabilities_of(y, config.output)


def check_call(config: NetworkConfig | UNetConfig, x: jax.Array, dropout_rate: float) -> None:
  """Checks the input and the dropout rate of a network.

  Raises:
    InputError: the shape or dtype does not fit the network, or the rate is not at least 0 and below 1.
  """
  unit = config.multiple
  if x.ndim != 5 or x.shape[-1] != config.in_channels or not jnp.issubdtype(x.dtype, jnp.floating):
    raise InputError(
      f"x must be a floating-point array [N, D, H, W, {config.in_channels}], got {x.dtype} of shape {x.shape}"
    )
  if any(length < unit or length % unit for length in x.shape[1:4]):
    raise InputError(f"x must have lengths that are multiples of {unit} ({config.formula}), got {x.shape}; pad it")
  if not 0 <= dropout_rate < 1:
    raise InputError(f"dropout_rate must be at least 0 and below 1, got {dropout_rate!r}")


@dataclasses.dataclass(frozen=True)
class NetworkKey:
  """What two networks that compute the same from the same variables have in common, for what is made once for both.

  Attributes:
    net: one of them.
    rows: of its genotype, where it has one: equal genotypes may have their rows, and so their parameters, in another
      order.
  """

  net: Network
  rows: Any

  @classmethod
  def of(cls, net: nn.Module) -> NetworkKey | None:
    """The key of a network; None where nothing tells that another is the same."""
    if not isinstance(net, Network):
      return None
    space = getattr(net.config, "space", None)
    if space and space.custom:  # equal ones may have other modules
      return None
    genotype = getattr(net, "genotype", None)
    key = cls(net, genotype and (genotype.down, genotype.up))
    try:
      hash(key)
    except TypeError:  # a network of the user's own with a list, say
      return None
    return key


def variable_shapes(net: Network) -> Variables:
  """The variables of a network as `jax.ShapeDtypeStruct`; nothing is computed."""
  key = NetworkKey.of(net)
  # Each gets dicts of its own.
  return _traced_shapes(net) if key is None else jax.tree.map(lambda leaf: leaf, _kept_shapes(key))


# Folds, ensembles and the stages of an experiment ask again for the same network, and tracing one takes seconds.
@functools.lru_cache(maxsize=32)
def _kept_shapes(key: NetworkKey) -> Variables:
  return _traced_shapes(key.net)


def _traced_shapes(net: Network) -> Variables:
  size = net.config.multiple
  x = jax.ShapeDtypeStruct((1, size, size, size, net.config.in_channels), jnp.float32)
  return jax.eval_shape(net.init, jax.random.key(0), x)
