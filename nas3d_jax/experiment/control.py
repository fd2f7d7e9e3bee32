"""The control of an experiment: searched, random and hand-designed networks trained alike, several times each.

Every training leaves out fold 0, whose cases are then predicted and scored. Each has a folder of its own,
`control/<group>/<number>/<seed>/`, in which lie `train/0`, `predictions` and `scores`; what a random genotype was drawn
with stands in `control/random/<number>/search`, a search with another weight of the cost in
`control/cost_<weight>/<seed>/search`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nas3d_jax.data.dataset.reference import write_reference
from nas3d_jax.evaluation.evaluate import evaluate
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.experiment.inputs import ExperimentInputs
from nas3d_jax.experiment.stage import Stage, with_data
from nas3d_jax.experiment.status import (
  predictions_status,
  scores_status,
  search_status,
  seconds_left,
  training_status,
)
from nas3d_jax.experiment.supernet_ranking import supernet_stage
from nas3d_jax.files.run_layout import (
  CONTROL,
  COST,
  DATASET,
  GENOTYPE,
  PREDICTIONS,
  RANDOM,
  SCORES,
  SEARCH,
  TRAIN_FOLDERS,
)
from nas3d_jax.inference.config import PredictConfig
from nas3d_jax.inference.predict import predict_cases
from nas3d_jax.models.config import Architecture
from nas3d_jax.runtime.stopping import Stop
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.training.search import search
from nas3d_jax.training.train import train

_FOLD = 0


class Compared(NamedTuple):
  """A network that is trained several times.

  Attributes:
    group: "searched", "random", "cost_" and a weight, or a hand-designed network.
    number: seed of the search or of the draw; 0 of a hand-designed network.
  """

  group: str
  number: int

  @property
  def name(self) -> str:
    """As the losses of the supernets have it."""
    return f"{self.group}/{self.number}"

  @property
  def network(self) -> Architecture:
    """Its architecture."""
    return self.group if self.group in TRAIN_FOLDERS else "searched"


def control_stages(inputs: ExperimentInputs, stop: Stop | None) -> Iterator[Stage]:
  """Draws, losses in the supernets, then trainings, predictions and scores by seed; none without a control."""
  config = inputs.config
  if not config.has_control:
    return
  drawn = [Compared(RANDOM, number) for number in range(config.random)]
  # That of the searches is theirs already.
  weights = [weight for weight in config.cost_weights if float(weight) != config.search_template.cost_weight]
  cheaper = [Compared(f"{COST}{weight}", seed) for weight in dict.fromkeys(weights) for seed in range(config.seeds)]
  for network in drawn + cheaper:
    yield _own_search(inputs, network, stop)
  networks = [*(Compared("searched", seed) for seed in range(config.seeds)), *drawn, *cheaper]
  genotypes = {network.name: _genotype(config, network) for network in networks}
  for seed in range(config.seeds):
    yield supernet_stage(inputs, seed, genotypes)
  networks.append(Compared(config.baseline, 0))
  # Seed by seed, so that each group has something to compare early.
  for seed in range(config.retrain_seeds):
    for network in networks:
      yield from (make(inputs, network, seed, stop) for make in (_training, _prediction, _scores))


def root_of(config: ExperimentConfig, network: Compared, seed: int) -> Path:
  """The work directory of a training of the control."""
  return config.root / CONTROL / network.group / str(network.number) / str(seed)


def _own_search(inputs: ExperimentInputs, network: Compared, stop: Stop | None) -> Stage:
  config = _search_config(inputs.config, network)
  folder = config.workdir / SEARCH

  def run():
    write_reference(config.workdir, inputs.config.root / DATASET)
    search(config, stop, operations=inputs.operations)

  def seconds():
    if network.group == RANDOM:
      return 0.0
    if not inputs.has_dataset:
      return None
    # They go through the same cases as the search of seed 0.
    return seconds_left(folder, config.epochs, 1, {inputs.config.root / SEARCH: 1})

  status = with_data(inputs, lambda: search_status(config, inputs.fingerprint()))
  what = "random genotype" if network.group == RANDOM else f"control, search with cost_weight={config.cost_weight:g},"
  return Stage(f"{what} {network.number}", status, run, seconds)


def _search_config(config: ExperimentConfig, network: Compared) -> SearchConfig:
  asked = {"method": RANDOM} if network.group == RANDOM else {"cost_weight": float(network.group.removeprefix(COST))}
  own = dict(workdir=_genotype_root(config, network), fold=_FOLD, seed=network.number)
  return dataclasses.replace(config.search_template, **own, **asked)


def _train_config(config: ExperimentConfig, network: Compared, seed: int) -> TrainConfig:
  genotype = _genotype(config, network) if network.network == "searched" else None
  own = dict(workdir=root_of(config, network, seed), fold=_FOLD, seed=seed, network=network.network, genotype=genotype)
  return dataclasses.replace(config.template(network.network), **own)


def _genotype(config: ExperimentConfig, network: Compared) -> Path:
  return _genotype_root(config, network) / SEARCH / GENOTYPE


def _genotype_root(config: ExperimentConfig, network: Compared) -> Path:
  if network.group == "searched":
    return config.search_root(network.number)
  return config.root / CONTROL / network.group / str(network.number)


def _run_of(inputs: ExperimentInputs, network: Compared, seed: int) -> Path:
  return root_of(inputs.config, network, seed) / TRAIN_FOLDERS[network.network] / str(_FOLD)


def _training(inputs: ExperimentInputs, network: Compared, seed: int, stop: Stop | None) -> Stage:
  config, run_directory = _train_config(inputs.config, network, seed), _run_of(inputs, network, seed)

  def run():
    write_reference(config.workdir, inputs.config.root / DATASET)
    train(config, stop, operations=inputs.operations)

  def seconds():
    if not inputs.has_dataset:
      return None
    cases = sum(case.fold != _FOLD for case in inputs.labelled)
    return seconds_left(run_directory, config.epochs, cases, {inputs.config.training(network.network, _FOLD): cases})

  status = with_data(inputs, lambda: training_status(config, run_directory, inputs.fingerprint()))
  return Stage(f"control, {_name(network)}: train with seed {seed}", status, run, seconds)


def _prediction(inputs: ExperimentInputs, network: Compared, seed: int, _: Stop | None) -> Stage:
  config, run_directory = inputs.config, _run_of(inputs, network, seed)
  out = root_of(config, network, seed) / PREDICTIONS

  def look():
    images = {name: inputs.known_images[name] for name in _cases(inputs)}
    return predictions_status(out, images, [run_directory], config.choices())[0]

  def run():
    devices = config.template(network.network).devices
    how = dict(schema=inputs.schema, devices=devices, choices=config.choices())
    overwrite = config.overwrite and look() == "changed"
    sources = dict(checkpoint=(run_directory,), data_dir=inputs.data_dir, cases=tuple(_cases(inputs)), out=out)
    predict_cases(PredictConfig(**sources, **how, overwrite=overwrite), operations=inputs.operations)

  return Stage(f"control, {_name(network)}: predict with seed {seed}", with_data(inputs, look), run)


def _scores(inputs: ExperimentInputs, network: Compared, seed: int, _: Stop | None) -> Stage:
  config, root = inputs.config, root_of(inputs.config, network, seed)

  def truths():
    return {name: inputs.known_truths[name] for name in _cases(inputs)}

  def run():
    how = dict(schema=inputs.schema, cases=list(truths()), overwrite=config.overwrite)
    evaluate(root / PREDICTIONS, inputs.data_dir, root / SCORES, **how)

  status = with_data(inputs, lambda: scores_status(root / SCORES, root / PREDICTIONS, truths()))
  return Stage(f"control, {_name(network)}: score with seed {seed}", status, run)


def _cases(inputs: ExperimentInputs) -> list[str]:
  """The cases that are scored."""
  return [case.name for case in inputs.labelled if case.fold == _FOLD]


def _name(network: Compared) -> str:
  return f"{network.group} {network.number}" if network.network == "searched" else network.group
