"""The networks as ONNX graphs, from their parameters: each layer is the standard operator that it equals.

The graphs are not traced from the JAX functions, which rearrange arrays for XLA (`models.convolutions`): a runtime of
ONNX has strided, transposed and dilated convolutions of its own, and these take any lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import onnx

from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.errors import InputError
from nas3d_jax.export.onnx_graph import Graph
from nas3d_jax.models import group_norm, plain_unet, unet3d
from nas3d_jax.models.search_space import direction_of, family

Params = Mapping[str, Any]


def network_model(metadata: RunMetadata, variables: Mapping[str, Any]) -> onnx.ModelProto:
  """A network as ONNX: "image" float32 [N, D, H, W, M], normalised -> "probabilities" float32 [N, D, H, W, R].

  Args:
    metadata: what the network is; no supernet.
    variables: its parameters.

  Raises:
    InputError: it has an operation of a user's own, for which there is no ONNX operator.
  """
  params = jax.tree.map(np.asarray, variables["params"])
  graph = Graph()
  x = graph.add("Transpose", "image", perm=(0, 4, 1, 2, 3))
  networks = {"searched": _derived, "unet3d": _unet3d, "plain_unet": _plain_unet}
  y = networks[metadata.architecture](graph, x, params, metadata)
  if metadata.network.output == "softmax":
    background = graph.add("Mul", _channels(graph, y, 0, 1), graph.constant(0))
    y = graph.add("Softmax", graph.add("Concat", background, y, axis=1), axis=1)
    y = _channels(graph, y, 1, metadata.network.out_channels + 1)
  else:
    y = graph.add("Sigmoid", y)
  y = graph.add("Transpose", y, perm=(0, 2, 3, 4, 1))
  lengths = ("N", "D", "H", "W")
  given = ("image", (*lengths, metadata.network.in_channels))
  return graph.model("network", given, y, ("probabilities", (*lengths, metadata.network.out_channels)))


def _derived(graph: Graph, x: str, params: Params, metadata: RunMetadata) -> str:
  config, genotype = metadata.network, metadata.genotype
  skips = [_projection(graph, x, params["stem0"]), _projection(graph, x, params["stem1"], stride=2)]
  for level in range(config.depth):
    skips.append(_cell(graph, "down", genotype.down, skips[-2], skips[-1], params[f"down_{level}"], config.variant))
  y = skips.pop()
  for level in range(config.depth + 1):
    y = _cell(graph, "up", genotype.up, skips.pop(), y, params[f"up_{level}"], config.variant)
  return _conv(graph, y, **params["head"]["project"])


def _cell(graph: Graph, kind: str, rows: Any, x0: str, x1: str, params: Params, variant: str) -> str:
  stride = 2 if kind == "down" else 1
  states = [
    _projection(graph, graph.add("Relu", x0), params["preprocess0"], stride=stride),
    _projection(graph, graph.add("Relu", x1), params["preprocess1"]),
  ]
  for node in range(len(rows) // 2):
    results = []
    for row in (2 * node, 2 * node + 1):
      (name, state), own = rows[row], params.get(f"op_{row}", {})
      results.append(_operation(graph, name, states[state], own, direction_of(kind, state), variant))
    states.append(graph.add("Add", *results))
  return graph.add("Concat", *states[2:], axis=1)


def _projection(graph: Graph, x: str, params: Params, stride: int = 1) -> str:
  layer = params["conv"] if "conv" in params else params["project"]
  return _group_norm(graph, _conv(graph, x, **layer, stride=stride), **params["norm"])


def _operation(graph: Graph, name: str, x: str, params: Params, direction: str, variant: str) -> str:
  """A candidate operation (Table 1); the parameters are those of `operations.parameter_shapes`."""
  kind = family(name)
  if kind == "pool":
    return graph.add("AveragePool" if name == "avg_pool" else "MaxPool", x, kernel_shape=(2, 2, 2), strides=(2, 2, 2))
  if kind == "identity":
    return graph.add("Relu", _group_norm(graph, x, **params["norm"]))
  if kind == "se_conv":
    x = _gated(graph, x, params["squeeze"], params["excite"])
    if "conv" not in params:
      return x
  if kind == "dep_conv":
    # Nothing stands between its two steps: they are one dense convolution.
    depthwise, pointwise = params["depthwise"], params["pointwise"]
    kernel = depthwise["kernel"][..., None] * pointwise["kernel"]
    layer = {"kernel": kernel, "bias": depthwise["bias"] @ pointwise["kernel"] + pointwise["bias"]}
  elif "conv" in params:
    layer = params["conv"]
  else:
    raise InputError(f"operation {name!r} of your own has no ONNX operator; export it with format 'jax'")
  stride, dilation = 1 if direction == "normal" else 2, 2 if kind == "dil_conv" else 1
  convolve = _conv_up if direction == "up" else _conv
  y = _group_norm(graph, convolve(graph, x, **layer, stride=stride, dilation=dilation), **params["norm"])
  return y if variant == "released" and kind == "se_conv" else graph.add("Relu", y)


def _gated(graph: Graph, x: str, squeeze: Params, excite: Params) -> str:
  """Squeeze and excitation."""
  mean = graph.add("GlobalAveragePool", x)
  hidden = graph.add("Relu", _conv(graph, mean, squeeze["kernel"][:, None], squeeze["bias"].reshape(1)))
  return graph.add("Mul", x, graph.add("Sigmoid", _conv(graph, hidden, excite["kernel"][None], excite["bias"])))


def _unet3d(graph: Graph, x: str, params: Params, metadata: RunMetadata) -> str:
  levels, slope = metadata.network.levels, unet3d.SLOPE
  skips = []
  for level in range(levels):
    x = _block(graph, x, params[f"down_{level}"], slope, stride=2 if level else 1)
    context = params[f"context_{level}"]
    x = graph.add("Add", x, _block(graph, _block(graph, x, context["first"], slope), context["second"], slope))
    skips.append(x)
  x, total = skips.pop(), None
  for level in reversed(range(levels - 1)):
    x = _block(graph, _upsample(graph, x), params[f"up_{level}"], slope)
    x = _block(graph, graph.add("Concat", skips.pop(), x, axis=1), params[f"merge_{level}"], slope)
    x = _block(graph, x, params[f"reduce_{level}"], slope)
    if level < unet3d.DEEP_SUPERVISION:
      answer = _conv(graph, x, **params[f"segment_{level}"]["project"])
      total = answer if total is None else graph.add("Add", _upsample(graph, total), answer)
  return total


def _plain_unet(graph: Graph, x: str, params: Params, metadata: RunMetadata) -> str:
  levels, skips = metadata.network.levels, []

  def two(x: str, name: str, stride: int = 1) -> str:
    x = _block(graph, x, params[f"{name}_first"], plain_unet.SLOPE, stride=stride)
    return _block(graph, x, params[f"{name}_second"], plain_unet.SLOPE)

  for level in range(levels):
    x = two(x, f"down_{level}", stride=2 if level else 1)
    skips.append(x)
  x = skips.pop()
  for level in reversed(range(levels - 1)):
    expand = params[f"expand_{level + 1}"]["project"]
    blocks = expand["kernel"].reshape(-1, 2, 2, 2, expand["bias"].size).transpose(0, 4, 1, 2, 3)
    x = graph.add(
      "ConvTranspose", x, graph.constant(blocks), graph.constant(expand["bias"]), kernel_shape=(2, 2, 2),
      strides=(2, 2, 2),
    )
    x = two(graph.add("Concat", skips.pop(), x, axis=1), f"up_{level}")
  return _conv(graph, x, **params["segment_0"]["project"])


def _block(graph: Graph, x: str, params: Params, slope: float, stride: int = 1) -> str:
  """Convolution, instance norm, leaky ReLU."""
  layer, norm = params["conv"] if "conv" in params else params["project"], params["norm"]
  y = _conv(graph, x, **layer, stride=stride)
  normed = _norm(graph, y, **norm, groups=norm["scale"].size, epsilon=unet3d.EPSILON)
  return graph.add("LeakyRelu", normed, alpha=slope)


def _conv(graph: Graph, x: str, kernel: Any, bias: Any = None, *, stride: int = 1, dilation: int = 1) -> str:
  """A convolution padded as PyTorch pads: kernel [3, 3, 3, C_in, C_out], or [C_in, C_out] of 1x1x1."""
  kernel = kernel.reshape((1, 1, 1, *kernel.shape) if kernel.ndim == 2 else kernel.shape).transpose(4, 3, 0, 1, 2)
  pad = dilation * (kernel.shape[-1] // 2)
  sizes = dict(kernel_shape=kernel.shape[2:], strides=(stride,) * 3, dilations=(dilation,) * 3, pads=(pad,) * 6)
  more = [] if bias is None else [graph.constant(bias)]
  return graph.add("Conv", x, graph.constant(kernel), *more, **sizes)


def _conv_up(graph: Graph, x: str, kernel: Any, bias: Any, *, stride: int, dilation: int) -> str:
  """A transposed convolution that doubles the lengths: input voxel i adds kernel[k] to 2 i + dilation (k - 1)."""
  sizes = dict(kernel_shape=(3, 3, 3), strides=(stride,) * 3, dilations=(dilation,) * 3)
  sizes |= dict(pads=(dilation,) * 6, output_padding=(1,) * 3)
  return graph.add("ConvTranspose", x, graph.constant(kernel.transpose(3, 4, 0, 1, 2)), graph.constant(bias), **sizes)


def _group_norm(graph: Graph, x: str, scale: Any, bias: Any) -> str:
  """Group norm of groups whose channels are side by side; scale and bias are of the channels."""
  return _norm(graph, x, scale, bias, scale.size // group_norm.group_size(scale.size), group_norm.EPSILON)


def _norm(graph: Graph, x: str, scale: Any, bias: Any, groups: int, epsilon: float) -> str:
  """Brings each group to mean 0 and variance 1.

  Written out, axis by axis: onnxruntime's InstanceNormalization adds up all voxels of a group in one go, and
  probabilities of a patch of 40 x 56 x 40 were off by 8e-5 with it, and by 1.5e-5 without.
  """
  per_channel = (0, scale.size, 1, 1, 1)
  spread = graph.constant(np.zeros((1, 1, scale.size // groups)))

  def mean(values: str) -> str:
    for axis in (4, 3, 2):
      values = graph.add("ReduceMean", values, axes=(axis,))
    values = graph.add("Reshape", values, graph.constant((0, groups, -1), np.int64))
    values = graph.add("Add", graph.add("ReduceMean", values, axes=(2,)), spread)
    return graph.add("Reshape", values, graph.constant(per_channel, np.int64))

  centred = graph.add("Sub", x, mean(x))
  variance = mean(graph.add("Mul", centred, centred))
  deviation = graph.add("Sqrt", graph.add("Add", variance, graph.constant(epsilon)))
  factor = graph.add("Div", graph.constant(scale.reshape(1, -1, 1, 1, 1)), deviation)
  return graph.add("Add", graph.add("Mul", centred, factor), graph.constant(bias.reshape(1, -1, 1, 1, 1)))


def _upsample(graph: Graph, x: str) -> str:
  """Repeats each voxel twice along each axis."""
  scales = graph.constant((1, 1, 2, 2, 2))
  modes = dict(mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")
  return graph.add("Resize", x, "", scales, **modes)


def _channels(graph: Graph, x: str, start: int, stop: int) -> str:
  bounds = [graph.constant((value,), np.int64) for value in (start, stop, 1)]
  return graph.add("Slice", x, *bounds)
