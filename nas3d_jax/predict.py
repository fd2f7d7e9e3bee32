"""Label volumes of whole cases, from a folder of NIfTI files to a folder of NIfTI files."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nas3d_jax.data.brats import CaseError, CaseFiles, Fault, RawCase, find_cases, read_case
from nas3d_jax.ensemble import restore_ensemble
from nas3d_jax.errors import InputError
from nas3d_jax.predictions import PredictionFolder

Fold = int | Literal["all"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
  """What to predict, and with what: `fold` of `workdir`, or `checkpoint`.

  Attributes:
    workdir: run directory whose trainings `fold` names.
    fold: trained folds, `train/<fold>` in `workdir`; the best checkpoint of each is used.
    checkpoint: run directories or folders of one step instead.
    data_dir: the folder of the cases; segmentations are not read.
    out: the folder to write to, see `predictions.py`.
    patch_size: length of a patch in voxels; None means that of the training.
    probabilities: whether to write the probabilities of the regions as well.
    overwrite: whether to predict anew what is there.

  Raises:
    InputError: neither folds nor checkpoints are given, or both; or a field is of another type.
  """

  workdir: str | Path | None = None
  fold: tuple[Fold, ...] = ()
  checkpoint: tuple[str | Path, ...] = ()
  data_dir: str | Path
  out: str | Path
  patch_size: int | None = None
  probabilities: bool = False
  overwrite: bool = False

  def __post_init__(self):
    for name in ("fold", "checkpoint"):
      if not isinstance(getattr(self, name), (list, tuple)):
        raise InputError(f"{name} must be a tuple, got {getattr(self, name)!r}")
      object.__setattr__(self, name, tuple(getattr(self, name)))
    if bool(self.fold) == bool(self.checkpoint):
      got = "both" if self.fold else "neither"
      raise InputError(f"give either fold (with workdir) or checkpoint, at least one of them; got {got}")
    if bool(self.fold) != (self.workdir is not None):
      raise InputError(
        f"workdir and fold go together, got workdir={self.workdir!r} and fold={self.fold}; give both, or checkpoint "
        "alone"
      )
    for fold in self.fold:
      if fold != "all" and (isinstance(fold, bool) or not isinstance(fold, int) or fold < 0):
        raise InputError(f'fold must be the number of a fold, from 0, or "all", got {fold!r}')
    for path in (*self.checkpoint, self.data_dir, self.out):
      if not isinstance(path, (str, Path)) or not str(path):
        raise InputError(f"checkpoint, data_dir and out must be paths, got {path!r}")
    size = self.patch_size
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
      raise InputError(f"patch_size must be a whole number of at least 1, or None, got {size!r}")

  @property
  def runs(self) -> tuple[Path, ...]:
    """The run directories or checkpoints whose probabilities are averaged."""
    if self.checkpoint:
      return tuple(Path(path) for path in self.checkpoint)
    return tuple(Path(self.workdir) / "train" / str(fold) for fold in self.fold)


@dataclasses.dataclass(frozen=True)
class PredictSummary:
  """What `predict_cases` did.

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


def predict_cases(config: PredictConfig) -> PredictSummary:
  """Predicts all cases of a folder, as `<case>.nii.gz` in each case's own geometry (section 2.3 of the paper).

  A region holds where its probability, the mean over the checkpoints, is at least one half; labels are painted in the
  schema's order; what is zero in every modality is background. A second run goes on where the first stopped. The next
  case is read and the last one written while one is computed. Progress goes to stderr.

  Raises:
    InputError: a checkpoint is not to be had or does not go with the others, `out` holds other predictions; or, after
      all other cases are done, some cannot be used: all are listed, by name, reason and remedy.
  """
  began = time.monotonic()
  ensemble = restore_ensemble(config.runs, config.patch_size)
  found, faults = find_cases(config.data_dir, ensemble.schema)
  # The truth is none of a prediction's business: a damaged one must not keep a case from it.
  found = [dataclasses.replace(files, segmentation=None) for files in found]
  settings = {**ensemble.settings, "probabilities": config.probabilities}
  names = [files.name for files in found]
  folder = PredictionFolder(config.out, settings=settings, cases=names, overwrite=config.overwrite)

  def read(files: CaseFiles) -> RawCase | CaseError | None:
    try:
      return None if folder.is_done(files) else read_case(files, ensemble.schema)
    except CaseError as error:
      return error

  predicted, reused, writing = [], [], None
  with _Bars(len(found)) as bars, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
    for files, case in _read_ahead(reader, read, found):
      bars.start(files.name)
      if case is None:
        reused.append(files.name)
      elif isinstance(case, CaseError):
        faults += case.faults
      else:
        probabilities = ensemble.predict(case.image, on_patch=bars.on_patch)
        labels = ensemble.schema.decode(probabilities)
        if writing is not None:
          writing.result()
        writing = writer.submit(folder.write, case, labels, probabilities if config.probabilities else None)
        predicted.append(files.name)
      bars.finish()
    if writing is not None:
      writing.result()
  summary = PredictSummary(folder.folder, tuple(predicted), tuple(reused), time.monotonic() - began)
  _raise_faults(faults, summary)
  return summary


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


def _read_ahead(pool: Executor, read: Callable, found: Sequence[CaseFiles]) -> Iterator[tuple[CaseFiles, Any]]:
  """Each case with what `read` gives, the next one being read while the caller works on it."""
  upcoming = pool.submit(read, found[0]) if found else None
  for files, following in zip(found, [*found[1:], None], strict=False):
    case = upcoming.result()
    upcoming = pool.submit(read, following) if following is not None else None
    yield files, case


def _raise_faults(faults: Sequence[Fault], summary: PredictSummary) -> None:
  """Raises one InputError with all that is wrong, if anything is."""
  if faults:
    count = len({fault.case for fault in faults})
    lines = "\n".join(f"  {fault}" for fault in sorted(faults, key=lambda fault: fault.case))
    raise InputError(f"{count} of the cases cannot be predicted; {summary}:\n{lines}")
