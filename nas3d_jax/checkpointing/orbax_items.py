"""Writes and reads the items of a checkpoint with Orbax; the only file that knows Orbax."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from nas3d_jax.checkpointing import integrity, literal_paths
from nas3d_jax.checkpointing.integrity import ARRAYS, CHECKSUMS, VALUES
from nas3d_jax.checkpointing.quiet import quiet, settle
from nas3d_jax.errors import DamagedCheckpoint
from nas3d_jax.files.atomic import writing


class Writer:
  """Writes one checkpoint after the other in the background.

  Args:
    folder: what errors name.
  """

  def __init__(self, folder: Path):
    self._folder, self._failed = folder, None
    handlers = {item: ocp.PyTreeCheckpointHandler() for item in ARRAYS}
    handlers |= {item: _json(item) for item in (*VALUES, CHECKSUMS)}
    # Folders are made before the threads start: where one cannot be made, threads would wait minutes for the signal
    # that it is there, and no process ends before its threads do.
    how = ocp.AsyncOptions(create_directories_asynchronously=False)
    composite = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(async_options=how), **handlers)
    self._orbax = ocp.AsyncCheckpointer(composite, async_options=how)

  def save(self, step: Path, arrays: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Begins to write a checkpoint; the one before has to be waited for.

    Args:
      step: its folder.
      arrays: nested dictionaries of NumPy arrays, by item.
      values: plain JSON values, by item.

    Raises:
      InputError: the disk is full, or the permissions do not suffice.
    """
    items = {item: ocp.args.PyTreeSave(tree) for item, tree in arrays.items()}
    items |= {item: ocp.args.JsonSave(value) for item, value in values.items()}
    with writing(self._folder):
      self._orbax.save(step, args=ocp.args.Composite(**items))

  def wait(self) -> None:
    """Returns when the checkpoint is on disk.

    Raises:
      InputError: the disk is full, or the permissions do not suffice.
    """
    failed, self._failed = self._failed, None
    with writing(self._folder):
      self._orbax.wait_until_finished()
      if failed is not None:
        raise failed

  def has_failed(self) -> bool:
    """Whether an error waits for `wait`; may be asked in any thread."""
    try:
      self._orbax.check_for_errors()
    except Exception as error:  # Orbax raises it once
      self._failed = error
    return self._failed is not None

  def close(self) -> None:
    """Waits, then ends the threads; raises as `wait`."""
    with writing(self._folder):
      self._orbax.close()


def read_item(folder: Path, item: str) -> Any:
  """One item of a step, as Orbax restores it.

  Args:
    folder: of the step.
    item: one of `ARRAYS`, which gives nested dictionaries of NumPy arrays, or another, which gives a plain JSON value.

  Raises:
    DamagedCheckpoint: it is not there, or Orbax, TensorStore or JSON cannot read it.
    InputError: the system refuses to read it, or there is not enough memory.
  """
  if not (folder / item).is_dir():
    raise DamagedCheckpoint(f"no checkpoint in {folder}: it should hold params/ and metadata/, no {item}/")
  with quiet("orbax"):
    try:
      return _read_arrays(folder / item) if item in ARRAYS else _read_json(folder, item)
    except Exception as error:
      scarce = isinstance(error, MemoryError)
      reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    # Not within `except`, and not as a cause: that would keep the exception and with it threads that print.
    if item in ARRAYS:
      settle()
  integrity.refuse_unreadable(folder, scarce=scarce)
  raise integrity.unreadable(folder, item, reason)


def _read_json(folder: Path, item: str) -> Any:
  with literal_paths.literal(folder.absolute()) as found:
    return _json(item).restore(found / item)


def _read_arrays(path: Path) -> Any:
  with (
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
    literal_paths.merged(path.absolute()) as merged,
  ):
    return checkpointer.restore(merged)


def _json(item: str) -> ocp.JsonCheckpointHandler:
  return ocp.JsonCheckpointHandler("metrics" if item == "metrics" else "metadata")  # as Orbax's own manager names them
