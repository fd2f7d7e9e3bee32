"""Nodes of an ONNX graph, written down one after the other; arrays of voxels are [N, C, D, H, W] there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8  # of ONNX 1.12, 2022, which any runtime of today has
Shape = Sequence[str | int]


class Graph:
  """A graph that grows; a value in it is known by its name."""

  def __init__(self):
    self._nodes: list[onnx.NodeProto] = []
    self._constants: dict[str, onnx.TensorProto] = {}

  def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
    """Adds a node; returns the name of its output, or of each where there are several."""
    names = [f"{operator}_{len(self._nodes)}_{index}" for index in range(outputs)]
    self._nodes.append(helper.make_node(operator, inputs, names, **attributes))
    return names[0] if outputs == 1 else names

  def constant(self, values: ArrayLike, dtype: Any = np.float32) -> str:
    """The name of an array that the graph holds."""
    name = f"constant_{len(self._constants)}"
    self._constants[name] = numpy_helper.from_array(np.array(values, dtype, order="C"), name)
    return name

  def model(self, name: str, given: tuple[str, Shape], result: str, shape: tuple[str, Shape]) -> onnx.ModelProto:
    """The whole model.

    Args:
      name: of the graph.
      given: name and shape of its float32 input; a text is a length of any size.
      result: the value that it gives.
      shape: name and shape of that, float32.

    Raises:
      onnx.checker.ValidationError: the graph is wrong.
    """
    self._nodes.append(helper.make_node("Identity", [result], [shape[0]]))
    inputs, outputs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in (given, shape))
    graph = helper.make_graph(self._nodes, name, inputs, outputs, list(self._constants.values()))
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="nas3d_jax")
    onnx.checker.check_model(model)
    return model
