"""How far the parts of an experiment are, by what is on disk, and how long the rest takes, by what was measured."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nas3d_jax.checkpointing import checkpoints
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation import scores
from nas3d_jax.files.hashing import sum_or_none
from nas3d_jax.files.run_layout import (
  CHECKPOINTS,
  CONFIG,
  GENOTYPE,
  METRICS,
  PREDICTIONS_JSON,
  SCORES_CSV,
  SCORES_JSON,
  SEARCH,
)
from nas3d_jax.files.strict_json import parse_json, read_records
from nas3d_jax.inference.config import InferenceChoices
from nas3d_jax.models.genotype import genotype_in
from nas3d_jax.training.config import RunConfig, SearchConfig, TrainConfig
from nas3d_jax.training.genotype_counts import rows_of
from nas3d_jax.training.setup import plain_settings
from nas3d_jax.validation import is_number

Status = Literal["done", "begun", "to do", "changed"]
"""A part that is "changed" was made with other settings or inputs."""
Checksums = Mapping[str, str]

# Settings that are paths: the genotype is compared by what the file holds.
_APART = {"genotype", "init_from"}


def search_status(config: SearchConfig, fingerprint: str) -> Status:
  """Of a search on a data set."""
  folder = Path(config.workdir) / SEARCH
  stored = _settings(folder)
  if stored is None:
    return "to do"
  if not _same(stored, config, fingerprint):
    return "changed"
  genotype = folder / GENOTYPE
  longer = any(stored.get(name) != getattr(config, name) for name in ("epochs", "min_count"))
  # The settings are written when a session begins, the genotype when the search is over.
  if longer or not genotype.exists() or _written(genotype) < _written(folder / CONFIG):
    return "begun"
  return "done"


def training_status(config: TrainConfig, folder: Path, fingerprint: str) -> Status:
  """Of a training on a data set, in a run directory."""
  stored = _settings(folder)
  if stored is None:
    return "to do"
  if not _same(stored, config, fingerprint):
    return "changed"
  if config.network == "searched" and Path(config.genotype).exists():
    genotype = genotype_in(Path(config.genotype), "put back a copy of it, or run the search anew with --overwrite")
    if stored.get("genotype") != json.loads(json.dumps(rows_of(genotype))):
      return "changed"
  records = history(folder)
  # The last checkpoint is on disk a little later than the record of its epoch; one of that step from before the end of
  # the epoch, where it was stopped while it validated, has no metric.
  last = folder / CHECKPOINTS / str(records[-1].get("step") if records else None)
  over = len(records) >= config.epochs and (last / "metrics").exists()
  return "done" if over else "begun"


def predictions_status(
  folder: Path, expected: Mapping[str, Checksums], runs: Sequence[Path], choices: InferenceChoices
) -> tuple[Status, int]:
  """Of the predictions of some cases.

  Args:
    folder: where they are.
    expected: SHA-256 of the images of each case, by file name.
    runs: trainings whose best checkpoints predict.
    choices: how they do.

  Returns:
    The status, and how many of the cases are left.
  """
  record = _read(folder / PREDICTIONS_JSON)
  if record is None:
    return "to do", len(expected)
  settings, cases = _object(record, "settings"), _object(record, "cases")
  left = [c for c, sums in expected.items() if cases.get(c) != sums or not (folder / f"{c}.nii.gz").exists()]
  try:
    best = [checkpoints.open_run(run) for run in runs]
  except InputError:
    return "changed", len(expected)
  # Best checkpoints by run and step: paths change when a run directory is moved.
  made_by = {_tail(path) for path in _object(settings, "checkpoints").values()}
  newer = any(_written(step) > _written(folder / PREDICTIONS_JSON) for step in best)
  same = settings.get("inference") == choices.to_dict() and not settings.get("probabilities")
  if not same or newer or made_by != {_tail(step) for step in best}:
    return "changed", len(expected)
  # A case that was predicted from other images makes the stage complain.
  return ("done" if not left else "begun"), len(left)


def scores_status(folder: Path, predictions: Path, truths: Checksums) -> Status:
  """Of the scores of predictions against truths, SHA-256 of the segmentation of each case."""
  content = _read(folder / SCORES_JSON)
  if content is None:
    return "to do"
  wanted = {
    case: {"prediction": sum_or_none(predictions / f"{case}.nii.gz"), "truth": truth} for case, truth in truths.items()
  }
  cases = _object(content, "cases")
  found = {case: _object(cases, case).get("checksums") for case in cases}
  same = content.get("version") == scores.VERSION and found == wanted and (folder / SCORES_CSV).exists()
  return "done" if same else "changed"


def newer_than(path: Path, inputs: Iterable[Path]) -> Status:
  """Whether a file is there and no older than what it was made from."""
  if not path.exists():
    return "to do"
  return "done" if all(_written(path) >= _written(source) for source in inputs if source.exists()) else "changed"


def history(run: Path) -> list[dict[str, Any]]:
  """The records of the epochs of a run, up to one that is damaged; empty without any."""
  records: list[dict[str, Any]] = []
  with contextlib.suppress(InputError):
    for record in read_records(run / METRICS):
      if is_number(record.get("seconds")):
        records.append(record)
  return records


def seconds_left(run: Path, epochs: int, cases: int, others: Mapping[Path, int]) -> float | None:
  """Time that the epochs of a run that are left take.

  Args:
    run: its directory; it need not be there.
    epochs: of the whole run.
    cases: that it goes through in an epoch.
    others: runs of the same kind and the number of their cases, to judge by where this one has no epoch yet.

  Returns:
    Seconds, by the median epoch; None where no run has an epoch.
  """
  done = history(run)
  for source, count in [(run, cases), *others.items()]:
    records = history(source)
    if records:
      return max(0, epochs - len(done)) * statistics.median(r["seconds"] for r in records) * cases / count
  return None


def _settings(folder: Path) -> dict[str, Any] | None:
  content = _read(folder / CONFIG)
  return None if content is None else _object(content, "settings")


def _same(stored: Mapping[str, Any], config: RunConfig, fingerprint: str) -> bool:
  now = {name: value for name, value in plain_settings(config).items() if name not in _APART | config.changeable}
  stored = {**config.defaults, **stored}
  return stored.get("dataset") == fingerprint and all(stored.get(name) == value for name, value in now.items())


def _tail(step: str | Path) -> str:
  """Network, fold and step of a checkpoint's folder."""
  return "/".join(Path(str(step)).parts[-4:])


def _object(content: Mapping[str, Any], name: str) -> dict[str, Any]:
  """An object in a file of ours; empty where there is none or something else, which fits no run."""
  value = content.get(name)
  return value if isinstance(value, dict) else {}


def _read(path: Path) -> dict[str, Any] | None:
  """The object in a file of ours, None where there is none or it is damaged: then the stage says so."""
  try:
    content = parse_json(path.read_bytes())
  except (OSError, ValueError):
    return None
  return content if isinstance(content, dict) else None


def _written(path: Path) -> int:
  return path.stat().st_mtime_ns
