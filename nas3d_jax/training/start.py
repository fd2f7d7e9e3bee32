"""The parameters that a training starts from, known by what they are, not by how their path is spelt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nas3d_jax.checkpointing.restore import fingerprint, restore
from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import CONFIG
from nas3d_jax.files.strict_json import parse_json
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.inheritance import derived_variables
from nas3d_jax.training.config import START_SUM
from nas3d_jax.training.genotype_counts import rows_of
from nas3d_jax.training.run_directory import has_checkpoint
from nas3d_jax.training.setup import RunSetup


class Start(NamedTuple):
  """Where a training starts.

  Attributes:
    variables: those of `init_from`; None where they are drawn, or the run that goes on has its own.
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
    return Start(None, _same_start(folder, _settings(folder), setup))
  if config.init_from is None:
    return Start(None, {})
  variables = _read(setup, genotype)
  return Start(variables, {START_SUM: fingerprint("", variables)})


def _same_start(folder: Path, earlier: Mapping[str, Any], setup: RunSetup) -> dict[str, Any]:
  """What the run knows of its start, if this configuration asks for the same one."""
  config = setup.config
  was, now, known = earlier.get("init_from"), config.init_from, earlier.get(START_SUM)
  reason = ""
  same = was is None and now is None
  if isinstance(was, str) and now is not None:
    same = _place(was, earlier.get("workdir", "")) == _place(now, config.workdir)
    if not same:
      try:
        same = known is not None and fingerprint("", restore(now, operations=setup.space.custom)[1]) == known
      except InputError as error:
        reason = f" ({error})"
  if not same:
    raise InputError(
      f"{folder} holds a run with other settings: init_from was {was!r}, is {now and str(now)!r}{reason}. Run with the "
      "same parameters to go on, or with --overwrite to start anew"
    )
  return {} if known is None else {START_SUM: known}


def _place(path: str | Path, workdir: str | Path) -> str:
  """A path without its spelling: within the work directory, which may have been moved, where it lies there."""
  within = os.path.relpath(os.path.realpath(path), os.path.realpath(workdir))
  return os.path.realpath(path) if within.startswith(os.pardir) else within


def _settings(folder: Path) -> Mapping[str, Any]:
  """Of the run that is there; empty where they cannot be read, which opening the run reports."""
  try:
    found = parse_json((folder / CONFIG).read_bytes())["settings"]
  except (OSError, ValueError, KeyError, TypeError):
    return {}
  return found if isinstance(found, dict) else {}


def _read(setup: RunSetup, genotype: Genotype | None) -> dict[str, Any]:
  """The variables of `init_from` of a training, if they are of this very network or of the supernet it was found in."""
  net, variables, metadata = restore(setup.config.init_from, operations=setup.space.custom)
  # Rows in another order, or another operation with parameters of the same shape, would be taken for something else.
  own = genotype and rows_of(genotype)
  other = own if metadata.kind == "search" else metadata.genotype and rows_of(metadata.genotype)
  for name, there, here in (
    ("architecture", metadata.architecture, setup.network.architecture),
    ("genotype", other, own),
    ("network", net.config, setup.network),
    ("schema", metadata.schema, setup.dataset.schema),
    ("normalization", metadata.intensities, setup.dataset.intensities),
  ):
    if there != here:
      raise InputError(
        f"init_from {setup.config.init_from} has another {name} than this training: {there} there, {here} here; give a "
        "training of the same network"
      )
  return derived_variables(variables, genotype, setup.network) if metadata.kind == "search" else variables
