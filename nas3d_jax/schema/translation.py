"""Labels of one schema as another's, by the names of the regions."""

from __future__ import annotations

import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.schema.schema import Schema


def translation(source: Schema, target: Schema) -> dict[int, int]:
  """For each label of a schema the one of another schema that lies in the regions of the same names.

  Raises:
    InputError: one of them has a region that the other lacks, or no label for a combination of regions.
  """
  there, here = set(source.region_names), set(target.region_names)
  if there != here:
    lacks = [
      f"{schema.name!r} lacks {', '.join(sorted(missing))}"
      for schema, missing in ((source, here - there), (target, there - here)) if missing
    ]
    raise InputError(
      f"the regions of schemas {source.name!r} ({', '.join(source.region_names)}) and {target.name!r} "
      f"({', '.join(target.region_names)}) are matched by name, but {' and '.join(lacks)}; give --schema if the schema "
      "is another, or a YAML file whose regions have these names"
    )
  table = {}
  for value in source.label_values:
    names = {region.name for region in source.regions if value in region.labels}
    painted = [region.paint for region in target.regions if region.name in names]
    table[value] = painted[-1] if painted else 0
    if {region.name for region in target.regions if table[value] in region.labels} != names:
      raise InputError(
        f"label {value} of schema {source.name!r} lies in {', '.join(sorted(names))}, for which schema {target.name!r} "
        "has no label; give a YAML file whose regions lie within each other alike"
      )
  return table


def translate(labels: np.ndarray, source: Schema, target: Schema) -> np.ndarray:
  """Labels [...] of a schema as uint8 [...] of another's; they must be labels of the former."""
  table = np.zeros(256, np.uint8)
  for value, other in translation(source, target).items():
    table[value] = other
  return table[labels.astype(np.uint8, copy=False)]
