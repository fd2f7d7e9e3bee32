"""A network from a checkpoint, ready to apply."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from nas3d_jax.checkpointing import checkpoints
from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.errors import DamagedCheckpoint, InputError
from nas3d_jax.models.architectures import HAND_DESIGNED
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.networks import DerivedNet, Network, Supernet, Variables, variable_shapes
from nas3d_jax.models.search_space import CustomOperation


def restore(
  run_or_checkpoint: str | Path, which: checkpoints.Which = "best", *, operations: Sequence[CustomOperation] = ()
) -> tuple[Network, Variables, RunMetadata]:
  """Restores a network; `net.apply(variables, x)` then gives the probabilities of `metadata.schema.region_names`.

  `x` is normalised with `metadata.xi` and `metadata.lam`, its channels are `metadata.schema.modality_names`.

  Args:
    run_or_checkpoint: a run directory (`search`, `train/<fold>`, `unet3d/<fold>` or the like), its `checkpoints`
      folder, or the folder of one step, wherever it was copied to; of one step, `which` is not asked.
    which: "best", "last" or the number of a step.
    operations: of the user's own, where the network has some.

  Returns:
    The network: a supernet where the run was a search, a derived network or a `UNet3D` where it was a training; its
    variables, float32 `jax.Array`, bit for bit as they were saved; and the metadata of the run.

  Raises:
    InputError: there is no such checkpoint, it is damaged (then others of the run are named that are not), its metadata
      is wrong, or its arrays are not the network's.
  """
  folder = checkpoints.open_run(run_or_checkpoint, which)
  try:
    return _restore(folder, operations)
  except DamagedCheckpoint as error:
    raise DamagedCheckpoint(f"{error}. {_sound_ones(folder)}") from error


def _restore(folder: Path, operations: Sequence[CustomOperation]) -> tuple[Network, Variables, RunMetadata]:
  stored = checkpoints.read_metadata(folder)
  try:
    metadata = RunMetadata.from_dict(stored)
  except InputError as error:
    raise InputError(
      f"checkpoint {folder} cannot be restored, its metadata is wrong: {error}; use one as search or train wrote it"
    ) from error
  if isinstance(metadata.network, NetworkConfig) and metadata.network.space.custom:
    space = metadata.network.space.with_operations(operations)
    metadata = dataclasses.replace(metadata, network=dataclasses.replace(metadata.network, space=space))
  net = build_network(metadata)
  return net, checkpoints.read_variables(folder, like=variable_shapes(net)), metadata


def _sound_ones(folder: Path) -> str:
  """Which checkpoints beside a damaged one may be used in its stead; none is taken unasked."""
  sound = checkpoints.sound_steps(folder.parent, without=int(folder.name)) if folder.name.isdecimal() else []
  if not sound:
    return "There is no other one beside it"
  return f"Beside it {', '.join(map(str, sound))} can be read whole: name one, as in {folder.with_name(str(sound[-1]))}"


def build_network(metadata: RunMetadata) -> Network:
  """The network that a run's metadata describes, without variables."""
  if metadata.architecture in HAND_DESIGNED:
    return HAND_DESIGNED[metadata.architecture](metadata.network, dropout_rate=metadata.dropout_rate)
  if metadata.genotype is None:
    return Supernet(metadata.network, dropout_rate=metadata.dropout_rate)
  return DerivedNet(metadata.network, metadata.genotype, dropout_rate=metadata.dropout_rate)


def fingerprint(kind: str, variables: Variables) -> str:
  """SHA-256 (hex) of a network, of which `kind` tells what else counts, and its parameters, wherever they lie."""
  digest = hashlib.sha256(kind.encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    array = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
  return digest.hexdigest()
