"""The loop over cases: read, compute, write, each while the others go on; what is there is skipped.

A case that cannot be read, predicted or written does not stop the others. At any time one case is computed, one
read and one written, so memory does not grow with their number.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nas3d_jax.data.cases.case_files import CaseError, CaseFiles, Fault, few, of_case, refuse
from nas3d_jax.data.cases.find_and_read import RawCase, read_case
from nas3d_jax.data.conform import Conformed, conform
from nas3d_jax.errors import InputError
from nas3d_jax.inference.config import InferenceChoices
from nas3d_jax.inference.ensemble import Ensemble
from nas3d_jax.inference.postprocessing import remove_small
from nas3d_jax.inference.prediction_folder import PredictionFolder
from nas3d_jax.inference.shards import Shard
from nas3d_jax.inference.volume import OnPatch
from nas3d_jax.runtime.lack_of_memory import is_lack_of_memory
from nas3d_jax.runtime.progress_bar import ProgressBar


@dataclasses.dataclass(frozen=True)
class Job:
  """A case and what predicts it.

  Attributes:
    files: of the case.
    ensemble: the networks.
    expected: SHA-256 of its images by file name, where it must be a certain case; None takes any.
  """

  files: CaseFiles
  ensemble: Ensemble
  expected: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class PredictSummary:
  """What `predict_jobs` did.

  Attributes:
    out: the folder of the predictions.
    predicted: names of the cases predicted now.
    reused: names of those that an earlier run had predicted.
    conformed: names of those predicted now that were brought to the orientation and voxel size of the training data,
      and their labels back.
    seconds: time it took, with compiling.
    incomplete: the modalities that each of those predicted now lacks, by name; only cases that lack some.
    shard: which part of the cases it was; None for all.
    pending: names of the cases of all shards that were not predicted when it ended; none without shards.
  """

  out: Path
  predicted: tuple[str, ...]
  reused: tuple[str, ...]
  conformed: tuple[str, ...]
  seconds: float
  incomplete: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  shard: Shard | None = None
  pending: tuple[str, ...] = ()

  def __str__(self):
    if self.shard is None:
      return self._done()
    left = f"{len(self.pending)} cases of all shards are not predicted by now: {few(self.pending)}"
    return f"shard {self.shard}: {self._done()}; {left if self.pending else 'all cases of all shards are predicted'}"

  def _done(self) -> str:
    reused = f", {len(self.reused)} reused" if self.reused else ""
    done = f"{len(self.predicted)} cases predicted{reused}, in {self.out} ({self.seconds:.0f} s)"
    brought = f"; {len(self.conformed)} of them on another grid than the training data's, brought to it and back"
    done = f"{done}{brought}" if self.conformed else done
    lacks = few([f"{case} ({', '.join(names)})" for case, names in self.incomplete.items()])
    return f"{done}; {len(self.incomplete)} of them without a modality: {lacks}" if self.incomplete else done


def predict_jobs(
  jobs: Sequence[Job],
  folder: PredictionFolder,
  *,
  choices: InferenceChoices,
  probabilities: bool,
  faults: Sequence[Fault] = (),
) -> PredictSummary:
  """Predicts cases into a folder. The next case is read and the last one written while one is computed.

  Args:
    jobs: the cases, of one schema.
    folder: where to; of a shard, the jobs are its cases.
    choices: how a network is applied.
    probabilities: whether to write the probabilities as well.
    faults: what was wrong with other cases before.

  Raises:
    InputError: after all other cases are done, some cannot be used: all are listed, by name, reason and remedy; or, at
      once, as `DiskError`, nothing can be written.
  """
  began = time.monotonic()
  faults = list(faults)

  def read(job: Job) -> _Ready | CaseError | None:
    try:
      return None if folder.is_done(job.files) else _read(job)
    except CaseError as error:
      return error
    except MemoryError:
      return _too_large(job)

  reused = []
  progress = ProgressBar("cases", len(jobs), elapsed=True, remaining=False)
  with progress as bar, ThreadPoolExecutor(1) as reader, _Writing(folder, probabilities) as writing:
    for job, case in _read_ahead(reader, read, jobs):
      patches = functools.partial(bar.within, f"patches of {job.files.name}")
      patches()
      outcome = _predict(job, case, choices, patches) if isinstance(case, _Ready) else case
      if isinstance(outcome, _Predicted):
        writing.start(outcome)
      elif isinstance(outcome, CaseError):
        faults += outcome.faults
      else:
        reused.append(job.files.name)
      del case, outcome  # from here on they are in memory until they are written, and no longer
      bar.advance()
  seconds = time.monotonic() - began
  names = tuple(writing.done), tuple(reused), tuple(writing.conformed)
  pending = () if folder.shard is None else tuple(folder.pending())
  summary = PredictSummary(folder.folder, *names, seconds, writing.incomplete, folder.shard, pending)
  refuse([*faults, *writing.faults], f"cannot be predicted; {summary}")
  return summary


@dataclasses.dataclass(frozen=True, eq=False)
class _Ready:
  """A case as it was read, but for its image, which is that in the geometry of the network."""

  raw: RawCase
  conformed: Conformed


@dataclasses.dataclass(frozen=True, eq=False)
class _Predicted:
  """Labels and probabilities of a case on its own grid."""

  raw: RawCase
  labels: np.ndarray
  probabilities: np.ndarray
  conformed: bool


def _read(job: Job) -> _Ready:
  raw = read_case(job.files, job.ensemble.schema)
  if job.expected is not None and not raw.checksums.items() <= job.expected.items():
    reason = f"its images in {job.files.folder} are not those of the data set's case of this name"
    raise CaseError([Fault(job.files.name, reason, "give the folder that was preprocessed")])
  try:
    prepared = job.ensemble.intensities.prepare(raw.image, _missing(job))
    conformed = conform(prepared, raw.affine, job.ensemble.geometry)
  except InputError as error:
    raise of_case(job.files.name, error) from error
  return _Ready(dataclasses.replace(raw, image=conformed.image), conformed)


def _missing(job: Job) -> list[int]:
  """The places of the modalities that a case lacks."""
  return [job.ensemble.schema.modality_names.index(name) for name in job.files.missing]


def _predict(job: Job, case: _Ready, choices: InferenceChoices, on_patch: OnPatch) -> _Predicted | CaseError:
  schema = job.ensemble.schema
  try:
    image = case.conformed.image
    answer = job.ensemble.predict(image, missing=_missing(job), choices=choices, on_patch=on_patch)
    probabilities = case.conformed.back(answer)
    labels = schema.decode(probabilities)
    if choices.min_component_ml:
      labels = remove_small(labels, schema, case.raw.spacing, choices.min_component_ml)
  except InputError as error:
    return of_case(job.files.name, error)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    if not is_lack_of_memory(error):
      raise
    return _too_large(job)
  return _Predicted(case.raw, labels, probabilities, case.conformed.regrid is not None)


def _too_large(job: Job) -> CaseError:
  return CaseError([Fault(job.files.name, "memory does not suffice for it", "predict it with smaller patches")])


class _Writing:
  """Writes a case while the next one is computed.

  Attributes:
    done: names of the cases that are written.
    conformed: those of them that were on another grid than the training data's.
    incomplete: what those of them lack that lack modalities.
    faults: why others cannot be written.
  """

  def __init__(self, folder: PredictionFolder, probabilities: bool):
    self._folder, self._probabilities = folder, probabilities
    self._pool = ThreadPoolExecutor(1)
    self._current: Future | None = None
    self.done: list[str] = []
    self.conformed: list[str] = []
    self.incomplete: dict[str, tuple[str, ...]] = {}
    self.faults: list[Fault] = []

  def __enter__(self) -> _Writing:
    return self

  def __exit__(self, kind, *error) -> None:
    try:
      if kind is None:
        self._finish()
    finally:
      self._pool.shutdown()

  def start(self, case: _Predicted) -> None:
    """Begins with a case, once the one before is written."""
    self._finish()
    self._current = self._pool.submit(self._write, case)

  def _finish(self) -> None:
    if self._current is not None:
      self._current.result()

  def _write(self, case: _Predicted) -> None:
    name = case.raw.files.name
    try:
      self._folder.write(case.raw, case.labels, case.probabilities if self._probabilities else None)
    except CaseError as error:
      self.faults += error.faults
    else:
      self.done.append(name)
      self.conformed += [name] * case.conformed
      if missing := case.raw.files.missing:
        self.incomplete[name] = missing


def _read_ahead(pool: Executor, read: Callable, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
  """Each case with what `read` gives, the next one being read while the caller works on it."""
  upcoming = pool.submit(read, jobs[0]) if jobs else None
  for job, following in zip(jobs, [*jobs[1:], None], strict=False):
    case = upcoming.result()
    upcoming = pool.submit(read, following) if following is not None else None
    yield job, case
