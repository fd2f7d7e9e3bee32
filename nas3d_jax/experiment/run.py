"""The paper's experiment: two networks under the same data, patches, augmentation and metrics, from cases to report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.experiment.config import ExperimentConfig, Split
from nas3d_jax.experiment.inputs import ExperimentInputs
from nas3d_jax.experiment.stages import Stage, stages_of, write_experiment
from nas3d_jax.experiment.status import Status
from nas3d_jax.files.atomic import writing
from nas3d_jax.files.locks import locked
from nas3d_jax.files.run_layout import SCORES_JSON
from nas3d_jax.models.config import Architecture
from nas3d_jax.models.search_space import CustomOperation
from nas3d_jax.runtime.distributed import say
from nas3d_jax.runtime.stopping import Stop

_SPLITS: tuple[Split, ...] = ("training", "cross_validation", "test", "ensemble")


@dataclasses.dataclass(frozen=True)
class PlannedStage:
  """A stage as `--dry_run` shows it.

  Attributes:
    name: what it is.
    status: how far it is.
    seconds: what is left of it, estimated; None where nothing like it was measured.
  """

  name: str
  status: Status
  seconds: float | None


def plan_experiment(config: ExperimentConfig) -> list[PlannedStage]:
  """The stages of an experiment in their order, how far each is and how long the rest of it takes; changes nothing.

  Raises:
    InputError: a folder is missing or does not fit.
  """
  inputs = _checked(config)
  planned = []
  for stage in stages_of(inputs):
    status = stage.status()
    planned.append(PlannedStage(stage.name, status, 0.0 if status == "done" else stage.seconds()))
  return planned


def experiment(
  config: ExperimentConfig, stop: Stop | None = None, *, operations: Sequence[CustomOperation] = ()
) -> dict[tuple[Architecture, Split], Scores]:
  """Does all stages that are not done yet, each going on where it stopped.

  Search, training of both networks on each fold and on all cases, costs, predictions, scores, report. No case is
  predicted, in the cross-validation, by a fold that saw it. Progress goes to stderr.

  Args:
    config: what to compare.
    stop: what may ask a search or a training to save and stop.
    operations: candidates of the user's own, see `search`.

  Returns:
    The scores, by network and split.

  Raises:
    InputError: a folder is missing or does not fit, another process makes this experiment, or a stage cannot be done;
      the stages before it stay.
    Stopped: it was asked to stop, and what was under way is saved.
  """
  with locked(config.root, ".experiment.lock"), writing(config.root):
    return _experiment(config, stop, operations)


def _experiment(
  config: ExperimentConfig, stop: Stop | None, operations: Sequence[CustomOperation]
) -> dict[tuple[Architecture, Split], Scores]:
  began = time.monotonic()
  inputs = _checked(config, operations)
  stages = stages_of(inputs, stop)
  write_experiment(inputs, stages)
  for number, stage in enumerate(stages, 1):
    if stage.status() == "done":
      continue
    left = estimate(stages[number - 1 :])
    say(f"\n[{number}/{len(stages)}] {stage.name} ({spell(time.monotonic() - began)} so far, {left} left)")
    stage.run()
    if number == 1:
      # Only now there is a data set to be compared with, folds that may be too few, and a size for the patches.
      inputs.check_unseen()
      inputs.choose_patches()
      stages[1:] = stages_of(inputs, stop)[1:]
  found = {(network, split): config.scores(network, split) for split in _SPLITS for network in config.networks}
  return {key: Scores.load(folder) for key, folder in found.items() if (folder / SCORES_JSON).exists()}


def estimate(stages: list[Stage]) -> str:
  """How long these stages take, as far as that is known."""
  seconds = [0.0 if stage.status() == "done" else stage.seconds() for stage in stages]
  known = [value for value in seconds if value is not None]
  if not any(known):
    return "unknown"
  return f"about {spell(sum(known))}" if len(known) == len(seconds) else f"more than {spell(sum(known))}"


def spell(seconds: float) -> str:
  """Seconds as a person says them: 50 s, 12 min, 3.5 h, 2.1 days."""
  for unit, length, digits in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
    if seconds >= 1.5 * length:
      return f"{seconds / length:.{digits}f} {unit}"
  return f"{seconds:.0f} s"


def plan_table(planned: list[PlannedStage]) -> Table:
  """The stages as a table to print."""
  table = Table("", "part", "state", "time left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
  for number, stage in enumerate(planned, 1):
    left = "unknown" if stage.seconds is None else spell(stage.seconds)
    table.add_row(str(number), stage.name, stage.status, "" if stage.status == "done" else left)
  known = [stage.seconds for stage in planned if stage.seconds is not None]
  unknown = len(planned) - len(known)
  rest = spell(sum(known)) + (f", and what is unknown ({unknown} of the parts)" if unknown else "")
  table.caption = f"as things are now; left in all: {rest}; a search may stop earlier"
  return table


def summary_table(scores: dict[tuple[Architecture, Split], Scores]) -> Table:
  """Mean Dice and 95% Hausdorff distance of each network, split and region, as a table to print."""
  regions = next(iter(scores.values())).schema.region_names
  # Within the 80 columns of a terminal.
  table = Table("split", "network", "cases", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
  for region in regions:
    table.add_column(region, justify="right")
  for (network, split), found in scores.items():
    means = [{metric: values["mean"] for metric, values in found.summary[region].items()} for region in regions]
    shown = [f"{mean['dice']:.3f} {mean['hausdorff95']:6.1f}" for mean in means]
    table.add_row(split.replace("_", "-"), network, str(len(found.cases)), *shown)
  table.caption = "mean Dice, mean 95% Hausdorff distance in mm; training: on the final network's own cases"
  return table


def _checked(config: ExperimentConfig, operations: Sequence[CustomOperation] = ()) -> ExperimentInputs:
  """The inputs of an experiment, as far as it can be checked before the first stage."""
  inputs = ExperimentInputs(config, operations)
  if not inputs.data_dir.is_dir():
    raise InputError(f"data_dir must be the folder of the cases, got {str(inputs.data_dir)!r}; is it mistyped?")
  for table in config.portal_csv:
    if not Path(table.rpartition("=")[2]).is_file():
      raise InputError(f"portal_csv must be a file, or NETWORK/SPLIT=FILE, got {table!r}; is it mistyped?")
  if config.nested and inputs.folds < 3:
    raise InputError(f"nested searches need at least 3 folds, two to search on, got {inputs.folds}")
  if inputs.has_dataset:
    inputs.check_unseen()
    inputs.choose_patches()
  return inputs
