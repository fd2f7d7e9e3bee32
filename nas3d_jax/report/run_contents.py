"""Reads and checks all of a run directory for the report."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.portal import PortalScores, read_portal
from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.files.run_layout import (
  CONFIG,
  COSTS,
  DATASET,
  EXPERIMENT,
  GENOTYPE,
  METRICS,
  NESTED,
  SCORES,
  SCORES_JSON,
  SEARCH,
  SEEDS,
  TRAIN_FOLDERS,
)
from nas3d_jax.files.strict_json import read_json, read_records
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype, genotype_in
from nas3d_jax.models.search_space import PAPER_SPACE, SearchSpace
from nas3d_jax.report.history_check import Kind, check_costs, check_history

NETWORKS: Mapping[str, str] = types.MappingProxyType(
  {"searched": "searched network", "unet3d": "3D U-Net", "plain_unet": "plain U-Net"}
)
"""The networks that are compared, as folders and as the reader knows them."""

SPLITS: Mapping[str, str] = types.MappingProxyType(
  {
    "training": "training: the final network on the cases it was trained on",
    "cross_validation": "cross-validation: each case by the fold that did not see it",
    "test": "test: the final network on unseen cases",
    "ensemble": "test, ensemble: the mean of the folds on unseen cases",
  }
)

_PORTAL_HELP = "give NETWORK/SPLIT=FILE, as in searched/test=scores.csv"

Key = tuple[str, str]  # network, split or fold


@dataclasses.dataclass(frozen=True)
class History:
  """A search or a training, from its folder.

  Attributes:
    folder: where it lies.
    settings: what it was made with.
    sessions: device and versions of every session.
    records: one an epoch, in order.
    genotype: what a search that is over found, else None.
  """

  folder: Path
  settings: Mapping[str, Any]
  sessions: tuple[Mapping[str, Any], ...]
  records: tuple[Mapping[str, Any], ...]
  genotype: Genotype | None

  @classmethod
  def read(cls, folder: Path, kind: Kind | None = None) -> History | None:
    """Reads the folder of a run; None where there is none.

    Args:
      folder: where it lies.
      kind: what was searched or trained there, to check that its files hold what is drawn of it; None checks less.

    Raises:
      InputError: a file is damaged.
    """
    if not (folder / CONFIG).exists():
      return None
    config = read_json(folder / CONFIG, f"put back a copy of it, or move {folder} away")
    settings, sessions = config.get("settings"), config.get("sessions")
    if not isinstance(settings, dict) or not isinstance(sessions, list):
      raise InputError(f"{folder / CONFIG} is no configuration of a run; put back a copy of it, or move {folder} away")
    found = folder / GENOTYPE
    genotype = genotype_in(found, "put back a copy of it") if found.exists() else None
    records = list(read_records(folder / METRICS))
    if kind is not None:
      check_history(folder, kind, settings, sessions, records)
    return cls(folder, settings, tuple(sessions), tuple(records), genotype)

  @property
  def space(self) -> SearchSpace:
    """The candidate operations."""
    return SearchSpace.from_dict(self.settings["space"]) if "space" in self.settings else PAPER_SPACE

  def column(self, name: str) -> list[Any]:
    """One field of every epoch, as `read` checked it: numbers, or None."""
    return [record[name] for record in self.records]


@dataclasses.dataclass(frozen=True)
class Histories:
  """The searches and trainings of a run; what is not there is None or left out.

  Attributes:
    workdir: the run directory.
    search: the search of seed 0.
    seeds: further searches, by seed.
    nested: searches of the folds, by fold.
    trainings: (network, fold) -> training.
  """

  workdir: Path
  _: dataclasses.KW_ONLY
  search: History | None
  seeds: Mapping[str, History]
  nested: Mapping[str, History]
  trainings: Mapping[Key, History]

  @classmethod
  def of(cls, workdir: Path) -> Histories:
    """Reads them, also while they are written to.

    Raises:
      InputError: a file is damaged.
    """
    return Histories(workdir, **_histories(workdir))


@dataclasses.dataclass(frozen=True)
class Material(Histories):
  """Everything of a run that there is; what is not there is None or left out.

  Attributes:
    dataset: its data set.
    scores: (network, split) -> scores.
    portal: (network, split) -> scores of a portal.
    costs: network -> what it costs.
    experiment: how the experiment was made.
    control: its trainings of searched, random and hand-designed networks, see `control_contents`.
  """

  dataset: Dataset
  scores: Mapping[Key, Scores]
  portal: Mapping[Key, PortalScores]
  costs: Mapping[str, Mapping[str, Any]]
  experiment: Mapping[str, Any]
  control: tuple[Any, ...] = ()

  @classmethod
  def read(cls, workdir: str | Path, portal_csv: Iterable[str] = ()) -> Material:
    """Reads a run directory.

    Args:
      workdir: the run directory, with `dataset/` at least.
      portal_csv: "NETWORK/SPLIT=FILE" each, tables of a challenge's portal; a mere file is searched/test.

    Raises:
      InputError: there is no data set, a file is damaged, scores are of other regions or, within a split, of other
        cases for one network than for the other, or a portal's table is wrong or doubles scores that are there.
    """
    workdir = Path(workdir)
    dataset = Dataset.open(workdir / DATASET)
    scores = {
      (network, split): Scores.load(folder)
      for network in NETWORKS
      for split in SPLITS
      if ((folder := workdir / SCORES / network / split) / SCORES_JSON).exists()
    }
    for (network, split), found in scores.items():
      if set(found.schema.region_names) != set(dataset.schema.region_names):
        where = f"{SCORES}/{network}/{split}"
        raise InputError(f"{where} of {workdir} is of another schema than the data set; evaluate with overwrite")
    _check_same_cases(workdir, scores)
    costs = _optional(workdir / COSTS)
    check_costs(workdir / COSTS, costs)
    return cls(
      workdir=workdir,
      dataset=dataset,
      **_histories(workdir),
      scores=scores,
      portal=dict(_read_portal(text, dataset, scores) for text in portal_csv),
      costs=costs,
      experiment=_optional(workdir / EXPERIMENT),
    )

  @property
  def network(self) -> NetworkConfig | None:
    """Size of the searched network, from the search or else a training; None where there is neither."""
    sources = [self.search, *(h for (name, _), h in self.trainings.items() if name == "searched")]
    history = next((history for history in sources if history), None)
    if history is None:
      return None
    schema, settings = self.dataset.schema, history.settings
    sizes = {name: settings[name] for name in ("kernels", "nodes", "depth", "variant")}
    channels = dict(in_channels=len(schema.modalities), out_channels=len(schema.regions))
    return NetworkConfig(**channels, **sizes, output=settings.get("output", "sigmoid"), space=history.space)

  def networks_of(self, split: str) -> list[str]:
    """The networks that have scores in a split, with truth or from a portal."""
    return [network for network in NETWORKS if (network, split) in {**self.scores, **self.portal}]

  def splits(self) -> list[str]:
    """The splits that have scores."""
    return [split for split in SPLITS if self.networks_of(split)]

  def values(self, network: str, split: str, region: str, metric: str) -> list[float]:
    """A metric of every case; empty where it is not known."""
    if scores := self.scores.get((network, split)):
      return [case[region][metric] for case in scores.cases.values()]
    portal = self.portal.get((network, split))
    known = portal and metric in next(iter(portal.cases.values()))[region]
    return portal.values(region, metric) if known else []


def _histories(workdir: Path) -> dict[str, Any]:
  """The fields of `Histories` but the first."""
  trainings = {
    (network, folder.name): history
    for network, name in TRAIN_FOLDERS.items()
    for folder in sorted((workdir / name).glob("*"))
    if (history := History.read(folder, network))
  }
  return {
    "search": History.read(workdir / SEARCH, "search"),
    "seeds": _searches(workdir / SEEDS),
    "nested": _searches(workdir / NESTED),
    "trainings": trainings,
  }


def _searches(folder: Path) -> dict[str, History]:
  found = {path.parent.name: History.read(path, "search") for path in folder.glob(f"*/{SEARCH}")}
  ordered = sorted(found, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
  return {name: found[name] for name in ordered if found[name]}


def _optional(path: Path) -> dict[str, Any]:
  return read_json(path, "remove it, and run experiment again, which makes it") if path.exists() else {}


def _check_same_cases(workdir: Path, scores: Mapping[Key, Scores]) -> None:
  for split in SPLITS:
    first, *others = [scores[network, split] for network in NETWORKS if (network, split) in scores] or [None]
    if other := sorted({case for scored in others for case in first.cases.keys() ^ scored.cases.keys()}):
      raise InputError(
        f"the networks are scored on other cases in {SCORES}/*/{split} of {workdir}: {', '.join(other[:5])} of one "
        "only; predict and evaluate the same cases with both"
      )


def _read_portal(text: str, dataset: Dataset, scores: Mapping[Key, Scores]) -> tuple[Key, PortalScores]:
  name, equals, path = text.rpartition("=")
  network, _, split = (name if equals else "searched/test").partition("/")
  if network not in NETWORKS or split not in ("test", "ensemble"):
    raise InputError(
      f"portal_csv must be of {' or '.join(NETWORKS)} and of test or ensemble, got {text!r}; {_PORTAL_HELP}"
    )
  if (network, split) in scores:
    raise InputError(f"portal_csv {text!r} doubles {SCORES}/{network}/{split}, which are there; leave one of them out")
  return (network, split), read_portal(path, dataset.schema)
