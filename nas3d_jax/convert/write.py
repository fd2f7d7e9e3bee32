"""Writes a checkpoint of the released program as a run of this one: the folder appears whole or not at all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas3d_jax.checkpointing.checkpoints import Checkpoints
from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.checkpointing.restore import fingerprint
from nas3d_jax.convert.config import ConvertConfig
from nas3d_jax.convert.released_file import SEARCHED, network_of, read_genotype, state_dict_of
from nas3d_jax.convert.torch_file import read_torch_file
from nas3d_jax.data.dataset.choose_intensities import named_kinds
from nas3d_jax.data.intensities import PAPER_INTENSITIES, Intensities
from nas3d_jax.data.intensity_names import LAM, XI
from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import new_folder, write_whole, writing
from nas3d_jax.files.run_layout import CHECKPOINTS, GENOTYPE
from nas3d_jax.models.config import SEARCH_DROPOUT, TRAIN_DROPOUT, NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.released_weights import convert_derived, convert_supernet
from nas3d_jax.schema.builtin import SCHEMAS
from nas3d_jax.schema.schema import Schema
from nas3d_jax.schema.yaml_file import ENDINGS, read_schema
from nas3d_jax.validation import spelled_size
from nas3d_jax.version import __version__


@dataclasses.dataclass(frozen=True)
class ConvertSummary:
  """What was written.

  Attributes:
    out: the run directory.
    metadata: of its checkpoint.
  """

  out: Path
  metadata: RunMetadata

  def __str__(self):
    metadata, size = self.metadata, self.metadata.network
    what = "supernet" if metadata.kind == "search" else "derived network"
    schema = metadata.schema
    return (
      f"{what} in {self.out}: {size.nodes} nodes, depth {size.depth}, {size.kernels} kernels, patches of "
      f"{spelled_size(metadata.patch_size)}; {', '.join(schema.modality_names)} to {', '.join(schema.region_names)}; "
      f"{metadata.intensities.said(schema.modality_names)}"
    )


def convert_file(source: str | Path, config: ConvertConfig) -> ConvertSummary:
  """Converts a checkpoint of the released program; nothing that the file holds is run.

  Args:
    source: the file, see `read_torch_file`.
    config: where to, and what the file does not hold.

  Raises:
    InputError: `out` is there; the file cannot be read, or is not that of a network; or what only the user knows is
      missing or does not fit it. Nothing is written then.
  """
  out = Path(config.out)
  if os.path.lexists(out):
    raise InputError(f"out must be a folder that is not there yet, got {out}; name another, or move it away")
  schema = _schema(config.schema)
  kinds = named_kinds(config.normalization, schema)
  if missing := [name for (kind, window), name in zip(kinds, schema.modality_names, strict=True)
                 if kind == "window" and window is None]:  # fmt: skip
    raise InputError(f"normalization of {', '.join(missing)} must be given with its window, as window:-160:240")
  orders = {
    "modalities": _places("modalities", config.modalities, schema.modality_names),
    "regions": _places("regions", config.regions, schema.region_names),
  }
  given = None if config.genotype is None else read_genotype(Path(config.genotype))
  try:
    state = state_dict_of(read_torch_file(source))
    network = network_of(state)
    for name, channels in (("modalities", network.in_channels), ("regions", network.out_channels)):
      if len(orders[name]) != channels:
        raise InputError(
          f"its network has {channels} {name}, but schema {schema.name!r} has {len(orders[name])}; give a YAML file"
        )
    searched = any(name.startswith(SEARCHED) for name in state)
    variables, genotype = _converted(state, network, given, searched=searched)
  except InputError as error:
    message = str(error)
    raise InputError(message if str(source) in message else f"{source} cannot be converted: {message}") from error
  params = variables["params"]
  for stem, layer in (("stem0", "project"), ("stem1", "conv")):
    params[stem][layer]["kernel"] = np.take(params[stem][layer]["kernel"], orders["modalities"], axis=-2)
  for name in ("kernel", "bias"):
    params["head"]["project"][name] = np.take(params["head"]["project"][name], orders["regions"], axis=-1)
  intensities = Intensities(
    config.foreground, tuple(kind for kind, _ in kinds),
    tuple(window for _, window in kinds) if any(window for _, window in kinds) else (),
  )  # fmt: skip
  if not intensities.is_paper and (config.xi, config.lam) != (XI, LAM):
    # Whatever else is normalised would be scaled once more by equation 2.
    raise InputError("xi and lam are of normalization=range with foreground=nonzero, equation 2; leave them out")
  metadata = RunMetadata(
    kind="search" if searched else "train",
    network=network,
    genotype=None if searched else genotype,
    dropout_rate=SEARCH_DROPOUT if searched else TRAIN_DROPOUT,
    schema=schema,
    patch_size=config.patch_size or (64 if searched else 128),
    xi=config.xi,
    lam=config.lam,
    epoch=0,
    step=0,
    versions={"nas3d_jax": __version__},
    device={},
    dataset={"fingerprint": f"unknown, of a converted checkpoint {fingerprint('', variables)}"},
    intensities=PAPER_INTENSITIES if intensities.is_paper else intensities,
  )
  with writing(out.parent), new_folder(out) as folder:
    write_whole(folder / GENOTYPE, genotype.to_json())
    with Checkpoints(folder / CHECKPOINTS) as store:
      # Without a metric none is the best, which is the one that is opened; of a single one any number will do.
      items = dict(variables=variables, training={"step": np.int32(0)}, iterators={}, best_metric=0.0)
      store.save(0, metadata=metadata.to_dict(), **items)
  return ConvertSummary(out, metadata)


def _schema(schema: str | Path | Schema | None) -> Schema:
  if isinstance(schema, Schema):
    return schema
  if schema is not None and str(schema).lower().endswith(ENDINGS):
    return read_schema(schema)
  if schema not in SCHEMAS:
    got = "none" if schema is None else repr(str(schema))
    raise InputError(f"schema must be given, which the file does not hold: {', '.join(SCHEMAS)} or a YAML; got {got}")
  return SCHEMAS[schema]


def _places(what: str, given: Sequence[str] | None, names: Sequence[str]) -> list[int]:
  """Where in the network's order each of the schema's names is."""
  if given is None or sorted(given) != sorted(names):
    got = "none" if given is None else ",".join(given)
    raise InputError(
      f"{what} must name those of the schema in the order of the network's channels, which the file does not hold, got "
      f"{got}; if it is the schema's, give --{what}={','.join(names)}"
    )
  return [list(given).index(name) for name in names]


def _converted(
  state: dict[str, Any], network: NetworkConfig, given: Genotype | None, *, searched: bool
) -> tuple[dict[str, Any], Genotype]:
  """Variables in the layout used here, and the genotype."""
  if searched:
    if given is not None:
      raise InputError("it is a supernet, whose genotype follows from its parameters; leave out genotype")
    variables = convert_supernet(state, network)
    return variables, Genotype.from_hybrid(variables, network)
  if given is None:
    raise InputError("it is a derived network, which does not hold its genotype; give it as --genotype=FILE")
  return convert_derived(state, network, given), given
