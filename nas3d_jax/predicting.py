"""The loop over cases: read, compute, write, each while the others go on; what is there is skipped."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nas3d_jax.choices import InferenceChoices
from nas3d_jax.components import remove_small
from nas3d_jax.data.brats import CaseError, CaseFiles, Fault, RawCase, read_case
from nas3d_jax.ensemble import Ensemble
from nas3d_jax.errors import InputError
from nas3d_jax.predictions import PredictionFolder


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
    seconds: time it took, with compiling.
  """

  out: Path
  predicted: tuple[str, ...]
  reused: tuple[str, ...]
  seconds: float

  def __str__(self):
    reused = f", {len(self.reused)} reused" if self.reused else ""
    return f"{len(self.predicted)} cases predicted{reused}, in {self.out} ({self.seconds:.0f} s)"


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
    folder: where to.
    choices: how a network is applied.
    probabilities: whether to write the probabilities as well.
    faults: what was wrong with other cases before.

  Raises:
    InputError: after all other cases are done, some cannot be used: all are listed, by name, reason and remedy.
  """
  began = time.monotonic()
  faults = list(faults)

  def read(job: Job) -> RawCase | CaseError | None:
    try:
      return None if folder.is_done(job.files) else _read(job)
    except CaseError as error:
      return error

  predicted, reused, writing = [], [], None
  with _Bars(len(jobs)) as bars, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
    for job, case in _read_ahead(reader, read, jobs):
      bars.start(job.files.name)
      if case is None:
        reused.append(job.files.name)
      elif isinstance(case, CaseError):
        faults += case.faults
      else:
        confidences = job.ensemble.predict(case.image, choices=choices, on_patch=bars.on_patch)
        labels = job.ensemble.schema.decode(confidences)
        if choices.min_component_ml:
          labels = remove_small(labels, job.ensemble.schema, case.spacing, choices.min_component_ml)
        if writing is not None:
          writing.result()
        writing = writer.submit(folder.write, case, labels, confidences if probabilities else None)
        predicted.append(job.files.name)
      bars.finish()
    if writing is not None:
      writing.result()
  summary = PredictSummary(folder.folder, tuple(predicted), tuple(reused), time.monotonic() - began)
  _raise_faults(faults, summary)
  return summary


def _read(job: Job) -> RawCase:
  case = read_case(job.files, job.ensemble.schema)
  if job.expected is not None and not case.checksums.items() <= job.expected.items():
    reason = f"its images in {job.files.folder} are not those of the data set's case of this name"
    raise CaseError([Fault(job.files.name, reason, "give the folder that was preprocessed")])
  return case


class _Bars:
  """Two bars on stderr: cases, and patches of the case at hand."""

  def __init__(self, cases: int):
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    self._progress = Progress(*columns, console=Console(stderr=True))
    self._cases = self._progress.add_task("cases", total=cases)
    self._patches = self._progress.add_task("patches", total=None)

  def __enter__(self) -> _Bars:
    self._progress.start()
    return self

  def __exit__(self, *error) -> None:
    self._progress.stop()

  def start(self, case: str) -> None:
    self._progress.reset(self._patches, total=None, description=f"patches of {case}")

  def on_patch(self, done: int, total: int) -> None:
    self._progress.update(self._patches, completed=done, total=total)

  def finish(self) -> None:
    self._progress.advance(self._cases)


def _read_ahead(pool: Executor, read: Callable, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
  """Each case with what `read` gives, the next one being read while the caller works on it."""
  upcoming = pool.submit(read, jobs[0]) if jobs else None
  for job, following in zip(jobs, [*jobs[1:], None], strict=False):
    case = upcoming.result()
    upcoming = pool.submit(read, following) if following is not None else None
    yield job, case


def _raise_faults(faults: Sequence[Fault], summary: PredictSummary) -> None:
  """Raises one InputError with all that is wrong, if anything is."""
  if faults:
    count = len({fault.case for fault in faults})
    lines = "\n".join(f"  {fault}" for fault in sorted(faults, key=lambda fault: fault.case))
    raise InputError(f"{count} of the cases cannot be predicted; {summary}:\n{lines}")
