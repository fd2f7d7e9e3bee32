"""Checkpoints of a run, written with Orbax.

A run keeps its last two checkpoints and the best, each a folder named after its step:

    <run>/checkpoints/<step>/
      params/      the variable tree exactly as `net.apply` takes it, {"params": {...}}
      training/    everything else that the next step depends on: optimiser states, schedules, counts, best loss, random
                   key, epoch, step
      metadata/    JSON: "format_version" and what describes the run (kind of network, configuration, genotype,
                   schema, package versions, metrics)
      input/       JSON: where each input iterator stands, {name: {"encoding": "json" | "base64", "state": ...}}
      metrics/     JSON: {"best_metric": float}, the lowest is the best; absent without one
      checksums/   JSON: SHA-256 of what the others hold, as `integrity.py` takes it: {"params": {path: sum},
                   "training": {path: sum}, "metadata": sum, "input": sum, "metrics": sum}

`params` and `training` are Orbax PyTree items, nested dictionaries of NumPy arrays (see `serialization.py` for how a
state maps to them), so that they open on any device and without this library. Shapes and dtypes are those of the state;
nothing is cast. This is format version 1.

A step folder appears by one rename when all its files are written; until then `.orbax-checkpoint-tmp` stands in its
name, it is never read, and it is removed when the run goes on. Orbax restores most flipped bytes without an error, so
the checksums are compared whenever something is read; a checkpoint without checksums opens unchecked. A damaged one,
which a run went on without, is called `<step>.damaged`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from nas3d_jax.checkpointing import integrity, literal_paths, step_folders
from nas3d_jax.checkpointing.integrity import CHECKSUMS, FORMAT_VERSION, array_sums, value_sum
from nas3d_jax.checkpointing.orbax_items import Writer, read_item
from nas3d_jax.checkpointing.quiet import quiet, settle
from nas3d_jax.checkpointing.serialization import checked_json, decode_position, encode_position, from_plain, to_plain
from nas3d_jax.checkpointing.step_folders import StepFolders
from nas3d_jax.errors import DamagedCheckpoint, InputError
from nas3d_jax.files.atomic import writing
from nas3d_jax.files.run_layout import CHECKPOINTS
from nas3d_jax.validation import is_whole

PyTree = Any
Which = Literal["best", "last"] | int


class Checkpoints:
  """The last two checkpoints of one run, and the best; one writer at a time.

  Args:
    folder: `<run>/checkpoints`.
    create: True opens it for writing, and makes it or removes what an interrupted write left; False reads only.

  Attributes:
    steps: those that were saved.

  Raises:
    InputError: `create` is False and there is no such folder, or it cannot be written to.
  """

  def __init__(self, folder: str | Path, *, create: bool = True):
    self.folder = Path(folder).absolute()
    if not create and not self.folder.is_dir():
      raise InputError(f"no checkpoints in {self.folder}: no such folder")
    self._writer, self._unfinished, self._verified = None, None, False
    first = jax.process_index() == 0
    with contextlib.ExitStack() as opened:
      if create:
        opened.enter_context(quiet("orbax"))
        with writing(self.folder):
          if self.folder.is_symlink() and not self.folder.exists():
            raise InputError(
              f"{self.folder} is a link to {os.readlink(self.folder)}, where there is nothing; make that folder, or "
              "see that its disk is there"
            )
          self.folder.mkdir(parents=True, exist_ok=True)
          if first:
            step_folders.clear_up(self.folder)
      self.steps = StepFolders(self.folder, functools.partial(integrity.metric, read_item), first=first)
      if create:
        self._literal = opened.enter_context(literal_paths.literal(self.folder))
        self._writer = Writer(self.folder)
        opened.callback(self._end_writing)
      self._open = opened.pop_all()

  def save(
    self,
    step: int,
    *,
    variables: PyTree,
    training: PyTree,
    metadata: Mapping[str, Any],
    iterators: Mapping[str, Any],
    best_metric: float | None,
  ) -> None:
    """Writes a checkpoint in the background, then removes what is superseded.

    The arrays are copied before this returns, so that they may be donated to the next step.

    Args:
      step: number of the step; none may be above it, and one of the same step is replaced.
      variables: what `net.apply` takes; a tree of arrays.
      training: what else the next step depends on; a tree of arrays, typed random keys, numbers.
      metadata: plain JSON values; "format_version" is added.
      iterators: name -> `get_state()` of an input iterator, plain JSON values or bytes.
      best_metric: the lowest is the best; None or a value that is not finite is never the best.

    Raises:
      InputError: the step is below the last one, a value has no JSON, `create` was False, or this checkpoint or the one
        before it cannot be written; those on disk stay as they are.
    """
    if self._writer is None:
      raise InputError(f"{self.folder} was opened with create=False: it can only be read")
    self.wait()
    last = self.latest_step()
    if last is not None and step < last:
      raise InputError(f"step must not be below {last}, the last one in {self.folder}, got {step}")
    metric = float(best_metric) if best_metric is not None and math.isfinite(best_metric) else None
    arrays = {"params": to_plain(variables), "training": to_plain(training)}
    values: dict[str, Any] = {
      "metadata": checked_json("metadata", {"format_version": FORMAT_VERSION, **metadata}),
      "input": {name: encode_position(name, state) for name, state in iterators.items()},
    }
    if metric is not None:
      values["metrics"] = {"best_metric": metric}
    sums = {item: array_sums(tree) for item, tree in arrays.items()}
    values[CHECKSUMS] = {**sums, **{item: value_sum(value) for item, value in values.items()}}
    if step == last:
      self.steps.renew(step)
    self._writer.save(self._literal / str(step), arrays, values)
    self.steps.metrics[step], self._unfinished = metric, step

  def latest_step(self) -> int | None:
    """The last step that was saved, None where there is none."""
    return self.steps.last

  def best_step(self) -> int | None:
    """The step with the lowest metric (the later of equals), None where no step has one; raises if one is damaged."""
    return self.steps.rated_best()

  def restore(self, step: int, *, variables: PyTree, training: PyTree) -> tuple[PyTree, PyTree]:
    """Variables and training state of a step in the forms given, see `read_variables`."""
    folder = self.step_folder(step)
    return read_variables(folder, variables), read_training(folder, training)

  def metadata(self, step: int) -> dict[str, Any]:
    """The metadata of a step, see `read_metadata`."""
    return read_metadata(self.step_folder(step))

  def iterators(self, step: int) -> dict[str, Any]:
    """Where the input iterators stood, by name, as given to `save`."""
    folder = self.step_folder(step)
    entries = integrity.checked(read_item, folder, "input")
    with integrity.taking_apart(folder, "input"):
      return {name: decode_position(entry) for name, entry in entries.items()}

  def step_folder(self, step: int) -> Path:
    """The folder of a finished checkpoint, an InputError if there is none; waits for one that is being written."""
    self.wait()
    if step not in self.steps.metrics:
      raise InputError(f"no checkpoint of step {step} in {self.folder}; there are {sorted(self.steps.metrics)}")
    return self.folder / str(step)

  def wait(self) -> None:
    """Returns when everything is on disk; raises what went wrong in the background."""
    if self._unfinished is None:
      return
    try:
      self._writer.wait()
    except Exception:
      del self.steps.metrics[self._unfinished]
      self._unfinished = None
      settle()
      raise
    step, self._unfinished = self._unfinished, None
    self.steps.settle()
    if not self._verified:
      self._verify(step)
    self.steps.remove_superseded()

  def _verify(self, step: int) -> None:
    """Reads the first checkpoint of a run back, before the run relies on the next ones."""
    try:
      integrity.check_whole(read_item, self.folder / str(step))
    except DamagedCheckpoint as error:
      raise InputError(
        f"what was written to {self.folder} does not come back as it was ({error}); put the run directory elsewhere"
      ) from error
    self._verified = True

  def is_writing(self) -> bool:
    """Whether a checkpoint is not on disk yet; may be asked in any thread."""
    step = self._unfinished
    return step is not None and not self._writer.has_failed() and not (self.folder / str(step)).exists()

  def close(self) -> None:
    """Waits, then releases the folder; the object cannot be used after."""
    with self._open:
      self.wait()

  def _end_writing(self) -> None:
    """Ends the writer; what stood aside goes, or comes back where the new one is not whole."""
    try:
      self._writer.close()
    finally:
      self.steps.settle()

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *error) -> None:
    self.close()


def open_run(run_or_checkpoint: str | Path, which: Which = "best") -> Path:
  """Finds one checkpoint: the folder of its step, for the functions `read_*`.

  Args:
    run_or_checkpoint: a run directory (it holds `checkpoints/`), its `checkpoints` folder, or the folder of one step,
      wherever it was copied to; of one step, `which` is not asked.
    which: "best", "last" or the number of a step.

  Raises:
    InputError: there is no such checkpoint; names the folder and what it should hold.
  """
  path = Path(run_or_checkpoint).absolute()
  if which not in ("best", "last") and not is_whole(which):
    raise InputError(f'which must be "best", "last" or the number of a step, got {which!r}')
  if step_folders.is_step(path):
    return path
  if not path.is_dir():
    raise InputError(f"no checkpoint in {path}: no such folder")
  folder = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
  if not step_folders.steps_in(folder):
    what = f"a run directory with {CHECKPOINTS}/<step>/, that {CHECKPOINTS} folder, or one step's folder with params/"
    raise InputError(f"no checkpoint in {path}: it should be {what} and metadata/")
  with Checkpoints(folder, create=False) as checkpoints:
    step = {"best": checkpoints.best_step, "last": checkpoints.latest_step}.get(which, lambda: which)()
    if step is None:
      raise InputError(f'no checkpoint in {folder} has a metric to be best; use which="last"')
    return checkpoints.step_folder(step)


def read_variables(folder: Path, like: PyTree | None = None) -> PyTree:
  """The network's variables of a step's folder.

  Args:
    folder: of one step, from `open_run`.
    like: the tree that is expected, see `serialization.from_plain`; None takes what there is.

  Returns:
    The tree in the form of `like`, bit for bit as it was saved; without `like` nested dictionaries of `jax.Array`.

  Raises:
    InputError: the item is not what was saved (`DamagedCheckpoint`), or its arrays are not those of `like`.
  """
  return _read_arrays(folder, "params", like)


def read_training(folder: Path, like: PyTree) -> PyTree:
  """The rest of the training state, in the form of `like`; else as `read_variables`."""
  return _read_arrays(folder, "training", like)


def read_metadata(folder: Path) -> dict[str, Any]:
  """The metadata of a step, plain JSON values; an InputError if a newer nas3d_jax wrote it, or it is damaged."""
  return integrity.metadata(read_item, folder)


def sound_steps(folder: Path, *, without: int | None = None) -> list[int]:
  """The steps of a `checkpoints` folder, except `without`, that can be read whole and are what was saved."""
  return integrity.sound_steps(read_item, folder, without)


def _read_arrays(folder: Path, item: str, like: PyTree | None) -> PyTree:
  plain = integrity.checked(functools.partial(read_item, like=like), folder, item)
  if like is None:
    return jax.tree.map(jax.numpy.array, plain)
  try:
    return from_plain(plain, like)
  except InputError as error:
    raise InputError(f"checkpoint {folder} does not fit, in its {item}: {error}") from None
