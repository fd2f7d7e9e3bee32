"""The networks once more, slow and obvious: NumPy in float64, one operation at a time, read from our parameters.

Nothing here is rearranged, merged, gated into a kernel or folded: a convolution is the sum of its 27 taps, a transposed
one scatters them, a norm subtracts the mean and divides by the deviation. Arrays are [N, D, H, W, C].
"""

import itertools

import numpy as np

from nas3d_jax.models.operations import parameter_shapes
from nas3d_jax.models.search_space import direction_of, edge_list

TAPS = list(itertools.product(range(3), repeat=3))


def convolution(x, kernel, stride=1, dilation=1, depthwise=False):
  """3x3x3; kernel [3, 3, 3, C_in, C_out], or [3, 3, 3, C] where every channel has its own."""
  padded = np.pad(x, ((0, 0), *((dilation, dilation),) * 3, (0, 0)))
  y = 0
  for tap in TAPS:
    window = tuple(
      slice(k * dilation, k * dilation + length, stride) for k, length in zip(tap, x.shape[1:4], strict=True)
    )
    voxels = padded[:, *window]
    y = y + (voxels * kernel[tap] if depthwise else voxels @ kernel[tap])
  return y


def transposed(x, kernel, dilation=1, depthwise=False):
  """3x3x3, stride 2: input voxel i adds kernel[k] to output voxel 2 i - dilation + dilation k."""
  n, *lengths, _ = x.shape
  # Room for what is scattered outside; it is cut off in the end.
  y = np.zeros((n, *(2 * length + 3 * dilation for length in lengths), kernel.shape[-1]))
  for tap in TAPS:
    window = tuple(slice(dilation * k, dilation * k + 2 * length, 2) for k, length in zip(tap, lengths, strict=True))
    y[:, *window] += x * kernel[tap] if depthwise else x @ kernel[tap]
  kept = tuple(slice(dilation, dilation + 2 * length) for length in lengths)
  return y[:, *kept]


def group_norm(x, scale, bias):
  channels = x.shape[-1]
  group = 16 if channels % 16 == 0 else channels
  y = np.empty_like(x)
  for sample, first in itertools.product(range(len(x)), range(0, channels, group)):
    part = x[sample, ..., first : first + group]
    y[sample, ..., first : first + group] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
  return y * scale + bias


def relu(x):
  return np.maximum(x, 0)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def pool(x, take):
  """2x2x2, stride 2."""
  corners = [x[:, i::2, j::2, k::2] for i, j, k in itertools.product(range(2), repeat=3)]
  return take(np.stack(corners), axis=0)


def operation(name, x, p, variant):
  """A candidate operation; p are its own parameters, without edges."""
  kind = name.removeprefix("down_").removeprefix("up_")
  up, stride = name.startswith("up_"), 2 if name.startswith("down_") else 1

  def spread(x, kernel, **how):
    return transposed(x, kernel, **how) if up else convolution(x, kernel, stride, **how)

  def norm(y):
    return group_norm(y, p["norm"]["scale"], p["norm"]["bias"])

  match kind:
    case "avg_pool":
      return pool(x, np.mean)
    case "max_pool":
      return pool(x, np.max)
    case "identity":
      return relu(norm(x))
    case "conv":
      return relu(norm(spread(x, p["conv"]["kernel"]) + p["conv"]["bias"]))
    case "dil_conv":
      return relu(norm(spread(x, p["conv"]["kernel"], dilation=2) + p["conv"]["bias"]))
    case "dep_conv":
      y = spread(x, p["depthwise"]["kernel"], depthwise=True) + p["depthwise"]["bias"]
      return relu(norm(y @ p["pointwise"]["kernel"] + p["pointwise"]["bias"]))
    case "se_conv":
      hidden = relu(x.mean((1, 2, 3)) @ p["squeeze"]["kernel"] + p["squeeze"]["bias"])
      gate = sigmoid(hidden[:, None] * p["excite"]["kernel"] + p["excite"]["bias"])
      gated = x * gate[:, None, None, None]
      if variant == "released" and not up and stride == 1:
        return gated
      y = norm(spread(gated, p["conv"]["kernel"]) + p["conv"]["bias"])
      return y if variant == "released" else relu(y)


def edge_parameters(stacked, name, channels, edge, variant):
  """Parameters of one operation out of those stacked over edges."""
  single = {}
  for (layer, array), leaf in parameter_shapes(name, channels, variant).items():
    single.setdefault(layer, {})[array] = np.take(np.asarray(stacked[layer][array]), edge, axis=leaf.edge_axis)
  return single


def softmax(x):
  return np.exp(x) / np.exp(x).sum()


def search_node(node, states, p, alphas, *, kind, config):
  """Sum of one hybrid module over each state before the node."""
  total = 0
  for state in range(node + 2):
    direction = direction_of(kind, state)
    alike = [edge for edge in edge_list(config.nodes) if direction_of(kind, edge[1]) == direction]
    weights = softmax(alphas[f"{kind}_{direction}"][alike.index((node, state))])
    readers = [reader for reader, source in edge_list(config.nodes) if source == state]
    for weight, name in zip(weights, config.space.candidates[direction], strict=True):
      x, stacked = states[state], p[f"state_{state}"].get(name, {})
      single = edge_parameters(stacked, name, x.shape[-1], readers.index(node), config.variant)
      total = total + weight * operation(name, x, single, config.variant)
  return total


def derived_node(node, states, p, genotype, *, kind, config):
  """Sum of the node's two rows."""
  rows = list(enumerate(getattr(genotype, kind)))[2 * node : 2 * node + 2]
  return sum(operation(name, states[state], p.get(f"op_{row}", {}), config.variant) for row, (name, state) in rows)


def projection(x, p, stride=1):
  if "conv" in p:
    y = convolution(x, p["conv"]["kernel"], stride) + p["conv"]["bias"]
  else:
    y = x[:, ::stride, ::stride, ::stride] @ p["project"]["kernel"] + p["project"]["bias"]
  return group_norm(y, p["norm"]["scale"], p["norm"]["bias"])


def network(config, variables, x, genotype=None):
  """Probabilities of the supernet, or of the derived network of a genotype."""
  params, x = variables["params"], np.asarray(x, np.float64)

  def cell(kind, level, x0, x1):
    p = params[f"{kind}_{level}"]
    states = [
      projection(relu(x0), p["preprocess0"], stride=2 if kind == "down" else 1),
      projection(relu(x1), p["preprocess1"]),
    ]
    nodes = []
    for node in range(config.nodes):
      if genotype is None:
        nodes.append(search_node(node, states + nodes, p, params["hybrid"], kind=kind, config=config))
      else:
        nodes.append(derived_node(node, states + nodes, p, genotype, kind=kind, config=config))
    return np.concatenate(nodes, axis=-1)

  stages = [projection(x, params["stem0"]), projection(x, params["stem1"], stride=2)]
  for level in range(config.depth):
    stages.append(cell("down", level, stages[-2], stages[-1]))
  y = stages.pop()
  for level in range(config.depth + 1):
    y = cell("up", level, stages.pop(), y)
  return sigmoid(y @ params["head"]["project"]["kernel"] + params["head"]["project"]["bias"])
