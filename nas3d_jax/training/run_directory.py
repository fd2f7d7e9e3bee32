"""A run directory: the configuration that produced it, its history, its checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from nas3d_jax.checkpointing.checkpoints import Checkpoints
from nas3d_jax.checkpointing.step_folders import clear_up, remove_all, steps_in
from nas3d_jax.errors import DamagedCheckpoint, InputError, Unreadable
from nas3d_jax.files.atomic import write_whole, writing
from nas3d_jax.files.locks import holds_nothing, locked
from nas3d_jax.files.own_files import open_kept
from nas3d_jax.files.run_layout import CHECKPOINTS, CONFIG, EVENTS, GENOTYPE, METRICS
from nas3d_jax.files.strict_json import parse_json, read_file, write_json
from nas3d_jax.runtime.distributed import say


class LastCheckpoint(NamedTuple):
  """What a run goes on from.

  Attributes:
    variables: what `net.apply` takes.
    training: what else the next step depends on.
    positions: of the input iterators, by name.
    metadata: what else is known of the run, plain JSON values.
  """

  variables: Any
  training: Any
  positions: dict[str, Any]
  metadata: dict[str, Any]


class Run:
  """An open run directory; one process writes to it at a time.

  It holds `config.json` (settings, data set, and the device and versions of every session), `metrics.jsonl` (one JSON
  object an epoch), `checkpoints/`, TensorBoard's event files if asked for, and `genotype.json` when a search is done.

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
    defaults: Mapping[str, Any] = MappingProxyType({}),
    primary: bool = True,
    agree: Callable[[int], int] = int,
  ):
    """Makes the directory, or goes on with it.

    Args:
      folder: the directory.
      settings: plain JSON values that the result depends on.
      device: what this session runs on, `DeviceReport.to_dict()`.
      overwrite: start anew; what an earlier run wrote is deleted, but for batches in `nonfinite/`.
      changeable: settings that may differ from those of the earlier run.
      defaults: settings of an earlier run that does not name them, because there was no such option yet.
      primary: whether this process is the one that writes, of several that run together; the others neither lock nor
        change anything.
      agree: what the first process says, a bool or a step, in all of them; each waits for the others.

    Raises:
      InputError: there is a run with other settings, or something that is no run; another process writes to it; or
        it cannot be written to.
    """
    self.folder, self._primary, self._agree = folder, primary, agree
    with contextlib.ExitStack() as opened:
      failed = None
      if primary:
        try:
          opened.enter_context(locked(folder))
          with writing(folder):
            self._begin(settings, device, overwrite, changeable, defaults)
        except InputError as error:
          failed = error
      if not agree(failed is None):
        raise failed or InputError(f"the first process could not begin in {folder}; see what it says")
      self.checkpoints = opened.enter_context(Checkpoints(folder / CHECKPOINTS))
      self._opened = opened.pop_all()

  def _begin(
    self,
    settings: Mapping[str, Any],
    device: Mapping[str, Any],
    overwrite: bool,
    changeable: Collection[str],
    defaults: Mapping[str, Any],
  ) -> None:
    earlier, sessions = self._earlier(), []
    if earlier and overwrite:
      self._clear()
    elif earlier:
      _require_same(self.folder, {**defaults, **earlier["settings"]}, settings, changeable)
      sessions = earlier["sessions"]
    write_json(self.folder / CONFIG, {"settings": dict(settings), "sessions": [*sessions, dict(device)]})
    # Before the other processes look for checkpoints.
    clear_up(self.folder / CHECKPOINTS)

  def __enter__(self) -> Run:
    return self

  def __exit__(self, *error: object) -> None:
    self._opened.close()

  def record(self, values: Mapping[str, Any]) -> None:
    """Appends a record of an epoch; plain JSON values, numbers finite; its "epoch" counts from 1."""
    line = json.dumps(values, allow_nan=False) + "\n"
    if self._primary:
      with writing(self.folder), open_kept(self.folder / METRICS, append=True) as file:
        file.write(line.encode("utf-8"))
        file.flush()
        # The checkpoint of this epoch comes next: it must not outlive the record.
        os.fsync(file.fileno())

  def write(self, name: str, text: str) -> None:
    """Writes a file of the directory, whole or not at all."""
    if self._primary:
      with writing(self.folder):
        write_whole(self.folder / name, text)

  def resume(self, *, variables: Any, training: Any) -> LastCheckpoint | None:
    """Reads the last checkpoint, and drops the records of epochs that were not over when it was saved.

    Where it is damaged, the one before serves, with a warning; the damaged one is set aside, as `<step>.damaged`.

    Args:
      variables: a tree of the form of those saved.
      training: the same of what else was saved; its field `epoch` is the number of epochs that are over.

    Returns:
      What was saved, None where there is no checkpoint yet.

    Raises:
      InputError: the checkpoint is of another form or of a newer version, all there are, are damaged, or this process
        sees others than the first one; then nothing is changed.
    """
    steps = self.checkpoints.steps
    # A file system of several hosts may still show what another one has just renamed; they would wait for ever, or go
    # on from different steps.
    last = -1 if steps.last is None else steps.last
    if (first := self._agree(last)) != last:
      seen, wanted = ("none" if step < 0 else f"step {step}" for step in (last, first))
      raise InputError(
        f"{self.checkpoints.folder}: this process sees {seen} as the last checkpoint, the first process {wanted}; all "
        "must see the same folder; if they do, wait a minute and run again"
      )
    if steps.last is None:
      self._keep_records(0)
      return None
    found, damaged = None, {}
    for step in sorted(steps.metrics, reverse=True):
      found, error = self._read(step, variables, training)
      if self._agree(error is None):
        if error is not None:
          raise error  # it is damaged for this process alone
        break
      damaged[step] = error or DamagedCheckpoint(f"step {step} is damaged for the first process")
    else:
      reasons = "\n".join(f"  {error}" for error in damaged.values())
      raise InputError(
        f"{self.folder} cannot be gone on with, all of its checkpoints are damaged; put back a copy of one, or start "
        f"anew with --overwrite. Nothing was changed:\n{reasons}"
      )
    # Those before are not read; but one without its metric could not be told from the best.
    damaged |= {step: error for step, error in steps.unrated.items() if step not in damaged}
    for bad, error in damaged.items():
      name = steps.set_aside(bad).name
      if self._primary:
        say(f"warning: {error}. It is called {name} now; going on from step {step}")
    steps.remove_superseded()
    self._keep_records(found.training.epoch)
    return found

  def _read(
    self, step: int, variables: Any, training: Any
  ) -> tuple[LastCheckpoint, None] | tuple[None, DamagedCheckpoint]:
    try:
      # First the metadata: it says whether the rest is of a version that we know.
      metadata = self.checkpoints.metadata(step)
      if step in self.checkpoints.steps.unrated:
        return None, self.checkpoints.steps.unrated[step]
      variables, training = self.checkpoints.restore(step, variables=variables, training=training)
      return LastCheckpoint(variables, training, self.checkpoints.iterators(step), metadata), None
    except DamagedCheckpoint as error:
      return None, error

  def _keep_records(self, epochs: int) -> None:
    """Drops the records of later epochs, and lines that are cut short."""
    path = self.folder / METRICS
    if self._primary and path.exists():
      kept = [line for line in path.read_bytes().splitlines() if 0 < _epoch_of(line) <= epochs]
      with writing(self.folder):
        write_whole(path, b"".join(line + b"\n" for line in kept))

  def _earlier(self) -> dict[str, Any] | None:
    path = self.folder / CONFIG
    if not path.exists():
      if holds_nothing(self.folder):
        return None
      raise InputError(
        f"{self.folder} must be new or hold a run with {CONFIG}; move away what is there, or name another folder"
      )
    try:
      stored = parse_json(read_file(path, "put back a copy of it"))
      if isinstance(stored["settings"], dict) and isinstance(stored["sessions"], list):
        return stored
    except Unreadable:
      raise
    except (ValueError, KeyError, TypeError):
      pass
    raise InputError(f"{path} is damaged, or not that of a run; put back a copy of it, or name another folder")

  def _clear(self) -> None:
    """Deletes records, event files, genotype, checkpoints, nothing else; `config.json` stays: it marks the folder."""
    remove_all(self.folder / CHECKPOINTS)
    for path in (self.folder / METRICS, self.folder / GENOTYPE, *self.folder.glob(f"{EVENTS}.out.tfevents.*")):
      path.unlink(missing_ok=True)


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


def _epoch_of(line: bytes) -> int:
  """The epoch of a record, 0 where a line is none."""
  try:
    epoch = parse_json(line)["epoch"]
  except (ValueError, KeyError, TypeError):
    return 0
  return epoch if isinstance(epoch, int) else 0


def has_checkpoint(folder: Path) -> bool:
  """Whether the run in this folder, if there is one, has a finished checkpoint to go on from."""
  return bool(steps_in(folder / CHECKPOINTS))


def settings_of(folder: Path) -> Mapping[str, Any]:
  """Of the run that is there; empty where they cannot be read, which opening the run reports."""
  try:
    found = parse_json((folder / CONFIG).read_bytes())["settings"]
  except (OSError, ValueError, KeyError, TypeError):
    return {}
  return found if isinstance(found, dict) else {}
