"""The paper's experiment: two networks under the same data, patches, augmentation and metrics, from cases to report."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from rich import box
from rich.table import Table

from nas3d_jax.config import Architecture
from nas3d_jax.errors import InputError
from nas3d_jax.ground import Ground
from nas3d_jax.locks import locked
from nas3d_jax.loop import say
from nas3d_jax.parts import Part, parts_of, write_experiment
from nas3d_jax.plan import NETWORKS, ExperimentConfig, Split
from nas3d_jax.scores import JSON_FILE, Scores
from nas3d_jax.states import Status
from nas3d_jax.stopping import Stop
from nas3d_jax.writing import writing

_SPLITS: tuple[Split, ...] = ("training", "cross_validation", "test", "ensemble")


@dataclasses.dataclass(frozen=True)
class PlannedPart:
  """A part as `--dry_run` shows it.

  Attributes:
    name: what it is.
    status: how far it is.
    seconds: what is left of it, estimated; None where nothing like it was measured.
  """

  name: str
  status: Status
  seconds: float | None


def plan_experiment(config: ExperimentConfig) -> list[PlannedPart]:
  """The parts of an experiment in their order, how far each is and how long the rest of it takes; changes nothing.

  Raises:
    InputError: a folder is missing or does not fit.
  """
  ground = _checked(config)
  planned = []
  for part in parts_of(ground):
    status = part.status()
    planned.append(PlannedPart(part.name, status, 0.0 if status == "done" else part.seconds()))
  return planned


def experiment(config: ExperimentConfig, stop: Stop | None = None) -> dict[tuple[Architecture, Split], Scores]:
  """Does all parts that are not done yet, each going on where it stopped.

  Search, training of both networks on each fold and on all cases, costs, predictions, scores, report. No case is
  predicted, in the cross-validation, by a fold that saw it. Progress goes to stderr.

  Args:
    config: what to compare.
    stop: what may ask a search or a training to save and stop.

  Returns:
    The scores, by network and split.

  Raises:
    InputError: a folder is missing or does not fit, another process makes this experiment, or a part cannot be done;
      the parts before it stay.
    Stopped: it was asked to stop, and what was under way is saved.
  """
  with locked(config.root, ".experiment.lock"), writing(config.root):
    return _experiment(config, stop)


def _experiment(config: ExperimentConfig, stop: Stop | None) -> dict[tuple[Architecture, Split], Scores]:
  began = time.monotonic()
  ground = _checked(config)
  parts = parts_of(ground, stop)
  write_experiment(ground, parts)
  for number, part in enumerate(parts, 1):
    if part.status() == "done":
      continue
    left = estimate(parts[number - 1 :])
    say(f"\n[{number}/{len(parts)}] {part.name} ({spell(time.monotonic() - began)} so far, {left} left)")
    part.run()
    if number == 1:
      # Only now there is a data set to be compared with, and folds that may be too few.
      ground.check_unseen()
  found = {(network, split): config.scores(network, split) for split in _SPLITS for network in NETWORKS}
  return {key: Scores.load(folder) for key, folder in found.items() if (folder / JSON_FILE).exists()}


def estimate(parts: list[Part]) -> str:
  """How long these parts take, as far as that is known."""
  seconds = [0.0 if part.status() == "done" else part.seconds() for part in parts]
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


def plan_table(planned: list[PlannedPart]) -> Table:
  """The parts as a table to print."""
  table = Table("", "part", "state", "time left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
  for number, part in enumerate(planned, 1):
    left = "unknown" if part.seconds is None else spell(part.seconds)
    table.add_row(str(number), part.name, part.status, "" if part.status == "done" else left)
  known = [part.seconds for part in planned if part.seconds is not None]
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


def _checked(config: ExperimentConfig) -> Ground:
  """The ground of an experiment, as far as it can be checked before the first part."""
  ground = Ground(config)
  if not ground.data_dir.is_dir():
    raise InputError(f"data_dir must be the folder of the cases, got {str(ground.data_dir)!r}; is it mistyped?")
  for table in config.portal_csv:
    if not Path(table.rpartition("=")[2]).is_file():
      raise InputError(f"portal_csv must be a file, or NETWORK/SPLIT=FILE, got {table!r}; is it mistyped?")
  if config.nested and ground.folds < 3:
    raise InputError(f"nested searches need at least 3 folds, two to search on, got {ground.folds}")
  if ground.has_dataset:
    ground.check_unseen()
  return ground
