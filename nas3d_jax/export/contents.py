"""What an exported folder holds: its files, and what stands in its metadata."""

from __future__ import annotations

import dataclasses
from typing import Any

from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.export.config import Format
from nas3d_jax.validation import axis_lengths

VERSION = 1
METADATA = "metadata.json"
JAX_NETWORK, ONNX_NETWORK, ONNX_NORMALIZATION = "network.jaxexport", "network.onnx", "normalize.onnx"


def describe(metadata: RunMetadata, form: Format) -> dict[str, Any]:
  """The metadata of an exported network, as plain JSON values.

  Args:
    metadata: of its checkpoint.
    form: what the folder is for.

  Returns:
    "export_version"; "format"; "modalities" and "regions" (name, labels, paint), the channels in order; "exclusive",
    whether no label belongs to two regions; "labels"; "patch_size" [D, H, W] of the training and "multiple", of which
    the lengths of an input must be multiples, in voxels; "geometry" (orientation, spacing in mm) to which a case is
    brought, or None; "schema", "intensities", "versions" as in the checkpoint; "architecture", "epoch", "step".
  """
  schema = metadata.schema
  return {
    "export_version": VERSION,
    "format": form,
    "architecture": metadata.architecture,
    "modalities": list(schema.modality_names),
    "regions": [dataclasses.asdict(region) for region in schema.regions],
    "exclusive": schema.exclusive,
    "labels": [list(label) for label in schema.labels],
    "patch_size": list(axis_lengths(metadata.patch_size)),
    "multiple": metadata.network.multiple,
    "geometry": metadata.geometry and metadata.geometry.to_dict(),
    "schema": schema.to_dict(),
    "intensities": metadata.intensities.to_dict(),
    "xi": metadata.xi,
    "lam": metadata.lam,
    "epoch": metadata.epoch,
    "step": metadata.step,
    "versions": dict(metadata.versions),
  }
