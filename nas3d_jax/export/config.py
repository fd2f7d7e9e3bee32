"""What to export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from nas3d_jax.options import check_options, option

Format = Literal["jax", "onnx"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
  """Which network to export, and where to.

  Raises:
    InputError: a field is of another type, or the format is unknown.
  """

  checkpoint: str | Path = option("run or checkpoint of a training; of a run, its best checkpoint")
  out: str | Path = option("folder to make, which must not be there")
  format: Format = option("jax: for jax.export on CPU and CUDA; onnx: for onnxruntime and others", "jax")

  def __post_init__(self):
    check_options(self)
