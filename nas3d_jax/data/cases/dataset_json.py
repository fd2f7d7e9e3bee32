"""The dataset.json of the Medical Segmentation Decathlon and of nnU-Net: its channels and labels.

    decathlon   "modality": {"0": "FLAIR", ...}, "labels": {"1": "edema", ...}
    nnunet      "channel_names": {"0": "T1", ...}, "labels": {"edema": 1, ...}, "file_ending": ".nii.gz"; or with
                regions, "labels": {"whole tumor": [1, 2, 3], ...}, "regions_class_order": [1, ...]
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from nas3d_jax.errors import InputError
from nas3d_jax.files.strict_json import parse_json
from nas3d_jax.schema.builtin import DECATHLON, SCHEMAS, modality_name, region_name
from nas3d_jax.schema.schema import Modality, Region, Schema
from nas3d_jax.validation import is_whole

NAME = "dataset.json"
_MOST_BYTES = 1 << 24
_ENDINGS = (".nii.gz", ".nii")


@dataclasses.dataclass(frozen=True)
class DatasetJson:
  """The content of one, checked as far as it is the same for all data sets.

  Attributes:
    path: the file.
    layout: "nnunet" where it has channel_names, else "decathlon".
    channels: names of the channels, in the files' order; of those that are called alike, the second gets _1, and so on.
    ending: of the files, ".nii.gz" or ".nii".
    labels: its labels, unchecked.
    region_order: its regions_class_order, unchecked; None without.
    name: of the data set; "" without.
  """

  path: Path
  layout: Literal["decathlon", "nnunet"]
  channels: tuple[str, ...]
  ending: str
  labels: Mapping[str, Any]
  region_order: Any
  name: str = ""

  @classmethod
  def read(cls, path: Path) -> DatasetJson:
    """Reads a dataset.json.

    Raises:
      InputError: it cannot be read, or does not name the channels.
    """
    content = _read(path)
    nnunet = "channel_names" in content
    field = "channel_names" if nnunet else "modality"
    names = content.get(field)
    order = [str(number) for number in range(len(names))] if isinstance(names, Mapping) else []
    if not order or sorted(names) != sorted(order) or not all(isinstance(n, str) and n for n in names.values()):
      raise InputError(
        f'{path} must name the channels, as in "channel_names": {{"0": "FLAIR", "1": "T1"}} (nnU-Net) or "modality" '
        f"(Medical Segmentation Decathlon), got {field}={names!r:.200}"
      )
    ending = content.get("file_ending", ".nii.gz")
    if ending not in _ENDINGS:
      raise InputError(f"file_ending in {path} must be one of {', '.join(_ENDINGS)}, got {ending!r}; convert the files")
    labels = content.get("labels")
    if not isinstance(labels, Mapping):
      raise InputError(f"{path} must have labels, an object, got {labels!r:.200}")
    channels = _distinct([names[number] for number in order])
    layout = "nnunet" if nnunet else "decathlon"
    name = content.get("name")
    named = name if isinstance(name, str) else ""
    return cls(path, layout, channels, ending, labels, content.get("regions_class_order"), named)

  def channels_of(self, schema: Schema) -> tuple[str, ...]:
    """What the schema calls each channel, in the files' order; one that it does not know keeps its name.

    Raises:
      InputError: two channels are the same modality, or one of the schema's is not there.
    """
    known = {suffix.lower(): m.name for m in schema.modalities for suffix in m.suffixes}
    channels = tuple(known.get(channel.lower(), channel) for channel in self.channels)
    missing = [name for name in schema.modality_names if name not in channels]
    doubled = [name for name in schema.modality_names if channels.count(name) > 1]
    if missing or doubled:
      what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(doubled)} twice"
      wanted = "; ".join(f"{m.name}: {' or '.join(m.suffixes)}" for m in schema.modalities)
      raise InputError(
        f"{self.path} has the channels {', '.join(self.channels)}, which {what} of schema {schema.name!r} ({wanted}); "
        "correct it, or give the schema that fits"
      )
    return channels

  @property
  def is_brain_tumour(self) -> bool:
    """Whether channels and labels are those of Task01_BrainTumour, whose regions lie within one another."""
    said = {value: str(self.labels.get(value, "")).lower() for value in ("1", "2", "3")}
    fits = "edema" in said["1"] and "non" in said["2"] and "enhanc" in said["3"] and "non" not in said["3"]
    names = {modality_name(channel) for channel in self.channels}
    return fits and not set(self.labels) - {"0", *said} and set(DECATHLON.modality_names) <= names

  def own_schema(self) -> Schema:
    """The schema of the data set: of nnU-Net's `nnunet_schema`, of a Decathlon task that of its labels.

    Each label of a Decathlon task but 0 is a region of its own, under its own name; those of Task01_BrainTumour make
    the regions of BraTS.

    Raises:
      InputError: the labels do not make a schema.
    """
    if self.layout == "nnunet":
      return self.nnunet_schema()
    if self.is_brain_tumour:
      return DECATHLON
    values = {int(value): name for value, name in self.labels.items() if value.isdecimal()}
    if len(values) < len(self.labels) or not all(isinstance(name, str) and name for name in values.values()):
      raise InputError(
        f'labels in {self.path} must be as {{"0": "background", "1": "liver"}}, got {dict(self.labels)!r:.300}'
      )
    labels = dict(sorted((value, name) for value, name in values.items() if value))
    name = re.sub(r"\W+", "_", self.name.lower()).strip("_") or DECATHLON.name
    taken = name in {*SCHEMAS, "nnunet"} - {DECATHLON.name}
    regions = [Region(region, (value,), value) for value, region in labels.items()]
    return self._schema(f"{name}_decathlon" if taken else name, labels, regions)

  def _schema(self, name: str, labels: Mapping[int, str], regions: Iterable[Region]) -> Schema:
    """That of these labels, background aside, and regions, for the channels of the data set."""
    try:
      return Schema(
        name=name,
        modalities=tuple(Modality(modality_name(channel), (channel,)) for channel in self.channels),
        labels=((0, "background"), *labels.items()),
        regions=tuple(regions),
        segmentation=("labelsTr",),
        layout=self.layout,
      )
    except InputError as error:
      raise InputError(f"{self.path} makes no schema: {error}") from error

  def nnunet_schema(self) -> Schema:
    """The schema that an nnU-Net data set has by its dataset.json.

    Known names of channels become those of the other schemas (`builtin.modality_name`), and, where regions are sets of
    labels, those of regions too. Without such sets each label but background is a region of its own, under its own
    name.

    Raises:
      InputError: the labels are none, or are to be ignored, or do not make a schema.
    """
    values = {name: value for name, value in self.labels.items() if name != "background"}
    if self.labels.get("background") != 0:
      raise InputError(f'labels in {self.path} must have "background": 0, got {dict(self.labels)!r:.300}')
    if "ignore" in values:
      raise InputError(f"{self.path} has an ignore label, which is not supported; clear it from the segmentations")
    sets = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    if not all(is_whole(v) for members in sets.values() for v in members) or not all(sets.values()):
      raise InputError(f"labels in {self.path} must be whole numbers or lists of them, got {dict(self.labels)!r:.300}")
    paints = self.region_order
    if paints is None and any(isinstance(value, list) for value in values.values()):
      raise InputError(f"labels in {self.path} are regions, and need regions_class_order beside them")
    if paints is None:
      paints, named = [members[0] for members in sets.values()], {name: name for name in sets}
    else:
      named = {name: region_name(name) for name in sets}
    if not isinstance(paints, list) or len(paints) != len(sets) or not all(map(is_whole, paints)):
      raise InputError(f"regions_class_order in {self.path} must be one label for each region, got {paints!r:.200}")
    single = {members[0]: name for name, members in sets.items() if len(members) == 1}
    known = sorted({v for members in sets.values() for v in members} | set(paints))
    labels = {value: single.get(value, f"label {value}") for value in known}
    regions = (Region(named[name], tuple(sets[name]), paint) for name, paint in zip(sets, paints, strict=True))
    return self._schema("nnunet", labels, regions)


def _distinct(names: list[str]) -> tuple[str, ...]:
  """CT, CT, T1 -> CT, CT_1, T1; what the dataset.json of an ensemble of reconstructions may hold."""
  found: list[str] = []
  for place, name in enumerate(names):
    count = names[:place].count(name)
    found.append(f"{name}_{count}" if count else name)
  return tuple(found)


def _read(path: Path) -> dict[str, Any]:
  """The object in a JSON file, no larger than such files are."""
  remedy = "correct it, or copy it again"
  try:
    with path.open("rb") as file:
      raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
      raise InputError(f"it is larger than {_MOST_BYTES >> 20} MiB")
    content = parse_json(raw)
  except (OSError, InputError) as error:
    raise InputError(f"{path} cannot be read ({error}); {remedy}") from error
  if not isinstance(content, dict):
    raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}; {remedy}")
  return content
