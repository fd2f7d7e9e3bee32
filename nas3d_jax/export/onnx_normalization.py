"""The normalisation of a whole volume as an ONNX graph: what `Intensities` and equation 2 do, in double precision."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from nas3d_jax.data.intensities import MOST_OF_FACES, NOTHING, PERCENTILES, Intensities, Window
from nas3d_jax.data.intensity_names import LAM, XI, Foreground, Normalization
from nas3d_jax.export.onnx_graph import Graph


def normalization_model(intensities: Intensities, modalities: int, xi: float = XI, lam: float = LAM) -> onnx.ModelProto:
  """A volume's normalisation: "volume" float32 [D, H, W, M], raw -> "image" float32 [D, H, W, M], 0 in the background.

  Args:
    intensities: of the training.
    modalities: M.
    xi: length of the range of equation 2.
    lam: its offset, in units of `xi`.
  """
  graph, channels = Graph(), []
  kinds = intensities.kinds or ("range",) * modalities
  for channel, window in enumerate(intensities.windows or (None,) * modalities):
    values = graph.add("Gather", "volume", graph.constant(channel, np.int64), axis=3)
    scale = (xi, lam) if intensities.is_paper else (XI, LAM)
    inside = _foreground(graph, values, intensities.foreground)
    scaled = _normalized(graph, values, inside, kinds[channel], window, *scale)
    scaled = graph.add("Cast", scaled, to=TensorProto.FLOAT)
    if not intensities.is_paper:
      scaled = graph.add("Where", graph.add("Equal", scaled, graph.constant(0)), graph.constant(NOTHING), scaled)
    scaled = graph.add("Where", inside, scaled, graph.constant(0))
    channels.append(graph.add("Unsqueeze", scaled, graph.constant((3,), np.int64)))
  shape = ("D", "H", "W", modalities)
  return graph.model("normalize", ("volume", shape), graph.add("Concat", *channels, axis=3), ("image", shape))


def _foreground(graph: Graph, values: str, foreground: Foreground) -> str:
  """Where a modality [D, H, W] is not background, boolean; a border value that most of the faces have is a median."""
  if foreground == "nonzero":
    return graph.add("Not", graph.add("Equal", values, graph.constant(0)))
  if foreground == "all":
    return graph.add("Equal", values, values)
  flat = graph.constant((-1,), np.int64)
  ends = [graph.add("Gather", values, graph.constant(end, np.int64), axis=a) for a in range(3) for end in (0, -1)]
  faces = graph.add("Concat", *(graph.add("Reshape", end, flat) for end in ends), axis=0)
  size = graph.add("Shape", faces)
  ordered, _ = graph.add("TopK", faces, size, outputs=2)
  median = graph.add("Gather", ordered, graph.add("Div", size, graph.constant((2,), np.int64)))
  equal = graph.add("Cast", graph.add("Equal", faces, median), to=TensorProto.DOUBLE)
  most = graph.add("Greater", graph.add("ReduceMean", equal, keepdims=0), graph.constant(MOST_OF_FACES, np.float64))
  return graph.add("Not", graph.add("And", graph.add("Equal", values, median), most))


def _normalized(
  graph: Graph, values: str, inside: str, kind: Normalization, window: Window | None, xi: float, lam: float
) -> str:
  """A modality by one of the kinds, float64 [D, H, W], with the statistics of what is inside."""
  values = graph.add("Cast", values, to=TensorProto.DOUBLE)
  flat = graph.constant((-1,), np.int64)
  own = graph.add("Compress", graph.add("Reshape", values, flat), graph.add("Reshape", inside, flat), axis=0)

  def number(value: float) -> str:
    return graph.constant(value, np.float64)

  def standard(values: str, mean: str, deviation: str) -> str:
    return graph.add("Div", graph.add("Sub", values, mean), deviation)

  def ends(of: str) -> tuple[str, str]:
    return tuple(graph.add(operator, of, keepdims=0) for operator in ("ReduceMin", "ReduceMax"))

  def clipped(values: str, low: str, high: str) -> str:
    return graph.add("Min", graph.add("Max", values, low), high)

  if kind == "none":
    return values
  if kind == "range":
    low, high = ends(own)
    span = graph.add("Sub", high, low)
    span = graph.add("Where", graph.add("Equal", span, number(0)), number(1), span)
    return graph.add("Mul", graph.add("Add", standard(values, low, span), number(lam)), number(xi))
  if kind == "window":
    low, high, mean, deviation = map(number, window)
    return standard(clipped(values, low, high), mean, deviation)
  if kind == "percentile":
    low, high = _percentiles(graph, own)
    narrow = clipped(own, low, high)
    # Where nearly all voxels have one value, there is nothing between the percentiles.
    least, greatest = ends(narrow)
    differs = graph.add("Less", least, greatest)
    own = graph.add("Where", differs, narrow, own)
    values = graph.add("Where", differs, clipped(values, low, high), values)
  mean = graph.add("ReduceMean", own, keepdims=0)
  off = graph.add("Sub", own, mean)
  variance = graph.add("ReduceMean", graph.add("Mul", off, off), keepdims=0)
  return standard(values, mean, graph.add("Max", graph.add("Sqrt", variance), number(np.finfo(np.float64).tiny)))


def _percentiles(graph: Graph, own: str) -> list[str]:
  """As of `np.percentile`: of the places between two of the ordered values, along the line between them."""
  size = graph.add("Shape", own)
  ordered, _ = graph.add("TopK", own, size, largest=0, outputs=2)
  last = graph.add("Sub", graph.add("Cast", size, to=TensorProto.DOUBLE), graph.constant((1,), np.float64))
  found = []
  for percent in PERCENTILES:
    place = graph.add("Mul", last, graph.constant((percent / 100,), np.float64))
    below = graph.add("Floor", place)
    pair = [
      graph.add("Gather", ordered, graph.add("Cast", graph.add(way, place), to=TensorProto.INT64))
      for way in ("Floor", "Ceil")
    ]
    step = graph.add("Mul", graph.add("Sub", pair[1], pair[0]), graph.add("Sub", place, below))
    found.append(graph.add("Add", pair[0], step))
  return found
