"""Writes an exported network: the folder appears whole or not at all."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export as jax_export

from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.errors import InputError
from nas3d_jax.export.config import ExportConfig
from nas3d_jax.export.contents import JAX_NETWORK, METADATA, ONNX_NETWORK, ONNX_NORMALIZATION, describe
from nas3d_jax.files.atomic import new_folder, write_whole, writing
from nas3d_jax.inference.volume import Variables, make_predict_step
from nas3d_jax.models.networks import Network
from nas3d_jax.models.search_space import CustomOperation
from nas3d_jax.runtime.distributed import say

PLATFORMS = ("cpu", "cuda")


@dataclasses.dataclass(frozen=True)
class ExportSummary:
  """What was written.

  Attributes:
    out: the folder.
    files: size in bytes of each of its files by name.
    multiple: what the lengths of an input must be multiples of.
  """

  out: Path
  files: dict[str, int]
  multiple: int

  def __str__(self):
    sizes = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for name, size in self.files.items())
    return f"exported to {self.out}: {sizes}; any batch size, lengths that are multiples of {self.multiple}"


def export_network(config: ExportConfig, *, operations: Sequence[CustomOperation] = ()) -> ExportSummary:
  """Exports the network of a training. A line on stderr says what is done now.

  Args:
    config: which, and where to.
    operations: of the user's own, where the network has some; the exported one runs without them. ONNX has none.

  Raises:
    InputError: `out` is there, the checkpoint cannot be restored or is that of a search, the format needs a package
      that is not installed or an operation that it has not, or nothing can be written.
  """
  out = Path(config.out)
  if os.path.lexists(out):
    raise InputError(f"out must be a folder that is not there yet, got {out}; name another, or move it away")
  if config.format == "onnx" and importlib.util.find_spec("onnx") is None:
    raise InputError(
      'format "onnx" needs the package onnx, which is not installed; install the extra of that name, in the folder of '
      'this program: pip install ".[onnx]"'
    )
  say(f"restoring the network of {config.checkpoint} ...")
  net, variables, metadata = restore(config.checkpoint, operations=operations)
  if metadata.kind == "search":
    raise InputError(
      f"checkpoint must be that of a training, got {config.checkpoint}, a search, whose supernet mixes all operations; "
      "train the network of its genotype (the stage train) and export that"
    )
  if config.format == "onnx":
    from nas3d_jax.export.onnx_networks import network_model
    from nas3d_jax.export.onnx_normalization import normalization_model

    say("building its ONNX graphs ...")
    count = len(metadata.schema.modalities)
    normalization = normalization_model(metadata.intensities, count, metadata.xi, metadata.lam)
    files = {
      ONNX_NETWORK: network_model(metadata, variables).SerializeToString(),
      ONNX_NORMALIZATION: normalization.SerializeToString(),
    }
  else:
    say(f"lowering it for {' and '.join(PLATFORMS)} ...")
    files = {JAX_NETWORK: serialized(net, variables, metadata)}
  files[METADATA] = (json.dumps(describe(metadata, config.format), indent=2) + "\n").encode()
  say(f"writing {out} ...")
  with writing(out.parent), new_folder(out) as folder:
    for name, content in files.items():
      write_whole(folder / name, content)
  return ExportSummary(out, {name: len(content) for name, content in files.items()}, metadata.network.multiple)


def serialized(net: Network, variables: Variables, metadata: RunMetadata) -> bytes:
  """A network with its parameters and equation 2, as `jax.export` stores it for all of `PLATFORMS`.

  The function is (patches, low, high) -> probabilities: float32 [N, D, H, W, M] and [M] twice, as of
  `make_predict_step`, to float32 [N, D, H, W, R]; N is any, D, H and W any multiples of the network's.
  """
  step = make_predict_step(net, xi=metadata.xi, lam=metadata.lam)
  channels = net.config.in_channels
  n, d, h, w = jax_export.symbolic_shape("n, d, h, w")
  lengths = [net.config.multiple * length for length in (d, h, w)]
  patches = jax.ShapeDtypeStruct((n, *lengths, channels), jnp.float32)
  bound = jax.ShapeDtypeStruct((channels,), jnp.float32)
  function = jax.jit(lambda patches, low, high: step(variables, patches, low, high))
  return bytes(jax_export.export(function, platforms=PLATFORMS)(patches, bound, bound).serialize())
