"""A run directory: the configuration that produced it, its history, its checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nas3d_jax import checkpoints
from nas3d_jax.checkpoints import Checkpoints
from nas3d_jax.data.dataset import read_json, write_json
from nas3d_jax.errors import InputError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
GENOTYPE = "genotype.json"


class LastCheckpoint(NamedTuple):
  """What a run goes on from.

  Attributes:
    variables: what `net.apply` takes.
    training: what else the next step depends on.
    positions: of the input iterators, by name.
    metadata: what the run said of itself.
  """

  variables: Any
  training: dict[str, Any]
  positions: dict[str, Any]
  metadata: dict[str, Any]


class Run:
  """An open run directory.

  It holds `config.json` (settings, data set, and the device and versions of every session), `metrics.jsonl` (one JSON
  object an epoch), `checkpoints/` and, when a search is done, `genotype.json`.

  Attributes:
    folder: the directory.
    checkpoints: its checkpoints, open for writing.
  """

  def __init__(
    self,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    device: Mapping[str, Any],
    overwrite: bool,
    changeable: Collection[str] = (),
    primary: bool = True,
    agree: Any = bool,
  ):
    """Makes the directory, or goes on with it.

    Args:
      folder: the directory.
      settings: plain JSON values that the result depends on.
      device: what this session runs on, `DeviceReport.to_dict()`.
      overwrite: start anew; what an earlier run wrote is deleted.
      changeable: settings that may differ from those of the earlier run.

    Raises:
      InputError: there is a run with other settings, or something that is no run.
    """
    self.folder, self._primary = folder, primary
    failed = None
    if primary:
      try:
        self._begin(folder, settings, device, overwrite, changeable)
      except InputError as error:
        failed = error
    if not agree(failed is None):
      raise failed or InputError(f"the first process could not begin in {folder}; see what it says")
    self.checkpoints = Checkpoints(folder / checkpoints.FOLDER)

  def _begin(self, folder, settings, device, overwrite, changeable):
    earlier, sessions = self._earlier(), []
    if earlier and overwrite:
      self._clear()
    elif earlier:
      _require_same(folder, earlier["settings"], settings, changeable)
      sessions = earlier["sessions"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, {"settings": dict(settings), "sessions": [*sessions, dict(device)]})

  def __enter__(self) -> Run:
    return self

  def __exit__(self, *error: object) -> None:
    self.checkpoints.close()

  def record(self, values: Mapping[str, Any]) -> None:
    """Appends a record of an epoch; plain JSON values, numbers finite."""
    if not self._primary:
      return
    with (self.folder / METRICS).open("a", encoding="utf-8") as file:
      file.write(json.dumps(values, allow_nan=False) + "\n")

  def write(self, name: str, text: str) -> None:
    """Writes a file of the directory, whole or not at all."""
    if not self._primary:
      return
    beside = self.folder / f".{name}.partial"
    beside.write_text(text, "utf-8")
    os.replace(beside, self.folder / name)

  def resume(self, *, variables: Any, training: Mapping[str, Any]) -> LastCheckpoint | None:
    """Reads the last checkpoint, and drops the records of epochs that were not over when it was saved.

    Args:
      variables: a tree of the form of those saved.
      training: likewise; its "epoch" is the number of epochs that are over.

    Returns:
      What was saved, None where there is no checkpoint yet.

    Raises:
      InputError: the checkpoint is damaged, or of another form.
    """
    step = self.checkpoints.latest_step()
    if step is None:
      self._keep_records(0)
      return None
    variables, training = self.checkpoints.restore(step, variables=variables, training=training)
    self._keep_records(training["epoch"])
    return LastCheckpoint(variables, training, self.checkpoints.iterators(step), self.checkpoints.metadata(step))

  def _keep_records(self, count: int) -> None:
    path = self.folder / METRICS
    if path.exists():
      self.write(METRICS, "".join(path.read_text("utf-8").splitlines(keepends=True)[:count]))

  def _earlier(self) -> dict[str, Any] | None:
    if (self.folder / CONFIG).exists():
      stored = read_json(self.folder / CONFIG)
      if isinstance(stored.get("settings"), dict) and isinstance(stored.get("sessions"), list):
        return stored
    elif not self.folder.exists() or not any(self.folder.iterdir()):
      return None
    raise InputError(
      f"{self.folder} must be new or hold a run with {CONFIG}; move away what is there, or name another folder"
    )

  def _clear(self) -> None:
    """Deletes what an earlier run wrote and nothing else; its `config.json` stays, by which the folder is known."""
    for name in (METRICS, GENOTYPE):
      (self.folder / name).unlink(missing_ok=True)
    shutil.rmtree(self.folder / checkpoints.FOLDER, ignore_errors=True)


def _require_same(
  folder: Path, earlier: Mapping[str, Any], settings: Mapping[str, Any], changeable: Collection[str]
) -> None:
  names = [name for name in {**earlier, **settings} if name not in changeable]
  changed = [
    f"{name} was {earlier.get(name)!r}, is {settings.get(name)!r}"
    for name in names
    if earlier.get(name) != settings.get(name)
  ]
  if changed:
    raise InputError(
      f"{folder} holds a run with other settings: {'; '.join(changed)}. Run with the same ones to go on, or with "
      "--overwrite to start anew"
    )


def has_checkpoint(folder: Path) -> bool:
  """Whether the run in this folder, if there is one, has a finished checkpoint to go on from."""
  return any(path.name.isdecimal() for path in (folder / checkpoints.FOLDER).glob("*"))
