"""The parts of an experiment, in their order: how far each is, and what it does."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from nas3d_jax import states
from nas3d_jax.choices import InferenceChoices
from nas3d_jax.config import Architecture
from nas3d_jax.costs import measure_costs
from nas3d_jax.data.brats import find_cases, read_case
from nas3d_jax.data.common_geometry import conform_case
from nas3d_jax.data.dataset import read_json, write_json
from nas3d_jax.data.preprocess import preprocess
from nas3d_jax.data.reference import FOLDER, write_reference
from nas3d_jax.errors import InputError
from nas3d_jax.evaluate import evaluate
from nas3d_jax.ground import Ground
from nas3d_jax.plan import NETWORKS, ExperimentConfig, Split
from nas3d_jax.predict import Fold, predict_cases
from nas3d_jax.predictions import RECORD
from nas3d_jax.schema import Schema
from nas3d_jax.scores import JSON_FILE
from nas3d_jax.search import search
from nas3d_jax.states import Status
from nas3d_jax.stopping import Stop
from nas3d_jax.threshold import choose_min_component
from nas3d_jax.train import train

COSTS = "costs.json"
EXPERIMENT = "experiment.json"
_TIMED_CASES = 3


@dataclasses.dataclass(frozen=True)
class Part:
  """One part of an experiment.

  Attributes:
    name: what it is.
    status: tells how far it is.
    run: does what is left.
    seconds: tells how long that takes; None where nothing like it was measured.
  """

  name: str
  status: Callable[[], Status]
  run: Callable[[], object]
  seconds: Callable[[], float | None] = lambda: None


def parts_of(ground: Ground, stop: Stop | None = None) -> list[Part]:
  """All parts, in the order in which they are done; searches and trainings save when `stop` asks to stop."""
  config, folds = ground.config, ground.folds
  everywhere: list[Fold] = [*range(folds), "all"]
  seen: list[Split] = ["cross_validation", "training"]
  unseen: list[Split] = ["test", "ensemble"] if config.test_dir else []
  scored = seen + (unseen if ground.unseen_truths else [])
  parts = [_dataset(ground)]
  parts += [_search(ground, seed, stop=stop) for seed in range(config.seeds)]
  parts += [_search(ground, 0, fold, stop=stop) for fold in range(folds) if config.nested]
  parts += [_training(ground, network, fold, stop) for network in NETWORKS for fold in everywhere]
  parts += [_costs(ground, network) for network in NETWORKS]
  for network in NETWORKS:
    parts += [_prediction(ground, network, split) for split in seen]
    parts += [_threshold(ground, network)] if config.choose_min_component else []
    parts += [_prediction(ground, network, split) for split in unseen]
  parts += [_scores(ground, network, split) for network in NETWORKS for split in scored]
  return [*parts, _report(config)]


def _dataset(ground: Ground) -> Part:
  def run():
    folder = ground.config.root / FOLDER
    preprocess(ground.data_dir, folder, schema=ground.schema, folds=ground.folds)

  def status() -> Status:
    if not ground.has_dataset:
      return "to do"
    return "done" if ground.dataset else "changed"

  return Part("preprocess", status, run)


def _search(ground: Ground, seed: int, fold: int | None = None, *, stop: Stop | None) -> Part:
  config = ground.config.search(seed, fold, ground.folds)
  folder = Path(config.workdir) / "search"

  def run():
    if folder.parent != ground.config.root:
      write_reference(folder.parent, ground.config.root / FOLDER, without_fold=fold)
    search(config, stop)

  def seconds():
    cases = functools.partial(_search_cases, ground)
    others = {ground.config.root / "search": cases(0)} if ground.has_dataset else {}
    return states.seconds_left(folder, config.epochs, cases(config.fold, fold), others) if others else None

  name = f"search, without fold {fold}" if fold is not None else f"search, seed {seed}"
  return Part(name, _with_data(ground, lambda: states.search_status(config, ground.fingerprint(fold))), run, seconds)


def _search_cases(ground: Ground, hybrid: int, without: int | None = None) -> int:
  return sum(case.fold not in (hybrid, without) for case in ground.labelled)


def _training(ground: Ground, network: Architecture, fold: Fold, stop: Stop | None) -> Part:
  config = ground.config.train(network, fold)
  folder = ground.config.training(network, fold)

  def cases(fold: Fold) -> int:
    return sum(case.fold != fold for case in ground.labelled)

  def seconds():
    if not ground.has_dataset:
      return None
    others = {ground.config.training(network, other): cases(other) for other in [*range(ground.folds), "all"]}
    return states.seconds_left(folder, config.epochs, cases(fold), others)

  status = _with_data(ground, lambda: states.training_status(config, folder, ground.fingerprint()))
  which = "on all cases" if fold == "all" else f"fold {fold}"
  return Part(f"train {network}, {which}", status, lambda: train(config, stop), seconds)


def _costs(ground: Ground, network: Architecture) -> Part:
  config = ground.config
  path = config.root / COSTS

  def status() -> Status:
    measured = read_json(path).get(network) if path.exists() else None
    if measured is None:
      return "to do"
    return "done" if measured["patch_size"] == config.patch_size else "changed"

  def run():
    found, _ = find_cases(ground.data_dir, ground.schema, labels=False)
    cases = [read_case(files, ground.schema) for files in found[:_TIMED_CASES]]
    images = [conform_case(case, ground.dataset.geometry).image for case in cases]
    folder = config.training(network, "all")
    costs = measure_costs(folder, images, batch_size=config.batch_size, choices=config.choices())
    write_json(path, {**(read_json(path) if path.exists() else {}), network: costs.to_dict()})

  return Part(f"costs of {network}", status, run)


def _choices(config: ExperimentConfig, network: Architecture, split: Split) -> InferenceChoices:
  """How a split is predicted; a threshold that was chosen on the cross-validation is for unseen cases alone."""
  if not config.choose_min_component or split not in ("test", "ensemble"):
    return config.choices()
  return config.choices(read_json(config.threshold_file(network))["min_component_ml"])


def _schema(ground: Ground, split: Split) -> Schema:
  """Of the cases of a split."""
  return ground.test_schema if split in ("test", "ensemble") else ground.schema


def _prediction(ground: Ground, network: Architecture, split: Split) -> Part:
  config, folds = ground.config, ground.folds
  folder = config.predictions(network, split)
  unseen = split in ("test", "ensemble")
  members: list[Fold] = ["all"] if split in ("training", "test") else list(range(folds))
  runs = [config.training(network, fold) for fold in members]

  def look() -> tuple[Status, int]:
    expected = ground.unseen_images if unseen else ground.known_images
    waits = unseen and config.choose_min_component and not config.threshold_file(network).exists()
    if waits:
      return "to do", len(expected)
    return states.predictions_status(folder, expected, runs, _choices(config, network, split))

  def run():
    status, _ = look()
    cases = tuple(ground.unseen_images if unseen else ground.known_images)
    data_dir = config.test_dir if unseen else ground.data_dir
    choices = _choices(config, network, split)
    wanted = config.predict(network, split, data_dir=data_dir, cases=cases, folds=folds, choices=choices)
    schema = None if split == "cross_validation" else _schema(ground, split)
    overwrite = config.overwrite and status == "changed"
    predict_cases(dataclasses.replace(wanted, schema=schema, overwrite=overwrite))

  def seconds():
    measured = read_json(config.root / COSTS).get(network) if (config.root / COSTS).exists() else None
    if measured is None or measured["case_s"] is None or not ground.has_dataset:
      return None
    return look()[1] * measured["case_s"] * (len(runs) if split == "ensemble" else 1)

  return Part(f"predict {network}, {split.replace('_', '-')}", _with_data(ground, lambda: look()[0]), run, seconds)


def _threshold(ground: Ground, network: Architecture) -> Part:
  config = ground.config
  path, predictions = config.threshold_file(network), config.predictions(network, "cross_validation")

  def run():
    cases = [case.name for case in ground.labelled]
    choice = choose_min_component(predictions, ground.data_dir, cases, schema=ground.schema)
    write_json(path, choice.to_dict())

  return Part(f"least component of {network}", lambda: states.newer_than(path, [predictions / RECORD]), run)


def _scores(ground: Ground, network: Architecture, split: Split) -> Part:
  config = ground.config
  folder, predictions = config.scores(network, split), config.predictions(network, split)
  unseen = split in ("test", "ensemble")

  def truths():
    return ground.unseen_truths if unseen else ground.known_truths

  def run():
    data_dir = config.test_dir if unseen else ground.data_dir
    schema, overwrite = _schema(ground, split), config.overwrite
    evaluate(predictions, data_dir, folder, schema=schema, cases=list(truths()), overwrite=overwrite)

  status = _with_data(ground, lambda: states.scores_status(folder, predictions, truths()))
  return Part(f"score {network}, {split.replace('_', '-')}", status, run)


def _report(config: ExperimentConfig) -> Part:
  root = config.root

  def inputs() -> Iterator[Path]:
    yield from (root / COSTS, root / EXPERIMENT)
    yield from root.glob(f"scores/*/*/{JSON_FILE}")

  def run():
    # By name, so that nothing of the pictures is imported before they are drawn.
    try:
      report = importlib.import_module("nas3d_jax.report.build")
    except ImportError as error:
      raise InputError(
        f"all parts but the report are done, which cannot be made: {error}; install requirements.txt, and run again"
      ) from error
    report.write_report(root, portal_csv=config.portal_csv)

  return Part("report", lambda: states.newer_than(root / "report" / "index.html", inputs()), run)


def _with_data(ground: Ground, status: Callable[[], Status]) -> Callable[[], Status]:
  """Before there is a data set, nothing is done."""
  return lambda: status() if ground.has_dataset else "to do"


def write_experiment(ground: Ground, parts: list[Part]) -> None:
  """Writes `experiment.json`: what the report has to know of how the run came about; not if it says so already."""
  config = ground.config
  content = {
    "nested": config.nested,
    "seeds": list(range(config.seeds)),
    "data_dir": str(ground.data_dir),
    "test_dir": None if config.test_dir is None else str(Path(config.test_dir).absolute()),
    "parts": [part.name for part in parts],
  }
  path = config.root / EXPERIMENT
  if not path.exists() or json.loads(path.read_text("utf-8")) != content:
    config.root.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
