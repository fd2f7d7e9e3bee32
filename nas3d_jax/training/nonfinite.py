"""Steps whose loss or gradient is not finite: tolerated up to a number, else reported with case and patch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nas3d_jax.data.patches.host_source import HostSource
from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import whole
from nas3d_jax.files.own_files import own_folder
from nas3d_jax.files.run_layout import NONFINITE
from nas3d_jax.runtime.distributed import say


class Source(NamedTuple):
  """Where the batches of an update come from.

  Attributes:
    patches: what they are read from.
    key: random key of its augmentation in that step, None without.
  """

  patches: HostSource
  key: jax.Array | None


@dataclasses.dataclass
class Skips:
  """Counts the steps of a run that were left out.

  A step leaves parameters and optimiser as they were where its update is not finite, so that the run can go on.

  Attributes:
    folder: of the run; the batch of the step that ends it is written to `nonfinite/` in it.
    tolerated: how many are.
    count: how many there were, in all sessions.
  """

  folder: Path
  tolerated: int
  count: int = 0

  def add(
    self, *, step: int, epoch: int, ago: int, metrics: Mapping[str, float], sources: Mapping[str, Source]
  ) -> None:
    """Counts one.

    Args:
      step: its number in the run, from 1.
      epoch: its epoch, from 1.
      ago: batches that were taken since.
      metrics: of the step; of each update `<prefix>loss` and `<prefix>finite`.
      sources: of each update by this prefix, in their order.

    Raises:
      InputError: there were more than are tolerated; names the step, the update, the case and the patch.
    """
    # The first one: what comes after it in the step may only be its consequence.
    prefix, source = next(item for item in sources.items() if not metrics[f"{item[0]}finite"])
    loss = metrics[f"{prefix}loss"]
    what = f"the gradient of {prefix}loss ({loss:g}) is not finite"
    what = what if math.isfinite(loss) else f"{prefix}loss is {loss}"
    said = f"step {step} (epoch {epoch}): {what}, on {source.patches.describe(ago)}"
    self.count += 1
    if self.count <= self.tolerated:
      say(f"{said}; left out, {self.count} of {self.tolerated} tolerated")
      return
    written = self._write(step, source.patches.read(ago, source.key), metrics)
    raise InputError(
      f"{said}. The last checkpoint is as it was, the batch {written}. Look at that case; if it is sound, start "
      f"anew with a lower learning rate and --overwrite, or go on with --skip_nonfinite={self.count} or more"
    )

  def _write(self, step: int, batch: Mapping[str, np.ndarray], metrics: Mapping[str, float]) -> str:
    """Writes the batch; returns where it is, or why it is not, for the message that ends the run in any case."""
    path = self.folder / NONFINITE / f"step_{step}.npz"
    if jax.process_index() == 0:
      values: dict[str, Any] = {**batch, **{name: np.float32(value) for name, value in metrics.items()}}
      try:
        own_folder(path.parent)
        with whole(path) as file:
          np.savez_compressed(file, **values)
      except OSError as error:
        return f"cannot be written to {path} ({error.strerror})"
    return f"is in {path}"
