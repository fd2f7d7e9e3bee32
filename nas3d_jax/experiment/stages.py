"""The stages of an experiment, in their order: how far each is, and what it does."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas3d_jax.data.cases.find_and_read import find_cases, read_case
from nas3d_jax.data.dataset.common_geometry import conform_case
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.dataset.reference import write_reference
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.component_threshold import choose_min_component
from nas3d_jax.evaluation.evaluate import evaluate
from nas3d_jax.experiment.config import ExperimentConfig, Split
from nas3d_jax.experiment.control import control_stages
from nas3d_jax.experiment.costs import measure_costs
from nas3d_jax.experiment.inputs import ExperimentInputs
from nas3d_jax.experiment.stage import Stage, with_data
from nas3d_jax.experiment.status import (
  Status,
  newer_than,
  predictions_status,
  scores_status,
  search_status,
  seconds_left,
  training_status,
)
from nas3d_jax.files.run_layout import (
  CONTROL,
  COSTS,
  DATASET,
  EXPERIMENT,
  PAGE,
  PREDICTIONS_JSON,
  REPORT,
  SCORES,
  SCORES_JSON,
  SEARCH,
)
from nas3d_jax.files.strict_json import read_json, write_json
from nas3d_jax.inference.config import Fold, InferenceChoices
from nas3d_jax.inference.predict import predict_cases
from nas3d_jax.models.config import Architecture
from nas3d_jax.runtime.stopping import Stop
from nas3d_jax.schema.schema import Schema
from nas3d_jax.training.search import search
from nas3d_jax.training.train import train
from nas3d_jax.validation import is_number, patch_size_of

_TIMED_CASES = 3
_MEASURE = "remove it, and what takes part in it is measured anew"


def stages_of(inputs: ExperimentInputs, stop: Stop | None = None) -> list[Stage]:
  """All stages, in the order in which they are done; searches and trainings save when `stop` asks to stop."""
  config, folds = inputs.config, inputs.folds
  everywhere: list[Fold] = [*range(folds), "all"]
  seen: list[Split] = ["cross_validation", "training"]
  unseen: list[Split] = ["test", "ensemble"] if config.test_dir else []
  scored = seen + (unseen if inputs.unseen_truths else [])
  stages = [_dataset(inputs)]
  stages += [_search(inputs, seed, stop=stop) for seed in range(config.seeds)]
  stages += [_search(inputs, 0, fold, stop=stop) for fold in range(folds) if config.nested]
  stages += [_training(inputs, network, fold, stop) for network in config.networks for fold in everywhere]
  stages += [_costs(inputs, network) for network in config.networks]
  for network in config.networks:
    stages += [_prediction(inputs, network, split) for split in seen]
    stages += [_threshold(inputs, network)] if config.choose_min_component else []
    stages += [_prediction(inputs, network, split) for split in unseen]
  stages += [_scores(inputs, network, split) for network in config.networks for split in scored]
  return [*stages, *control_stages(inputs, stop), _report(config)]


def _dataset(inputs: ExperimentInputs) -> Stage:
  def run():
    folder = inputs.config.root / DATASET
    preprocess(inputs.data_dir, folder, schema=inputs.schema, folds=inputs.folds, **inputs.config.made_with)

  def status() -> Status:
    if not inputs.has_dataset:
      return "to do"
    return "done" if inputs.dataset else "changed"

  return Stage("preprocess", status, run)


def _search(inputs: ExperimentInputs, seed: int, fold: int | None = None, *, stop: Stop | None) -> Stage:
  config = inputs.config.search(seed, fold, inputs.folds)
  folder = Path(config.workdir) / SEARCH

  def run():
    if folder.parent != inputs.config.root:
      write_reference(folder.parent, inputs.config.root / DATASET, without_fold=fold)
    search(config, stop, operations=inputs.operations)

  def seconds():
    cases = functools.partial(_search_cases, inputs)
    others = {inputs.config.root / SEARCH: cases(0)} if inputs.has_dataset else {}
    return seconds_left(folder, config.epochs, cases(config.fold, fold), others) if others else None

  name = f"search, without fold {fold}" if fold is not None else f"search, seed {seed}"
  return Stage(name, with_data(inputs, lambda: search_status(config, inputs.fingerprint(fold))), run, seconds)


def _search_cases(inputs: ExperimentInputs, hybrid: int, without: int | None = None) -> int:
  return sum(case.fold not in (hybrid, without) for case in inputs.labelled)


def _training(inputs: ExperimentInputs, network: Architecture, fold: Fold, stop: Stop | None) -> Stage:
  config = inputs.config.train(network, fold)
  folder = inputs.config.training(network, fold)

  def cases(fold: Fold) -> int:
    return sum(case.fold != fold for case in inputs.labelled)

  def seconds():
    if not inputs.has_dataset:
      return None
    others = {inputs.config.training(network, other): cases(other) for other in [*range(inputs.folds), "all"]}
    return seconds_left(folder, config.epochs, cases(fold), others)

  status = with_data(inputs, lambda: training_status(config, folder, inputs.fingerprint()))
  which = "on all cases" if fold == "all" else f"fold {fold}"

  def run():
    train(config, stop, operations=inputs.operations)

  return Stage(f"train {network}, {which}", status, run, seconds)


def _costs(inputs: ExperimentInputs, network: Architecture) -> Stage:
  config = inputs.config
  path = config.root / COSTS

  def status() -> Status:
    measured = _measured(path, network)
    if measured is None:
      return "to do"
    return "done" if patch_size_of(measured.get("patch_size")) == config.template(network).patch_size else "changed"

  def run():
    found, _ = find_cases(inputs.data_dir, inputs.schema, labels=False)
    cases = [read_case(files, inputs.schema) for files in found[:_TIMED_CASES]]
    images = [conform_case(case, inputs.dataset.geometry).image for case in cases]
    folder = config.training(network, "all")
    how = dict(batch_size=config.template(network).batch_size, choices=config.choices())
    costs = measure_costs(folder, images, **how, operations=inputs.operations)
    write_json(path, {**(read_json(path, _MEASURE) if path.exists() else {}), network: costs.to_dict()})

  return Stage(f"costs of {network}", status, run)


def _measured(path: Path, network: Architecture) -> dict[str, Any] | None:
  """What was measured of a network; None where that was not done, or something else stands there."""
  found = read_json(path, _MEASURE).get(network) if path.exists() else None
  return found if isinstance(found, dict) else None


def _choices(config: ExperimentConfig, network: Architecture, split: Split) -> InferenceChoices:
  """How a split is predicted; a threshold that was chosen on the cross-validation is for unseen cases alone."""
  if not config.choose_min_component or split not in ("test", "ensemble"):
    return config.choices()
  path, remedy = config.threshold_file(network), "remove it, and it is chosen anew"
  chosen = read_json(path, remedy).get("min_component_ml")
  if not is_number(chosen):
    raise InputError(f"{path} is damaged: min_component_ml must be a number, got {chosen!r:.80}; {remedy}")
  return config.choices(chosen)


def _schema(inputs: ExperimentInputs, split: Split) -> Schema:
  """Of the cases of a split."""
  return inputs.test_schema if split in ("test", "ensemble") else inputs.schema


def _prediction(inputs: ExperimentInputs, network: Architecture, split: Split) -> Stage:
  config, folds = inputs.config, inputs.folds
  folder = config.predictions(network, split)
  unseen = split in ("test", "ensemble")
  members: list[Fold] = ["all"] if split in ("training", "test") else list(range(folds))
  runs = [config.training(network, fold) for fold in members]

  def look() -> tuple[Status, int]:
    expected = inputs.unseen_images if unseen else inputs.known_images
    waits = unseen and config.choose_min_component and not config.threshold_file(network).exists()
    if waits:
      return "to do", len(expected)
    return predictions_status(folder, expected, runs, _choices(config, network, split))

  def run():
    status, _ = look()
    cases = tuple(inputs.unseen_images if unseen else inputs.known_images)
    data_dir = config.test_dir if unseen else inputs.data_dir
    choices = _choices(config, network, split)
    wanted = config.predict(network, split, data_dir=data_dir, cases=cases, folds=folds, choices=choices)
    schema = None if split == "cross_validation" else _schema(inputs, split)
    overwrite = config.overwrite and status == "changed"
    wanted = dataclasses.replace(wanted, schema=schema, overwrite=overwrite)
    predict_cases(wanted, operations=inputs.operations)

  def seconds():
    measured = _measured(config.root / COSTS, network)
    if measured is None or not is_number(measured.get("case_s")) or not inputs.has_dataset:
      return None
    return look()[1] * measured["case_s"] * (len(runs) if split == "ensemble" else 1)

  return Stage(f"predict {network}, {split.replace('_', '-')}", with_data(inputs, lambda: look()[0]), run, seconds)


def _threshold(inputs: ExperimentInputs, network: Architecture) -> Stage:
  config = inputs.config
  path, predictions = config.threshold_file(network), config.predictions(network, "cross_validation")

  def run():
    cases = [case.name for case in inputs.labelled]
    choice = choose_min_component(predictions, inputs.data_dir, cases, schema=inputs.schema)
    write_json(path, choice.to_dict())

  return Stage(f"least component of {network}", lambda: newer_than(path, [predictions / PREDICTIONS_JSON]), run)


def _scores(inputs: ExperimentInputs, network: Architecture, split: Split) -> Stage:
  config = inputs.config
  folder, predictions = config.scores(network, split), config.predictions(network, split)
  unseen = split in ("test", "ensemble")

  def truths():
    return inputs.unseen_truths if unseen else inputs.known_truths

  def run():
    data_dir = config.test_dir if unseen else inputs.data_dir
    schema, overwrite = _schema(inputs, split), config.overwrite
    evaluate(predictions, data_dir, folder, schema=schema, cases=list(truths()), overwrite=overwrite)

  status = with_data(inputs, lambda: scores_status(folder, predictions, truths()))
  return Stage(f"score {network}, {split.replace('_', '-')}", status, run)


def _report(config: ExperimentConfig) -> Stage:
  root = config.root

  def inputs() -> Iterator[Path]:
    yield from (root / COSTS, root / EXPERIMENT)
    yield from root.glob(f"{SCORES}/*/*/{SCORES_JSON}")
    yield from root.glob(f"{CONTROL}/*/*/*/{SCORES}/{SCORES_JSON}")

  def run():
    # By name, so that nothing of the pictures is imported before they are drawn.
    try:
      report = importlib.import_module("nas3d_jax.report.build")
    except ImportError as error:
      raise InputError(
        f"all parts but the report are done, which cannot be made: {error}; install requirements.txt, and run again"
      ) from error
    report.write_report(root, portal_csv=config.portal_csv)

  return Stage("report", lambda: newer_than(root / REPORT / PAGE, inputs()), run)


def write_experiment(inputs: ExperimentInputs, stages: list[Stage]) -> None:
  """Writes `experiment.json`: what the report has to know of how the run came about; not if it says so already."""
  config = inputs.config
  content = {
    "nested": config.nested,
    "seeds": list(range(config.seeds)),
    "data_dir": str(inputs.data_dir),
    "test_dir": None if config.test_dir is None else str(Path(config.test_dir).absolute()),
    **({"random": config.random, "retrain_seeds": config.retrain_seeds} if config.random else {}),
    "parts": [stage.name for stage in stages],
  }
  path = config.root / EXPERIMENT
  if not path.exists() or json.loads(path.read_text("utf-8")) != content:
    config.root.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
