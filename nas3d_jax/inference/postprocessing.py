"""Removal of small connected components of the innermost region from label volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nas3d_jax.errors import InputError
from nas3d_jax.schema.schema import Schema

_NEIGHBOURS = np.ones((3, 3, 3), bool)  # 26: faces, edges and corners
_MM3 = 1000.0  # cubic millimetres in a millilitre


def remove_small(labels: np.ndarray, schema: Schema, spacing: Sequence[float], min_ml: float) -> np.ndarray:
  """Takes small 26-connected components out of the schema's innermost region.

  Their voxels become what paints the innermost of the other regions that they lie in, or background.

  Args:
    labels: uint8 [D, H, W] of label values.
    schema: what they mean.
    spacing: edge lengths of a voxel along D, H, W, in mm.
    min_ml: components below this volume in ml are removed; 0 removes none.

  Returns:
    uint8 [D, H, W], a copy.

  Raises:
    InputError: the schema has no label for the other regions alone.
  """
  labels = labels.copy()
  components, sizes = components_ml(schema.region_masks(labels)[..., schema.innermost], spacing)
  small = np.concatenate([[False], sizes < min_ml])[components]
  if small.any():
    for value, instead in _without_innermost(schema).items():
      labels[small & (labels == value)] = instead
  return labels


def components_ml(mask: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
  """The 26-connected components of a region.

  Args:
    mask: bool [D, H, W].
    spacing: edge lengths of a voxel along D, H, W, in mm.

  Returns:
    int32 [D, H, W], 0 outside and the number of the component, from 1, inside; float64 [components], their volumes in
    ml.
  """
  components, count = ndimage.label(mask, _NEIGHBOURS)
  voxels = np.bincount(components.ravel(), minlength=count + 1)[1:]
  return components, voxels * math.prod(spacing) / _MM3


def _without_innermost(schema: Schema) -> dict[int, int]:
  """For each label of the innermost region, the label of the same regions but that one."""
  innermost = schema.regions[schema.innermost]
  instead = {}
  for value in innermost.labels:
    outer = [region for region in schema.regions if value in region.labels and region != innermost]
    instead[value] = outer[-1].paint if outer else 0
  if set(instead.values()) & set(innermost.labels):
    raise InputError(
      f"schema {schema.name!r} has no label for what is not {innermost.name!r} but in the regions around it; leave out "
      "min_component_ml"
    )
  return instead
