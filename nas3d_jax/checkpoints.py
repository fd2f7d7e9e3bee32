"""Checkpoints of a run, written with Orbax; the only file that knows Orbax.

A run keeps two checkpoints, the last and the best, each a folder named after its step:

    <run>/checkpoints/<step>/
      params/      the variable tree exactly as `net.apply` takes it, {"params": {...}}
      training/    everything else that the next step depends on: optimiser states, schedules,
                   counts, best loss, random key, epoch, step
      metadata/    JSON: "format_version" and what the run says of itself (kind of network,
                   configuration, genotype, schema, package versions, metrics)
      input/       JSON: where each input iterator stands,
                   {name: {"encoding": "json" | "base64", "state": ...}}
      metrics/     JSON: {"best_metric": float}, the lowest is the best; absent without one

`params` and `training` are Orbax PyTree items, nested dictionaries of NumPy arrays (`plain.py`
says how a state maps to them), so that they open on any device and without this library. Shapes
and dtypes are those of the state; nothing is cast.

This is format version 1. A step folder appears by one rename when all its files are written; until
then it is called `<step>.orbax-checkpoint-tmp`, is never read, and is removed when the run goes on.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from nas3d_jax.errors import InputError
from nas3d_jax.plain import checked_json, decode_position, encode_position, from_plain, to_plain
from nas3d_jax.replacing import set_aside, settle

FORMAT_VERSION = 1
FOLDER = "checkpoints"

PyTree = Any
Which = Literal["best", "last"] | int


class Checkpoints:
  """The last and the best checkpoint of one run; one writer at a time.

  Args:
    folder: `<run>/checkpoints`.
    create: True opens the folder for writing, makes it where it is missing and removes what an
      interrupted write left; False reads only.

  Raises:
    InputError: `create` is False and there is no such folder.
  """

  def __init__(self, folder: str | Path, *, create: bool = True):
    self.folder = Path(folder).absolute()
    if not create and not self.folder.is_dir():
      raise InputError(f"no checkpoints in {self.folder}: no such folder")
    arrays, values = ocp.PyTreeCheckpointHandler, ocp.JsonCheckpointHandler
    handlers = {"params": arrays(), "training": arrays(), "metadata": values(), "input": values()}
    self._open = contextlib.ExitStack()
    self._open.enter_context(_quiet_orbax())
    if create:
      settle(self.folder)
      self._open.callback(settle, self.folder)
    self._manager = ocp.CheckpointManager(self.folder, options=_options(create), item_handlers=handlers)
    self._open.callback(self._manager.close)

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
    """Writes a checkpoint in the background, then removes every older one but the best.

    The arrays are copied before this returns, so that they may be donated to the next step.
    Args:
      step: number of the step; none may be above it, and one of the same step is replaced.
      variables: what `net.apply` takes; a tree of arrays.
      training: what else the next step depends on; a tree of arrays, typed random keys, numbers.
      metadata: plain JSON values; "format_version" is added.
      iterators: name -> `get_state()` of an input iterator, plain JSON values or bytes.
      best_metric: the lowest is the best; None or a value that is not finite is never the best.

    Raises:
      InputError: the step is below the last one, a value has no JSON, or `create` was False.
    """
    self.wait()
    last = self.latest_step()
    if last is not None and step < last:
      raise InputError(f"step must not be below {last}, the last one in {self.folder}, got {step}")
    metadata = {"format_version": FORMAT_VERSION, **metadata}
    positions = {name: encode_position(name, state) for name, state in iterators.items()}
    items = ocp.args.Composite(
      params=ocp.args.PyTreeSave(to_plain(variables)),
      training=ocp.args.PyTreeSave(to_plain(training)),
      metadata=ocp.args.JsonSave(checked_json("metadata", metadata)),
      input=ocp.args.JsonSave(positions),
    )
    finite = best_metric is not None and math.isfinite(best_metric)
    metrics = {"best_metric": float(best_metric)} if finite else None
    settle(self.folder)
    if step == last:
      set_aside(self.folder, step)
      self._manager.reload()
    if not self._manager.save(step, args=items, metrics=metrics):
      raise InputError(f"{self.folder} was opened with create=False: it can only be read")

  def latest_step(self) -> int | None:
    """The last step that was saved, None where there is none."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """The step with the lowest metric (the later of equals), None where no step has one."""
    return self._manager.best_step()

  def restore(self, step: int, *, variables: PyTree, training: PyTree) -> tuple[PyTree, PyTree]:
    """Variables and training state of a step in the forms given, see `read_variables`."""
    folder = self.step_folder(step)
    return read_variables(folder, variables), read_training(folder, training)

  def metadata(self, step: int) -> dict[str, Any]:
    """What the run said of itself, see `read_metadata`."""
    return read_metadata(self.step_folder(step))

  def iterators(self, step: int) -> dict[str, Any]:
    """Where the input iterators stood, by name, as given to `save`."""
    entries = _read(self.step_folder(step), "input", ocp.JsonCheckpointHandler())
    return {name: decode_position(entry) for name, entry in entries.items()}

  def step_folder(self, step: int) -> Path:
    """The folder of a finished checkpoint; waits for one that is being written.

    Raises:
      InputError: there is no checkpoint of that step.
    """
    self.wait()
    steps = self._manager.all_steps()
    if step not in steps:
      raise InputError(f"no checkpoint of step {step} in {self.folder}; there are {sorted(steps)}")
    return self.folder / str(step)

  def wait(self) -> None:
    """Returns when everything is on disk; raises what went wrong in the background."""
    self._manager.wait_until_finished()

  def is_writing(self) -> bool:
    """Whether a checkpoint is not on disk yet; may be asked in any thread."""
    return self._manager.is_saving_in_progress()

  def close(self) -> None:
    """Waits, then lets go of the folder; the object cannot be used after."""
    self._open.close()

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *error) -> None:
    self.close()


def open_run(run_or_checkpoint: str | Path, which: Which = "best") -> Path:
  """Finds one checkpoint.

  Args:
    run_or_checkpoint: a run directory (it holds `checkpoints/`), its `checkpoints` folder, or the
      folder of one step, wherever it was copied to; of one step, `which` is not asked.
    which: "best", "last" or the number of a step.

  Returns:
    The folder of the step, for the functions `read_*`.

  Raises:
    InputError: there is no such checkpoint.
  """
  path = Path(run_or_checkpoint).absolute()
  if which not in ("best", "last") and (isinstance(which, bool) or not isinstance(which, int)):
    raise InputError(f'which must be "best", "last" or the number of a step, got {which!r}')
  if _is_step(path):
    return path
  if not path.is_dir():
    raise InputError(f"no checkpoint in {path}: no such folder")
  folder = path / FOLDER if (path / FOLDER).is_dir() else path
  if not any(_is_step(entry) for entry in folder.iterdir()):
    what = f"a run directory with {FOLDER}/<step>/, that {FOLDER} folder, or one step's folder with params/"
    raise InputError(f"no checkpoint in {path}: it should be {what} and metadata/")
  with Checkpoints(folder, create=False) as checkpoints:
    named = {"best": checkpoints.best_step, "last": checkpoints.latest_step}
    step = named[which]() if which in named else which
    if step is None:
      raise InputError(f'no checkpoint in {folder} has a metric to be best; use which="last"')
    return checkpoints.step_folder(step)


def read_variables(folder: Path, like: PyTree | None = None) -> PyTree:
  """The network's variables of a step's folder.

  Args:
    folder: of one step, from `open_run`.
    like: the tree that is expected, see `plain.from_plain`; None takes what there is.

  Returns:
    The tree in the form of `like`, bit for bit as saved; without `like` nested dictionaries of `jax.Array`.

  Raises:
    InputError: the item cannot be read, or its arrays are not those of `like`.
  """
  return _read_arrays(folder, "params", like)


def read_training(folder: Path, like: PyTree) -> PyTree:
  """The rest of the training state, in the form of `like`; else as `read_variables`."""
  return _read_arrays(folder, "training", like)


def read_metadata(folder: Path) -> dict[str, Any]:
  """What the run said of itself, plain JSON values; an InputError if a newer nas3d_jax wrote it."""
  metadata = _read(folder, "metadata", ocp.JsonCheckpointHandler())
  version = metadata.get("format_version") if isinstance(metadata, dict) else None
  if not isinstance(version, int) or isinstance(version, bool):
    raise InputError(f"no checkpoint of nas3d_jax in {folder}: metadata has no format_version")
  if version > FORMAT_VERSION:
    known = f"this nas3d_jax reads up to {FORMAT_VERSION}; update nas3d_jax"
    raise InputError(f"checkpoint {folder} has format version {version}, {known}")
  return metadata


def _options(write: bool) -> ocp.CheckpointManagerOptions:
  # BestN keeps the end of its sorted list, hence `reverse` for the lowest, and all without a metric
  # if not told otherwise. Without `best_fn` the manager's own best_step() would be the last one.
  last = checkpoint_managers.LatestN(1)
  kind = dict(reverse=True, n=1, keep_checkpoints_without_metrics=False)
  best = checkpoint_managers.BestN(get_metric_fn=_best_metric, **kind)
  return ocp.CheckpointManagerOptions(
    best_fn=_best_metric,
    best_mode="min",
    preservation_policy=checkpoint_managers.AnyPreservationPolicy([last, best]),
    create=write,
    read_only=not write,
    cleanup_tmp_directories=write,
    save_interval_steps=int(write),
  )


def _best_metric(metrics: Mapping[str, float]) -> float:
  return metrics["best_metric"]


def _is_step(path: Path) -> bool:
  return ".orbax-checkpoint-tmp" not in path.name and (path / "params").is_dir() and (path / "metadata").is_dir()


def _read_arrays(folder: Path, item: str, like: PyTree | None) -> PyTree:
  plain = _read(folder, item, ocp.PyTreeCheckpointHandler())
  if like is None:
    return jax.tree.map(jax.numpy.array, plain)
  try:
    return from_plain(plain, like)
  except InputError as error:
    raise InputError(f"checkpoint {folder} does not fit, in its {item}: {error}") from None


def _read(folder: Path, item: str, handler: ocp.CheckpointHandler) -> Any:
  """One item of a step; what goes wrong in Orbax, TensorStore or JSON becomes one message."""
  if not (folder / item).is_dir():
    raise InputError(f"no checkpoint in {folder}: it should hold params/ and metadata/, no {item}/")
  try:
    with _quiet_orbax(), ocp.Checkpointer(handler) as checkpointer:
      return checkpointer.restore(folder.absolute() / item)
  except Exception as error:
    reason = (str(error).splitlines() or [""])[0][:200]
    raise InputError(
      f"checkpoint {folder} cannot be read, its {item} is damaged or incomplete "
      f"({type(error).__name__}: {reason}); use another checkpoint of the run, or copy it again"
    ) from error


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
  """Keeps Orbax's log lines from the terminal; its errors come as exceptions as well."""

  def is_wanted(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts or record.levelno >= logging.ERROR

  logger = logging.getLogger("absl")
  logger.addFilter(is_wanted)
  try:
    yield
  finally:
    logger.removeFilter(is_wanted)
