"""Writes and reads the items of a checkpoint with Orbax; the only file that knows Orbax."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from nas3d_jax.checkpointing import integrity, literal_paths
from nas3d_jax.checkpointing.integrity import ARRAYS, CHECKSUMS, VALUES
from nas3d_jax.checkpointing.quiet import quiet, settle
from nas3d_jax.checkpointing.serialization import differences
from nas3d_jax.errors import DamagedCheckpoint
from nas3d_jax.files.atomic import writing

_FREE, _MOST_PACKED = 64 * 2**20, 20
"""Bytes that are read in any case, and by how much parameters may be smaller in files: they hardly can be packed."""


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


def read_item(folder: Path, item: str, like: Any = None) -> Any:
  """One item of a step, as Orbax restores it.

  Args:
    folder: of the step.
    item: one of `ARRAYS`, which gives nested dictionaries of NumPy arrays, or another, which gives a plain JSON value.
    like: the tree of arrays that is expected, see `serialization.from_plain`, where that is known. Arrays of other
      shapes are read too, to tell damage from another network, but not where they would be far larger than the files.

  Raises:
    DamagedCheckpoint: it is not there, Orbax, TensorStore or JSON cannot read it, or it would take more memory than it
      can be meant to.
    InputError: the system refuses to read it, or there is not enough memory.
  """
  if not (folder / item).is_dir():
    raise DamagedCheckpoint(f"no checkpoint in {folder}: it should hold params/ and metadata/, no {item}/")
  with quiet("orbax"), warnings.catch_warnings():
    # Of coroutines that Orbax did not come to.
    warnings.simplefilter("ignore", RuntimeWarning)
    try:
      return _read_arrays(folder / item, like) if item in ARRAYS else _read_json(folder, item)
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


def _read_arrays(path: Path, like: Any) -> Any:
  with (
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
    literal_paths.merged(path.absolute()) as merged,
  ):
    # A shape is a few bytes, which may be damaged, and memory that cannot be had ends the process within TensorStore.
    _check_size(checkpointer.metadata(merged).item_metadata.tree, like, path)
    return checkpointer.restore(merged)


def _check_size(stored: Any, like: Any, path: Path) -> None:
  """Raises a ValueError where arrays would take more memory than there is, or than an item of these files can."""
  said = sum(map(_bytes_to_read, jax.tree.leaves(stored)))
  files = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
  other = "" if like is None else differences(stored, like)
  suspicious = like is not None and said > 2 * sum(map(_bytes, jax.tree.leaves(like)))
  if said > _memory() or (suspicious and said > _FREE + _MOST_PACKED * files):
    why = f"; {other}" if other else ""
    raise ValueError(f"its arrays take {said / 1e9:.1f} GB, its files {files / 1e9:.3f} GB{why}")


def _bytes_to_read(array: Any) -> int:
  """Of an array as Orbax describes it; it is read by whole chunks."""
  chunk = array.storage.chunk_shape if getattr(array, "storage", None) else None
  return max(_bytes(array), math.prod(chunk or ()) * np.dtype(array.dtype).itemsize)


def _bytes(array: Any) -> int:
  shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
  known = shape is not None and isinstance(dtype, np.dtype)
  return math.prod(shape) * dtype.itemsize if known else 8  # a number, or a random key of a few


def _memory() -> float:
  """Bytes of the machine, without end where that is not known."""
  if not hasattr(os, "sysconf"):
    return math.inf
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _json(item: str) -> ocp.JsonCheckpointHandler:
  return ocp.JsonCheckpointHandler("metrics" if item == "metrics" else "metadata")  # as Orbax's own manager names them
