"""Where the scalars of a run go beside `metrics.jsonl`: TensorBoard, or a tracker of the user's own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import writing
from nas3d_jax.files.run_layout import EVENTS

TrackerName = Literal["none", "tensorboard"]


class Tracker(Protocol):
  """What is told of a run while it is under way; a class of the user's own needs these three methods and no more.

  Of several processes that share a run, the first alone calls it. What a method raises ends the run in one error; what
  was done until then is saved, and the same command goes on.
  """

  def begin(self, settings: Mapping[str, Any], epochs: int) -> None:
    """Called once, before the first step of a session.

    Args:
      settings: of the run, plain JSON values, as `config.json` holds them.
      epochs: those that are over, 0 of a new run. Whatever an earlier session told of later ones was lost when it was
        killed, and comes again.
    """

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Called at the end of every epoch, before its checkpoint.

    Args:
      step: the epoch, from 1.
      values: the numbers of its record in `metrics.jsonl`, see `scalars_of`.
    """

  def close(self) -> None:
    """Called once, at the end of a session that began, whether the run is over, was stopped or failed."""


class TensorBoard:
  """Event files for TensorBoard in the run's directory; an epoch that comes again replaces what was there of it."""

  def __init__(self, folder: Path):
    """Writes nothing yet; `folder` is the run directory."""
    self._folder = folder

  def begin(self, settings: Mapping[str, Any], epochs: int) -> None:
    """Begins a file of this session."""
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import SessionLog

    with writing(self._folder):
      # TensorBoard reads the files in the order of their names, which begin with the second.
      self._writer = EventsWriter(os.path.abspath(self._folder / EVENTS), f".{time.time_ns()}")
      # From this it forgets what earlier files hold of later epochs.
      self._write(epochs + 1, session_log=SessionLog(status=SessionLog.START))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the values, as float32, which is what the format holds."""
    from tensorboardX.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
    with writing(self._folder):
      self._write(step, summary=summary)

  def close(self) -> None:
    """Ends the file."""
    with writing(self._folder):
      self._writer.close()

  def _write(self, step: int, **content: Any) -> None:
    """At once and in this thread, so that a full disk is heard of and no epoch waits in a buffer."""
    from tensorboardX.proto.event_pb2 import Event

    self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
    self._writer.flush()


def check_tracker(name: TrackerName) -> None:
  """Raises InputError where a tracker needs a package that is not installed."""
  if name == "tensorboard" and importlib.util.find_spec("tensorboardX") is None:
    raise InputError(
      "tracker=tensorboard needs the package tensorboardX, which is not installed; run: pip install "
      '"nas3d_jax[tensorboard]", or leave tracker out'
    )


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
  """The numbers of a record of `metrics.jsonl` by name, those of an object in it as "entropy/down".

  Lists, such as the genotype, are no scalars; the epoch is the step; what is None is left out.
  """
  found: dict[str, float] = {}
  for name, value in record.items():
    if isinstance(value, Mapping):
      found |= {f"{name}/{part}": number for part, number in scalars_of(value).items()}
    elif isinstance(value, (int, float)) and name != "epoch":
      found[name] = float(value)
  return found


class Tracking:
  """The trackers of a session."""

  def __init__(self, trackers: Sequence[Tracker]):
    """Of none, nothing is told to anyone."""
    self._trackers, self._begun = trackers, False

  def begin(self, settings: Mapping[str, Any], epochs: int) -> None:
    """See `Tracker.begin`.

    Raises:
      InputError: a tracker raised.
    """
    self._begun = True
    self._tell("begin", settings, epochs)

  def record(self, record: Mapping[str, Any]) -> None:
    """Tells the scalars of an epoch's record.

    Raises:
      InputError: a tracker raised.
    """
    self._tell("scalars", record["epoch"], scalars_of(record))

  def close(self) -> None:
    """See `Tracker.close`; what did not begin is not closed.

    Raises:
      InputError: a tracker raised.
    """
    if self._begun:
      self._tell("close")

  def _tell(self, method: str, *arguments: Any) -> None:
    for tracker in self._trackers:
      try:
        getattr(tracker, method)(*arguments)
      except InputError:
        raise
      except Exception as error:
        raise InputError(
          f"tracker {type(tracker).__name__}.{method} raised {type(error).__name__}: {error}; correct the tracker or "
          "leave it out, and run again: what was done is saved, and goes on"
        ) from error


@contextlib.contextmanager
def tracking(own: Tracker | None, name: TrackerName, folder: Path, *, primary: bool) -> Iterator[Tracking]:
  """The trackers of a session, closed in the end.

  Args:
    own: the user's.
    name: that of the settings.
    folder: the run directory, which is there when the run begins.
    primary: whether this process is the one that tells.

  Raises:
    InputError: a tracker raised when it was closed, and nothing was wrong before.
  """
  asked = [*([own] if own is not None else []), *([TensorBoard(folder)] if name == "tensorboard" else [])]
  found = Tracking(asked if primary else [])
  try:
    yield found
  except BaseException:
    # What ended the run is what the user has to read.
    with contextlib.suppress(InputError):
      found.close()
    raise
  found.close()
