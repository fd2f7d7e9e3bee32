"""What a data set's files, labels and regions are called. Nothing else knows label numbers.

The schema is stored with the data set, the checkpoint and the prediction. Names of modalities and regions are what
schemas share: channels are matched by them, whatever the files are called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from nas3d_jax.errors import InputError

Layout = Literal["folders", "decathlon", "nnunet"]
"""How the files of the cases lie, see `data/cases/`."""


@dataclasses.dataclass(frozen=True)
class Modality:
  """One channel of the input.

  Attributes:
    name: name of the channel, as "flair".
    suffixes: what follows the case's name in the file's name, before .nii or .nii.gz; one of them. In the layouts with
      a dataset.json, what the channel may be called there, upper or lower case.
    normalization: how its intensities are normalised where no flag says so, see `data/intensities.py`; "": the range.
  """

  name: str
  suffixes: tuple[str, ...]
  normalization: str = ""


@dataclasses.dataclass(frozen=True)
class Region:
  """One channel of the output: a set of labels.

  Attributes:
    name: name of the channel, as "WT".
    labels: the label values that belong to the region.
    paint: the label written where the region holds.
  """

  name: str
  labels: tuple[int, ...]
  paint: int


@dataclasses.dataclass(frozen=True)
class Schema:
  """Modalities, labels and regions of a data set.

  Attributes:
    name: name of the schema.
    modalities: the channels of the input, in order.
    labels: (value, meaning) of each label, 0 (background) among them; values are 0 to 255.
    regions: the channels of the output, in order, which is also the order of painting.
    segmentation: suffixes of the file that holds the labels; the layouts with a dataset.json have folders instead.
    layout: how the files lie: "folders", "decathlon" or "nnunet".

  Raises:
    InputError: a name or value is doubled or unknown, or painting would turn a label into one of
      other regions.
  """

  name: str
  modalities: tuple[Modality, ...]
  labels: tuple[tuple[int, str], ...]
  regions: tuple[Region, ...]
  segmentation: tuple[str, ...] = ("_seg",)
  layout: Layout = "folders"

  def __post_init__(self):
    where = f"schema {self.name!r}"
    if self.layout not in get_args(Layout):
      raise InputError(f"{where}: layout must be one of {', '.join(get_args(Layout))}, got {self.layout!r}")
    for kind, values in (
      ("modalities", self.modality_names),
      ("labels", self.label_values),
      ("regions", self.region_names),
      ("file suffixes", [s for m in self.modalities for s in m.suffixes] + [*self.segmentation]),
    ):
      _check_unique(values, f"{where}: {kind}")
    if "segmentation" in self.modality_names:
      raise InputError(f"{where}: no modality may be called segmentation, as the labels are")
    if not all(m.suffixes for m in self.modalities):
      raise InputError(f"{where}: each modality needs a file suffix")
    if 0 not in self.label_values or not all(0 <= v <= 255 for v in self.label_values):
      raise InputError(
        f"{where}: labels must be values from 0 to 255, 0 (background) among them, "
        f"got {list(self.label_values)}"
      )
    for region in self.regions:
      self._check_region(region, where)
    for value in self.label_values:
      self._check_painting(value, where)

  def _check_region(self, region: Region, where: str) -> None:
    """A region is a set of known labels other than background, and paints one of them."""
    where = f"{where}: region {region.name!r}"
    _check_unique(region.labels, f"{where}: labels")
    unknown = sorted(set(region.labels) - set(self.label_values) | {0} & set(region.labels))
    if unknown:
      raise InputError(
        f"{where} has labels {unknown}; choose among {[v for v in self.label_values if v]}"
      )
    if region.paint not in region.labels:
      raise InputError(
        f"{where} paints {region.paint}, which is none of its labels {list(region.labels)}"
      )

  def _check_painting(self, value: int, where: str) -> None:
    """Painting the regions of a label must give a label of the same regions."""
    regions = [r for r in self.regions if value in r.labels]
    painted = regions[-1].paint if regions else 0
    names = [r.name for r in regions]
    back = [r.name for r in self.regions if painted in r.labels]
    if back != names:
      raise InputError(
        f"{where}: label {value} lies in regions {names}, but they paint {painted}, which lies "
        f"in {back}; order the regions from the outer to the inner, each with a paint of its own"
      )

  @property
  def modality_names(self) -> tuple[str, ...]:
    """Names of the input's channels, in order."""
    return tuple(m.name for m in self.modalities)

  @property
  def region_names(self) -> tuple[str, ...]:
    """Names of the output's channels, in order."""
    return tuple(r.name for r in self.regions)

  @property
  def innermost(self) -> int:
    """Place of the region that lies within the most others, of equals the last: ET, wherever a cavity comes."""
    sets = [set(region.labels) for region in self.regions]
    return max(range(len(sets)), key=lambda place: (sum(sets[place] < other for other in sets), place))

  @property
  def exclusive(self) -> bool:
    """Whether no label belongs to two regions."""
    labels = [label for region in self.regions for label in region.labels]
    return len(labels) == len(set(labels))

  @property
  def label_values(self) -> tuple[int, ...]:
    """All label values, background included, in the schema's order."""
    return tuple(value for value, _ in self.labels)

  def region_masks(self, labels: Any) -> Any:
    """The regions of a label volume.

    Args:
      labels: integer array [...] of label values, of NumPy or of JAX (traced or not).

    Returns:
      Boolean array [..., R] of the same kind, R the number of regions.
    """
    xp = labels.__array_namespace__()
    masks = []
    for region in self.regions:
      mask = labels == region.labels[0]
      for value in region.labels[1:]:
        mask = mask | (labels == value)
      masks.append(mask)
    return xp.stack(masks, axis=-1)

  def decode(self, confidence: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The label volume that probabilities of the regions stand for.

    A region holds where its probability is at least the threshold. Labels are painted in the schema's order, each over
    the one before; of regions that exclude each other, the most probable one wins instead, of equals the first.

    Args:
      confidence: array [..., R] of probabilities from 0 to 1.
      threshold: the least probability with which a region holds.

    Returns:
      uint8 array [...] of label values.

    Raises:
      InputError: the last axis is not one channel a region.
    """
    confidence = np.asarray(confidence)
    if confidence.ndim == 0 or confidence.shape[-1] != len(self.regions):
      raise InputError(
        f"confidence must have {len(self.regions)} channels last "
        f"({', '.join(self.region_names)}), got shape {confidence.shape}"
      )
    labels = np.zeros(confidence.shape[:-1], np.uint8)
    if self.exclusive:
      paints = np.array([region.paint for region in self.regions], np.uint8)
      return np.where(confidence.max(axis=-1) >= threshold, paints[confidence.argmax(axis=-1)], labels)
    for channel, region in enumerate(self.regions):
      labels[confidence[..., channel] >= threshold] = region.paint
    return labels

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON; the layout where it is not "folders", as ever before there were others."""
    layout = {} if self.layout == "folders" else {"layout": self.layout}
    return {
      "name": self.name,
      "modalities": [
        {"name": m.name, "suffixes": [*m.suffixes]} | ({"normalization": m.normalization} if m.normalization else {})
        for m in self.modalities
      ],
      "labels": [[value, meaning] for value, meaning in self.labels],
      "regions": [
        {"name": r.name, "labels": [*r.labels], "paint": r.paint} for r in self.regions
      ],
      "segmentation": [*self.segmentation],
      **layout,
    }

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> Schema:
    """The inverse of `to_dict`.

    Raises:
      InputError: a field is missing, unknown, or of another type.
    """
    names = ("name", "modalities", "labels", "regions", "segmentation")
    layout = ("layout",) if isinstance(fields, Mapping) and "layout" in fields else ()
    _check_fields(fields, names + layout, "schema")
    modalities, regions, labels = [], [], []
    for entry in _items(fields["modalities"], (Mapping,), "schema: modalities"):
      extra = ("normalization",) if isinstance(entry, Mapping) and "normalization" in entry else ()
      _check_fields(entry, ("name", "suffixes", *extra), "schema: modality")
      suffixes = _items(entry["suffixes"], (str,), "schema: suffixes of a modality")
      name, kind = (_one(entry.get(field, ""), str, f"{field} of a modality") for field in ("name", "normalization"))
      modalities.append(Modality(name, suffixes, kind))
    for entry in _items(fields["labels"], (Sequence,), "schema: labels"):
      if isinstance(entry, str) or len(entry) != 2:
        raise InputError(f"schema: a label must be [value, meaning], got {entry!r}")
      labels.append((_one(entry[0], int, "label"), _one(entry[1], str, "meaning of a label")))
    for entry in _items(fields["regions"], (Mapping,), "schema: regions"):
      _check_fields(entry, ("name", "labels", "paint"), "schema: region")
      values = _items(entry["labels"], (int,), "schema: labels of a region")
      name = _one(entry["name"], str, "name of a region")
      regions.append(Region(name, values, _one(entry["paint"], int, "paint of a region")))
    return cls(
      name=_one(fields["name"], str, "name"),
      modalities=tuple(modalities),
      labels=tuple(labels),
      regions=tuple(regions),
      segmentation=_items(fields["segmentation"], (str,), "schema: segmentation"),
      layout=_one(fields.get("layout", "folders"), str, "layout"),
    )


def _check_unique(values: Iterable[Any], what: str) -> None:
  """Raises InputError when there is no value, or one is given twice, or a name is empty."""
  values = list(values)
  doubled = sorted({v for v in values if values.count(v) > 1})
  if not values or doubled or "" in values:
    raise InputError(f"{what} must be given, none empty and none twice, got {values}")


def _check_fields(entry: Any, names: tuple[str, ...], what: str) -> None:
  """Raises InputError unless `entry` is a mapping with exactly these fields."""
  if not isinstance(entry, Mapping) or set(entry) != set(names):
    got = sorted(map(str, entry)) if isinstance(entry, Mapping) else repr(entry)
    raise InputError(f"{what} must have exactly the fields {sorted(names)}, got {got}")


def _one(value: Any, kind: type, what: str) -> Any:
  """The value, if it is of this kind; True and False are no numbers here."""
  if not isinstance(value, kind) or isinstance(value, bool):
    raise InputError(f"schema: {what} must be of type {kind.__name__}, got {value!r}")
  return value


def _items(values: Any, kinds: tuple[type, ...], what: str) -> tuple[Any, ...]:
  """The values as a tuple, if they are a list of these kinds."""
  if isinstance(values, str) or not isinstance(values, Sequence):
    raise InputError(f"{what} must be a list, got {values!r}")
  for value in values:
    if not isinstance(value, kinds) or isinstance(value, bool):
      names = " or ".join(kind.__name__ for kind in kinds)
      raise InputError(f"{what} must be of type {names}, got {value!r}")
  return tuple(values)
