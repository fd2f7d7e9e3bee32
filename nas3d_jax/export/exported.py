"""A network that was exported for JAX, read back; nothing here constructs a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from jax.typing import ArrayLike

from nas3d_jax.data.intensities import Intensities
from nas3d_jax.errors import InputError
from nas3d_jax.export.contents import JAX_NETWORK, METADATA, VERSION
from nas3d_jax.files.strict_json import read_json
from nas3d_jax.inference.config import PAPER, InferenceChoices
from nas3d_jax.inference.volume import OnPatch, checked_volume, predict_mean
from nas3d_jax.schema.schema import Schema


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
  """A network that runs on the platforms it was exported for.

  Attributes:
    function: what `jax.export.deserialize` gave.
    metadata: plain JSON values, see `contents.describe`.
  """

  function: jax_export.Exported
  metadata: Mapping[str, Any]

  def __post_init__(self):
    object.__setattr__(self, "_call", jax.jit(self.function.call))

  @property
  def schema(self) -> Schema:
    """Names of modalities and regions; its `decode` makes labels of probabilities."""
    return Schema.from_dict(self.metadata["schema"])

  @property
  def intensities(self) -> Intensities:
    """Foreground and normalisation of the training."""
    return Intensities.from_dict(self.metadata["intensities"])

  def __call__(self, patches: ArrayLike, low: ArrayLike, high: ArrayLike) -> jax.Array:
    """Probabilities of some patches of one case.

    Args:
      patches: [N, D, H, W, M] of a volume that `intensities.prepare` made; D, H, W multiples of
        `metadata["multiple"]`.
      low: [M], as `high` from `intensities.bounds` of the whole volume.
      high: [M].

    Returns:
      float32 [N, D, H, W, R] between 0 and 1.

    Raises:
      InputError: a shape does not fit.
    """
    patches = np.asarray(patches, np.float32)
    unit, channels = self.metadata["multiple"], len(self.metadata["modalities"])
    if patches.ndim != 5 or patches.shape[-1] != channels or any(n < unit or n % unit for n in patches.shape[1:4]):
      raise InputError(
        f"patches must be [N, D, H, W, {channels}] with lengths that are multiples of {unit}, got shape {patches.shape}"
      )
    return self._call(patches, np.asarray(low, np.float32), np.asarray(high, np.float32))

  def predict_volume(
    self, volume: np.ndarray, *, choices: InferenceChoices = PAPER, on_patch: OnPatch | None = None
  ) -> np.ndarray:
    """Probabilities of a whole case, as of `nas3d_jax.predict_volume`.

    Args:
      volume: [D, H, W, M] raw intensities, in `metadata["geometry"]` where that is given.
      choices: of inference.
      on_patch: called with the patches done and their number after each.

    Returns:
      float32 [D, H, W, R]; 0 outside the brain.

    Raises:
      InputError: the volume does not fit.
    """

    def step(_, patch, low, high):
      return self(patch, low, high) if np.ndim(patch) == 5 else self(np.asarray(patch)[None], low, high)[0]

    volume = self.intensities.prepare(checked_volume(volume, len(self.metadata["modalities"])))
    sizes = dict(patch_size=tuple(self.metadata["patch_size"]), regions=len(self.metadata["regions"]))
    sizes |= dict(multiple=self.metadata["multiple"], bounds=self.intensities.bounds(volume))
    return predict_mean([(step, {})], volume, **sizes, choices=choices, on_patch=on_patch)


def load_exported(path: str | Path) -> Exported:
  """Reads a network that the stage export wrote with --format=jax.

  Args:
    path: the folder.

  Returns:
    What applies it, with its metadata.

  Raises:
    InputError: the folder is none that was exported for JAX, or is damaged.
  """
  folder = Path(path)
  if not (folder / METADATA).is_file():
    raise InputError(f"{folder} is no exported network, it has no {METADATA}; name one that the stage export wrote")
  metadata = read_json(folder / METADATA, "export the checkpoint anew")
  if not isinstance(metadata, dict) or metadata.get("export_version") != VERSION:
    raise InputError(f"{folder / METADATA} is not that of an export of version {VERSION}; export the checkpoint anew")
  if metadata.get("format") != "jax":
    raise InputError(f"{folder} is exported as {metadata.get('format')!r}; export the checkpoint with --format=jax")
  try:
    function = jax_export.deserialize(bytearray((folder / JAX_NETWORK).read_bytes()))
  except Exception as error:
    raise InputError(f"{folder / JAX_NETWORK} cannot be read ({error!r:.200}); export the checkpoint anew") from error
  return Exported(function, metadata)
