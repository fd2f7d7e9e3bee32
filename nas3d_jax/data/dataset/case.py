"""A case of a data set, as its manifest records it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import IMAGE, LABELS
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import is_number, is_whole


@dataclasses.dataclass(frozen=True)
class Case:
  """The record of one case, in the geometry of the data set, to which its arrays were brought.

  Lengths D, H, W are the axes in the order of that orientation; the files' own where they are in it.

  Attributes:
    name: name of the case, unique in the data set.
    grade: "HGG" or "LGG" by the folder's name, else None.
    fold: the fold that it belongs to, from 0; None without labels, or as long as none is given.
    shape: (D, H, W) of the whole volume, in voxels.
    cube: (start, stop) of the brain cube along D, H, W, in voxels of the whole volume.
    low: the least non-zero intensity of each modality.
    high: the greatest non-zero intensity of each modality.
    label_counts: voxels of each label in the whole volume, background included; None without labels.
    affine: 4x4, voxel indices to millimetres.
    spacing: edge lengths of a voxel along D, H, W, in mm.
    checksums: SHA-256 of each input file, by file name.
    arrays: SHA-256 of the files that were written, image.npy and labels.npy; None in manifests without them.
  """

  name: str
  grade: str | None
  fold: int | None
  shape: tuple[int, int, int]
  cube: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
  low: tuple[float, ...]
  high: tuple[float, ...]
  label_counts: Mapping[int, int] | None = dataclasses.field(hash=False)
  affine: tuple[tuple[float, float, float, float], ...]
  spacing: tuple[float, float, float]
  checksums: Mapping[str, str] = dataclasses.field(hash=False)
  arrays: Mapping[str, str] | None = dataclasses.field(hash=False, default=None)

  @property
  def cube_shape(self) -> tuple[int, int, int]:
    """(d, h, w): lengths of the brain cube in voxels."""
    return tuple(stop - start for start, stop in self.cube)

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON, whose keys are texts."""
    record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    if self.label_counts is not None:
      record["label_counts"] = {str(v): n for v, n in self.label_counts.items()}
    record["checksums"] = dict(self.checksums)
    if self.arrays is None:
      del record["arrays"]
    return record

  @classmethod
  def from_dict(cls, record: Any, schema: Schema) -> Case:
    """The inverse of `to_dict`; every field is checked.

    Raises:
      InputError: a field is missing, unknown, of another type or out of range.
    """
    name = record.get("name") if isinstance(record, Mapping) else None
    names = {f.name for f in dataclasses.fields(cls)}
    if not isinstance(record, Mapping) or {*record, "arrays"} != names or not is_file_name(name):
      raise InputError(f"case {name!r} of the manifest must have the fields {sorted(names)} only")
    channels = (len(schema.modalities),)
    low, high = (_numbers(record[field], channels, float) for field in ("low", "high"))
    counts = record["label_counts"]
    values = {str(v) for v in schema.label_values}
    shape, cube = _numbers(record["shape"], (3,), int), _numbers(record["cube"], (3, 2), int)
    checks = {
      "grade": record["grade"] in (None, "HGG", "LGG"),
      "shape": shape and min(shape) > 0,
      "cube": shape and cube and all(
        0 <= a < b <= n for (a, b), n in zip(cube, shape, strict=True)
      ),
      "low": low,
      "high": low and high and all(a < b for a, b in zip(low, high, strict=True)),
      "affine": _numbers(record["affine"], (4, 4), float),
      "spacing": _numbers(record["spacing"], (3,), float) and min(record["spacing"]) > 0,
      "label_counts": counts is None or (
        isinstance(counts, Mapping) and set(counts) == values
        and all(is_whole(n, 0) for n in counts.values())
      ),
      "fold": record["fold"] is None or (counts is not None and is_whole(record["fold"], 0)),
      "checksums": _are_sums(record["checksums"]),
      "arrays": "arrays" not in record or (
        _are_sums(record["arrays"])
        and set(record["arrays"]) == {IMAGE} | ({LABELS} if counts is not None else set())
      ),
    }
    for field, good in checks.items():
      if not good:
        raise InputError(f"{field} of case {name!r} in the manifest is wrong: {record[field]!r}")
    return cls(
      **{
        **record,
        "shape": shape,
        "cube": cube,
        "low": low,
        "high": high,
        "affine": _numbers(record["affine"], (4, 4), float),
        "spacing": _numbers(record["spacing"], (3,), float),
        "label_counts": None if counts is None else {int(v): n for v, n in counts.items()},
      }
    )


def _are_sums(value: Any) -> bool:
  return isinstance(value, Mapping) and all(isinstance(v, str) and len(v) == 64 for v in value.values())


def is_file_name(value: Any) -> bool:
  """Whether a value is the name of something in a folder, and leads nowhere else."""
  return isinstance(value, str) and value == Path(value).name and value not in ("", "..")


def _numbers(values: Any, shape: tuple[int, ...], kind: type) -> tuple[Any, ...] | None:
  """Nested lists of this shape as nested tuples of finite numbers of this kind; None if not so."""
  if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != shape[0]:
    return None
  if shape[1:]:
    rows = tuple(_numbers(row, shape[1:], kind) for row in values)
    return None if None in rows else rows
  allowed = int if kind is int else (int, float)
  good = all(is_number(v) and isinstance(v, allowed) for v in values)
  return tuple(kind(v) for v in values) if good else None
