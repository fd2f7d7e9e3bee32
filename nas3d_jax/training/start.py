"""The parameters that a training starts from, known by what they are, not by how their path is spelt."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.checkpointing.restore import fingerprint, restore
from nas3d_jax.data.intensities import Intensities
from nas3d_jax.errors import InputError
from nas3d_jax.models.architectures import HAND_DESIGNED
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.inheritance import derived_variables
from nas3d_jax.models.networks import DerivedNet, Network
from nas3d_jax.models.transfer import take_over
from nas3d_jax.runtime.distributed import say
from nas3d_jax.schema.schema import Schema
from nas3d_jax.training.config import START_SUM, TAKEN
from nas3d_jax.training.genotype_counts import rows_of
from nas3d_jax.training.run_directory import has_checkpoint, settings_of
from nas3d_jax.training.setup import RunKeys, RunSetup, initial_variables


class Start(NamedTuple):
  """Where a training starts.

  Attributes:
    variables: of `init_from`, with `init_partial` what fits of them and the rest drawn; None where all are drawn, or
      the run that goes on has its own.
    settings: what the run's `config.json` holds of them, beside `init_from`.
  """

  variables: dict[str, Any] | None
  settings: dict[str, Any]


def start_of(setup: RunSetup, genotype: Genotype | None, folder: Path) -> Start:
  """Reads `init_from` of a training; of one that goes on, only where it is spelt otherwise than before.

  Args:
    setup: data set, network and settings.
    genotype: of a derived network; None for the 3D U-Net.
    folder: the run directory, which need not be there yet.

  Raises:
    InputError: the parameters are of another network or cannot be restored, or are not those that the run began with.
  """
  config = setup.config
  if has_checkpoint(folder) and not config.overwrite:
    return Start(None, _same_start(folder, settings_of(folder), setup, genotype))
  if config.init_from is None:
    return Start(None, {})
  return _read(setup, genotype)


def _same_start(
  folder: Path, earlier: Mapping[str, Any], setup: RunSetup, genotype: Genotype | None
) -> dict[str, Any]:
  """What the run knows of its start, if this configuration asks for the same one."""
  config = setup.config
  was, now, known = earlier.get("init_from"), config.init_from, earlier.get(START_SUM)
  reason = ""
  same = was is None and now is None
  if isinstance(was, str) and now is not None:
    same = _place(was, earlier.get("workdir", "")) == _place(now, config.workdir)
    if not same:
      try:
        same = known is not None and fingerprint("", _parameters(now, setup, genotype)) == known
      except InputError as error:
        reason = f" ({error})"
  if not same:
    raise InputError(
      f"{folder} holds a run with other settings: init_from was {was!r}, is {now and str(now)!r}{reason}. Run with the "
      "same parameters to go on, or with --overwrite to start anew"
    )
  return {name: earlier[name] for name in (START_SUM, TAKEN) if earlier.get(name) is not None}


def _place(path: str | Path, workdir: str | Path) -> str:
  """A path without its spelling: within the work directory, which may have been moved, where it lies there."""
  within = os.path.relpath(os.path.realpath(path), os.path.realpath(workdir))
  return os.path.realpath(path) if within.startswith(os.pardir) else within


def _parameters(path: str | Path, setup: RunSetup, genotype: Genotype | None) -> dict[str, Any]:
  """What a checkpoint has for this training to start from: of a supernet of its size, what the genotype keeps."""
  net, variables, metadata = restore(path, operations=setup.space.custom)
  if metadata.kind == "search" and genotype is not None and _with_channels(net.config, setup) == setup.network:
    return derived_variables(variables, genotype, net.config)
  return variables


def _with_channels(config: Any, setup: RunSetup) -> Any:
  """The configuration of a network with as many modalities and regions as that of this training."""
  own = setup.network
  return dataclasses.replace(config, in_channels=own.in_channels, out_channels=own.out_channels)


def _read(setup: RunSetup, genotype: Genotype | None) -> Start:
  """The variables of `init_from` of a training, if they are of this very network or of the supernet it was found in.

  With `init_partial` modalities and regions may be others: what both have is taken, by name.
  """
  config = setup.config
  net, variables, metadata = restore(config.init_from, operations=setup.space.custom)
  _check_fits(setup, genotype, net, metadata)
  if metadata.kind == "search":
    variables = derived_variables(variables, genotype, net.config)
  known = {START_SUM: fingerprint("", variables)}
  if not config.init_partial:
    return Start(variables, known)
  variables, taken = _taken(setup, genotype, variables, metadata.schema)
  return Start(variables, {**known, TAKEN: taken})


def _check_fits(setup: RunSetup, genotype: Genotype | None, net: Network, metadata: RunMetadata) -> None:
  """Raises InputError where a network and its metadata are not those of this training."""
  config, schema, intensities = setup.config, setup.dataset.schema, setup.dataset.intensities
  # Rows in another order, or another operation with parameters of the same shape, would be taken for something else.
  own = genotype and rows_of(genotype)
  other = own if metadata.kind == "search" else metadata.genotype and rows_of(metadata.genotype)
  checks = [("architecture", metadata.architecture, setup.network.architecture), ("genotype", other, own)]
  if not config.init_partial:
    checks.append(("network", net.config, setup.network))
    checks.append(("schema", metadata.schema, schema))
    checks.append(("normalization", metadata.intensities, intensities))
  elif metadata.architecture == setup.network.architecture:
    checks.append(("network", *_differing(_with_channels(net.config, setup), setup.network)))
    # Where the foreground is, and which numbers a window has, is each data set's own.
    kinds = _kinds(metadata.schema, metadata.intensities), _kinds(schema, intensities)
    common = [name for name in kinds[1] if name in kinds[0]]
    if not common:
      raise InputError(
        f"init_from {config.init_from} has no modality of this training: {', '.join(kinds[0])} there, "
        f"{', '.join(kinds[1])} here; modalities are taken by name: give a YAML schema that calls them alike, or leave "
        "out init_from"
      )
    checks.append(("normalization", *({name: of[name] for name in common} for of in kinds)))
  for name, there, here in checks:
    if there != here:
      partial = name in ("network", "schema") and not config.init_partial
      fits = partial and _with_channels(net.config, setup) == setup.network
      raise InputError(
        f"init_from {config.init_from} has another {name} than this training: {there} there, {here} here; give a "
        f"training of the same network{', or --init_partial to take what fits' if fits else ''}"
      )


def _kinds(schema: Schema, intensities: Intensities) -> dict[str, str]:
  """The normalisation of each modality."""
  return dict(zip(schema.modality_names, intensities.kinds or ["range"] * len(schema.modalities), strict=True))


def _taken(
  setup: RunSetup, genotype: Genotype | None, variables: Mapping[str, Any], other: Schema
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The variables of this network with what another of this schema has of them, and what that is, as JSON values."""
  schema, architecture = setup.dataset.schema, setup.network.architecture
  net = HAND_DESIGNED[architecture](setup.network) if genotype is None else DerivedNet(setup.network, genotype)
  names = {
    "modalities": (schema.modality_names, other.modality_names), "regions": (schema.region_names, other.region_names)
  }
  places = {
    kind: [(here.index(name), there.index(name)) for name in here if name in there]
    for kind, (here, there) in names.items()
  }
  drawn = initial_variables(net, RunKeys.of(setup.config.seed).init)
  found = take_over(net, drawn, variables, **places)
  record = {"taken": {"parameters": found.taken}, "drawn": {"parameters": found.drawn}}
  for kind, (here, there) in names.items():
    record["taken"][kind] = [name for name in here if name in there]
    record["drawn"][kind] = [name for name in here if name not in there]
  layers = ", ".join(f"{layer} {count}" for layer, count in found.drawn.items())
  counts = {
    "taken": f"{found.taken} parameters",
    "drawn": f"{sum(found.drawn.values())} parameters{f' ({layers})' if layers else ''}",
  }
  words = (
    f"{which}: {count}, modalities {_listed(record[which]['modalities'])}, "
    f"regions {_listed(record[which]['regions'])}"
    for which, count in counts.items()
  )
  say(f"init_from {setup.config.init_from}, {'; '.join(words)}")
  return found.variables, record


def _listed(names: Sequence[str]) -> str:
  return ", ".join(names) or "none"


def _differing(there: Any, here: Any) -> tuple[dict[str, Any], dict[str, Any]]:
  """The fields of two configurations of one class that differ."""
  names = [field.name for field in dataclasses.fields(there)]
  names = [name for name in names if getattr(there, name) != getattr(here, name)]
  return tuple({name: getattr(config, name) for name in names} for config in (there, here))
