"""The metadata of a checkpoint: everything but arrays that it takes to use the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from nas3d_jax.data.intensities import PAPER_INTENSITIES, Intensities
from nas3d_jax.data.intensity_names import LAM, XI
from nas3d_jax.errors import InputError
from nas3d_jax.files.strict_json import check_plain
from nas3d_jax.models.config import CONFIGS, Architecture, NetworkConfig, UNetConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.search_space import CELLS, PAPER_SPACE, SearchSpace
from nas3d_jax.schema.geometry import Geometry
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import PatchSize, is_number, is_whole, patch_size_of

Kind = Literal["search", "train"]
_PAPER = PAPER_INTENSITIES.to_dict()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunMetadata:
  """The item `metadata` of a checkpoint; `Checkpoints.save` takes its `to_dict()`.

  Attributes:
    kind: "search" for a supernet, "train" for a network that is trained.
    architecture: "searched" for a supernet or a derived network, "unet3d" or "plain_unet" for a hand-designed one; a
      checkpoint without it is "searched".
    network: size, and variant where there is one; the configuration of its architecture.
    genotype: of the derived network; None for the others.
    dropout_rate: channels dropped before the last convolution while training, from 0 to 1.
    schema: what the network's channels are: modalities in, regions out.
    patch_size: length of the patches it was trained on, in voxels; (D, H, W) where they are no cubes.
    xi: length of the range of its normalised input (equation 2).
    lam: offset of that range, in units of `xi`.
    epoch: epochs finished.
    step: steps taken.
    versions: package -> version.
    device: what it was trained on, `DeviceReport.to_dict()`.
    dataset: what it was trained on, under "fingerprint" `Dataset.fingerprint`; plain JSON values.
    progress: what else a run needs to go on, plain JSON values: a search's "counts".
    geometry: orientation and voxel size of what it was trained on, to which cases are brought for it; None, or a
      checkpoint without it: cases are taken as they are.
    intensities: foreground and normalisation of its cases; a checkpoint without them has the paper's.
    modality_dropout: probability that a patch lacked a modality while training; above 0, cases may lack some.

  Raises:
    InputError: a field is of another type, out of range, or at odds with another; begins with the field's name.
  """

  kind: Kind
  architecture: Architecture = "searched"
  network: NetworkConfig | UNetConfig
  genotype: Genotype | None
  dropout_rate: float
  schema: Schema
  patch_size: PatchSize
  xi: float = XI
  lam: float = LAM
  epoch: int
  step: int
  versions: Mapping[str, str] = dataclasses.field(hash=False)
  device: Mapping[str, Any] = dataclasses.field(hash=False)
  dataset: Mapping[str, Any] = dataclasses.field(hash=False)
  progress: Mapping[str, Any] = dataclasses.field(hash=False, default_factory=dict)
  geometry: Geometry | None = None
  intensities: Intensities = PAPER_INTENSITIES
  modality_dropout: float = 0.0

  def __post_init__(self):
    object.__setattr__(self, "patch_size", patch_size_of(self.patch_size))
    config = _config_of(self.architecture)
    for name, kind, wanted in (
      ("network", config, f"a {config.__name__}"),
      ("genotype", Genotype | None, "a Genotype or None"),
      ("schema", Schema, "a Schema"),
      ("geometry", Geometry | None, "a Geometry or None"),
      ("intensities", Intensities, "Intensities"),
      ("versions", Mapping, "a mapping of packages to versions"),
      ("device", Mapping, "a mapping"),
      ("dataset", Mapping, "a mapping"),
      ("progress", Mapping, "a mapping"),
    ):
      self._require(name, isinstance(getattr(self, name), kind), wanted)
    self._require("kind", self.kind in ("search", "train"), '"search" or "train"')
    self._require("dropout_rate", is_number(self.dropout_rate) and 0 <= self.dropout_rate <= 1, "a number from 0 to 1")
    dropped = self.modality_dropout
    self._require("modality_dropout", is_number(dropped) and 0 <= dropped < 1, "a number of at least 0 and below 1")
    self._require("xi", is_number(self.xi) and self.xi > 0, "a number above 0")
    self._require("lam", is_number(self.lam) and self.lam >= 0, "a number of at least 0")
    for name in ("epoch", "step"):
      value = getattr(self, name)
      self._require(name, is_whole(value, 0) and is_number(value), "a whole number of at least 0")
    texts = all(isinstance(text, str) for entry in self.versions.items() for text in entry)
    self._require("versions", texts, "a mapping of packages to versions, both texts")
    fingerprint = self.dataset.get("fingerprint")
    self._require("dataset", isinstance(fingerprint, str) and fingerprint, 'a mapping with a text "fingerprint"')
    self._check_network()

  def _check_network(self) -> None:
    """Kind, genotype, schema and patch size must fit the network."""
    searched = self.architecture == "searched"
    if self.kind == "search" and not searched:
      raise InputError(f"kind must be 'train' for architecture {self.architecture!r}, got {self.kind!r}")
    derived = self.kind == "train" and searched
    if derived != (self.genotype is not None):
      wanted, what = ("given" if derived else "None"), f"kind {self.kind!r}"
      what = what if searched else f"architecture {self.architecture!r}"
      raise InputError(f"genotype must be {wanted} for {what}, got {self.genotype!r}")
    if derived:
      self.genotype.check(self.network)
    for name, channels in (("modalities", self.network.in_channels), ("regions", self.network.out_channels)):
      count = len(getattr(self.schema, name))
      if count != channels:
        side = "in_channels" if name == "modalities" else "out_channels"
        raise InputError(
          f"schema {self.schema.name!r} has {count} {name}, but the network has {side}={channels}; they must be as many"
        )
    if len(kinds := self.intensities.kinds) not in (0, self.network.in_channels):
      raise InputError(f"intensities must be of {self.network.in_channels} modalities, got {len(kinds)}: {kinds}")
    self.network.check_patch_size(self.patch_size)

  def _require(self, name: str, good: Any, wanted: str) -> None:
    if not good:
      raise InputError(f"{name} must be {wanted}, got {getattr(self, name)!r:.200}")

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain JSON values."""
    plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    geometry, intensities, dropped = (plain.pop(name) for name in ("geometry", "intensities", "modality_dropout"))
    if isinstance(self.patch_size, tuple):
      plain["patch_size"] = list(self.patch_size)
    rows = self.genotype and {cell: [list(row) for row in getattr(self.genotype, cell)] for cell in CELLS}
    mappings = {name: dict(plain[name]) for name in ("versions", "device", "dataset", "progress")}
    return {
      **plain, **mappings, "network": self.network.to_dict(), "genotype": rows, "schema": self.schema.to_dict(),
      **({} if geometry is None else {"geometry": geometry.to_dict()}),
      **({} if intensities.is_paper else {"intensities": intensities.to_dict()}),
      **({"modality_dropout": dropped} if dropped else {}),
    }

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> RunMetadata:
    """The inverse of `to_dict`; the "format_version" that a checkpoint adds is left out.

    Raises:
      InputError: a field is missing, unknown or wrong, and then begins with the field's name; or no plain value.
    """
    if not isinstance(fields, Mapping):
      raise InputError(f"metadata must be a mapping, got {fields!r:.200}")
    check_plain(fields)
    known = {field.name for field in dataclasses.fields(cls)}
    given = {name: value for name, value in fields.items() if name != "format_version"}
    # Checkpoints from before there were others.
    given = {"architecture": "searched", "geometry": None, "intensities": _PAPER, "modality_dropout": 0.0, **given}
    missing, unknown = sorted(known - set(given)), sorted(set(given) - known)
    if missing or unknown:
      lacks = f"lacks {', '.join(missing)}" if missing else f"has unknown fields {', '.join(unknown)}"
      raise InputError(f"metadata {lacks}; its fields are {', '.join(sorted(known))}")
    config = _config_of(given["architecture"])
    classes = {"network": config, "schema": Schema, "geometry": Geometry, "intensities": Intensities}
    read = {name: _read(name, kind.from_dict, given[name]) for name, kind in classes.items()}
    space = getattr(read["network"], "space", PAPER_SPACE)
    genotype = _read("genotype", lambda rows: _genotype(rows, space), given["genotype"])
    return cls(**given | read | {"genotype": genotype})


def _config_of(architecture: Any) -> type[NetworkConfig] | type[UNetConfig]:
  if not isinstance(architecture, str) or architecture not in CONFIGS:
    names = ", ".join(f'"{name}"' for name in CONFIGS)
    raise InputError(f"architecture must be one of {names}, got {architecture!r:.200}")
  return CONFIGS[architecture]


def _genotype(rows: Mapping[str, Any], space: SearchSpace) -> Genotype:
  if set(rows) != set(CELLS):
    raise InputError(f"it must have exactly the fields {', '.join(CELLS)}, got {sorted(rows)}")
  return Genotype(**rows, space=space)


def _read(name: str, reader: Callable[[Any], Any], value: Any) -> Any:
  """One structured field; None stays None, which genotype and geometry may be."""
  if value is None:
    return None
  if not isinstance(value, Mapping):
    raise InputError(f"{name} must be a mapping, got {value!r:.200}")
  try:
    return reader(value)
  except InputError as error:
    raise InputError(f"{name} is wrong: {error}") from None
