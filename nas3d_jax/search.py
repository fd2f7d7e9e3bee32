"""The search: Table 2 of the paper, as a command runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nas3d_jax import devices
from nas3d_jax.config import NetworkConfig, Variant
from nas3d_jax.counts import GenotypeCounts
from nas3d_jax.data import pipeline
from nas3d_jax.data.dataset import Dataset
from nas3d_jax.errors import InputError
from nas3d_jax.genotype import CELLS, Genotype, hybrid_weights
from nas3d_jax.loop import EpochSums, batch_spec, key_of, mean_loss, run_epoch, say
from nas3d_jax.metadata import RunMetadata
from nas3d_jax.networks import SEARCH_DROPOUT, Supernet
from nas3d_jax.run import Run
from nas3d_jax.schedules import Plateau, adam, with_rate
from nas3d_jax.settings import check_numbers
from nas3d_jax.steps import SearchState, make_search_step, make_validation_step

FOLDER = "search"
GENOTYPE = "genotype.json"
_LOSSES = ("hybrid_loss", "kernel_loss")
# What may differ when a run is gone on with.
_CHANGEABLE = ("workdir", "epochs", "min_count", "checkpoint_minutes", "overwrite")


@dataclasses.dataclass(frozen=True)
class SearchConfig:
  """A search; the defaults are the paper's (section 3.4).

  Attributes:
    workdir: run directory with `dataset/`; `search/` is written.
    fold: the fold that is the hybrid part; the others are the kernel part.
    patch_size: length of a patch along each axis in voxels.
    epochs: N_E, epochs at most.
    min_count: N_C, stop when a genotype was counted so often.
    batch_size: patches in a batch.
    kernels: kernels a node; None means the number of modalities.
    nodes: nodes of a cell.
    depth: downward cells.
    variant: of the squeeze-and-excitation operations, see `NetworkConfig`.
    hybrid_learning_rate: Adam's, of the hybrid parameters.
    kernel_learning_rate: Adam's, of the kernel parameters.
    dropout: part of the channels dropped.
    seed: of parameters, order, augmentation and dropout.
    skip_empty: leave out patches without tumour.
    augment: augment the patches of the kernel part.
    checkpoint_minutes: minutes between checkpoints within an epoch.
    overwrite: start anew.

  Raises:
    InputError: a field is out of range.
  """

  workdir: str
  fold: int = 0
  patch_size: int = 64
  epochs: int = 100
  min_count: int = 40
  batch_size: int = 1
  kernels: int | None = None
  nodes: int = 3
  depth: int = 4
  variant: Variant = "paper"
  hybrid_learning_rate: float = 1e-3
  kernel_learning_rate: float = 1e-3
  dropout: float = SEARCH_DROPOUT
  seed: int = 0
  skip_empty: bool = True
  augment: bool = True
  checkpoint_minutes: float = 10.0
  overwrite: bool = False

  def __post_init__(self):
    check_numbers(
      self,
      counts=("epochs", "min_count", "batch_size"),
      positive=("hybrid_learning_rate", "kernel_learning_rate", "checkpoint_minutes"),
    )


def search(config: SearchConfig) -> Genotype:
  """Searches, or goes on with the search that `config.workdir` holds.

  Returns:
    The genotype, which stands in `search/genotype.json` as well.

  Raises:
    InputError: no data set, a fold or patch size that does not fit, other settings than those of the search that is there.
  """
  dataset = Dataset.open(Path(config.workdir) / "dataset")
  device = devices.select()
  network = NetworkConfig(
    in_channels=len(dataset.schema.modalities),
    out_channels=len(dataset.schema.regions),
    **{name: getattr(config, name) for name in ("kernels", "nodes", "depth", "variant")},
  )
  network.check_patch_size(config.patch_size)
  parts = _refs(dataset, config)
  settings = {**dataclasses.asdict(config), "dataset": dataset.fingerprint}
  folder = Path(config.workdir) / FOLDER
  with (
    Run(folder, settings, device=device.to_dict(), overwrite=config.overwrite, changeable=_CHANGEABLE) as run,
    contextlib.closing(_Search(config, dataset, network, parts, device)) as state,
  ):
    state.restore(run)
    chosen = _search(config, state, run)
    beside = folder / f".{GENOTYPE}.partial"
    beside.write_text(chosen.to_json(), "utf-8")
    os.replace(beside, folder / GENOTYPE)
  return chosen


def _search(config: SearchConfig, state: _Search, run: Run) -> Genotype:
  """Table 2: epochs until a genotype was counted N_C times or N_E are over; then the most common one, the latest of equals."""
  while state.epoch < config.epochs:
    genotype, count = state.count_genotype()
    if count >= config.min_count:
      return genotype
    weights = hybrid_weights(state.train.hybrid, state.network)
    what = f"epoch {state.epoch + 1}/{config.epochs}"
    run_epoch(what, state.steps, state.sums, state.advance, lambda: state.save(run), save_minutes=config.checkpoint_minutes)
    losses = state.sums.means()
    validation = mean_loss(f"{what} validation", state.hybrid_batches(), state.hybrid_steps, state.validation_loss)
    record = {
      "epoch": state.epoch + 1,
      "step": int(state.train.step),
      **losses,
      "validation_loss": validation,
      "hybrid_learning_rate": state.hybrid_plateau.rate,
      "kernel_learning_rate": state.kernel_plateau.rate,
      "genotype": {cell: [list(row) for row in getattr(genotype, cell)] for cell in CELLS},
      "count": count,
      **_describe(weights),
      "seconds": round(state.sums.seconds, 3),
      "patches_per_second": round(2 * config.batch_size * state.sums.steps / max(state.sums.seconds, 1e-9), 3),
    }
    state.finish_epoch(losses["hybrid_loss"], validation)
    run.record(record)
    state.save(run, best_metric=validation)
    say(
      f"{what}: hybrid loss {losses['hybrid_loss']:.4f}, kernel loss {losses['kernel_loss']:.4f}, validation loss "
      f"{validation:.4f}; genotype counted {count} of {config.min_count}; {record['patches_per_second']:.2f} patches/s"
    )
  return state.counts.most_common()


class _Search:
  """The state of a search between two steps, and what one step needs."""

  def __init__(self, config: SearchConfig, dataset: Dataset, network: NetworkConfig, parts, device):
    self.config, self.dataset, self.network, self._device = config, dataset, network, device
    self._hybrid_refs, self._kernel_refs = parts
    self.steps = pipeline.steps_per_epoch(self._kernel_refs, config.batch_size)
    self.hybrid_steps = pipeline.steps_per_epoch(self._hybrid_refs, config.batch_size)
    net = Supernet(network, config.dropout)
    optimizers = adam(config.hybrid_learning_rate), adam(config.kernel_learning_rate)
    init_key, step_key, self._augment_key = jax.random.split(key_of(config.seed), 3)
    variables = net.init(init_key, batch_spec(config.batch_size, config.patch_size, network.in_channels))
    self.train = SearchState.create(variables, *optimizers, step_key)
    self._step = make_search_step(net, *optimizers)
    self._validate = make_validation_step(net)
    self._prepare = jax.jit(functools.partial(pipeline.prepare_batch, schema=dataset.schema))
    self.epoch = 0
    self.sums = EpochSums.zero(_LOSSES)
    self.counts = GenotypeCounts()
    self.hybrid_plateau = Plateau(config.hybrid_learning_rate)
    self.kernel_plateau = Plateau(config.kernel_learning_rate)
    self._streams = {
      "hybrid": self._stream(self._hybrid_refs, 2 * config.seed),
      "kernel": self._stream(self._kernel_refs, 2 * config.seed + 1),
    }

  def _stream(self, refs, seed, **options):
    size = dict(patch_size=self.config.patch_size, batch_size=self.config.batch_size)
    return pipeline.patch_batches(self.dataset, refs, seed=seed, **size, **options)

  def close(self) -> None:
    for stream in self._streams.values():
      stream.close()

  def count_genotype(self) -> tuple[Genotype, int]:
    """Counts the genotype of the epoch that begins, once."""
    genotype = Genotype.from_hybrid(self.train.hybrid, self.network)
    if self.counts.total == self.epoch:
      self.counts.add(genotype)
    return genotype, self.counts[genotype]

  def advance(self) -> dict[str, jax.Array]:
    """One step: the next hybrid patch as it is, the next kernel patch augmented."""
    key = jax.random.fold_in(self._augment_key, self.train.step) if self.config.augment else None
    hybrid = self._prepare(next(self._streams["hybrid"]))
    kernel = self._prepare(next(self._streams["kernel"]), key=key)
    self.train, losses = self._step(self.train, hybrid, kernel)
    return losses

  def hybrid_batches(self) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Every patch of the hybrid part once."""
    with contextlib.closing(self._stream(self._hybrid_refs, 0, epochs=1, shuffle=False)) as batches:
      for batch in batches:
        yield self._prepare(batch)

  def validation_loss(self, batch) -> jax.Array:
    return self._validate(self.train.variables, batch)

  def finish_epoch(self, hybrid_loss: float, validation_loss: float) -> None:
    """Schedules: the hybrid rate follows the hybrid loss, the kernel rate the validation loss."""
    self.epoch += 1
    self.sums = EpochSums.zero(_LOSSES)
    self.hybrid_plateau = self.hybrid_plateau.after(hybrid_loss)
    self.kernel_plateau = self.kernel_plateau.after(validation_loss)
    self.train = self.train.replace(
      hybrid_optimizer=with_rate(self.train.hybrid_optimizer, self.hybrid_plateau.rate),
      kernel_optimizer=with_rate(self.train.kernel_optimizer, self.kernel_plateau.rate),
    )

  def _training(self) -> dict[str, Any]:
    """What a checkpoint holds beside the variables, as arrays and numbers."""
    state = {name: getattr(self.train, name) for name in ("hybrid_optimizer", "kernel_optimizer", "key", "step")}
    schedules = {"hybrid": self.hybrid_plateau, "kernel": self.kernel_plateau}
    return {**state, "schedules": schedules, "epoch": self.epoch, "sums": dataclasses.asdict(self.sums)}

  def save(self, run: Run, best_metric: float | None = None) -> None:
    """Writes a checkpoint, in the background."""
    metadata = RunMetadata(
      kind="search",
      network=self.network,
      genotype=None,
      dropout_rate=self.config.dropout,
      schema=self.dataset.schema,
      patch_size=self.config.patch_size,
      epoch=self.epoch,
      step=int(self.train.step),
      versions=self._device.versions,
      device=self._device.to_dict(),
      dataset={"fingerprint": self.dataset.fingerprint},
      progress={"counts": self.counts.to_list()},
    )
    run.checkpoints.save(
      int(self.train.step),
      variables=self.train.variables,
      training=self._training(),
      metadata=metadata.to_dict(),
      iterators={name: stream.get_state() for name, stream in self._streams.items()},
      best_metric=best_metric,
    )

  def restore(self, run: Run) -> None:
    """Goes on from the last checkpoint, if there is one."""
    step = run.checkpoints.latest_step()
    if step is None:
      run.rewind(0)
      return
    variables, training = run.checkpoints.restore(step, variables=self.train.variables, training=self._training())
    self.counts = GenotypeCounts.from_list(run.checkpoints.metadata(step)["progress"]["counts"])
    schedules, sums, self.epoch = training.pop("schedules"), training.pop("sums"), training.pop("epoch")
    self.hybrid_plateau, self.kernel_plateau = schedules["hybrid"], schedules["kernel"]
    self.sums = EpochSums(**sums)
    self.train = SearchState(
      hybrid={"params": {"hybrid": variables["params"].pop("hybrid")}}, kernel=variables, **training
    )
    for name, position in run.checkpoints.iterators(step).items():
      self._streams[name].set_state(position)
    run.rewind(self.epoch)


def _refs(dataset: Dataset, config: SearchConfig):
  """Patches of the hybrid part and of the kernel part."""
  parts = dataset.fold_cases(config.fold), dataset.other_cases(config.fold)
  for name, cases in zip(("hybrid", "kernel"), parts, strict=True):
    if not cases:
      raise InputError(f"fold {config.fold} leaves no case for the {name} part; preprocess with --folds=2 or more cases")
  return [pipeline.patch_index(dataset, cases, config.patch_size, skip_empty=config.skip_empty) for cases in parts]


def _describe(weights: dict[str, dict[tuple[int, int], np.ndarray]]) -> dict[str, Any]:
  """Softmax weights of each hybrid module, and their entropy in nats, its mean over the modules of a cell too."""
  modules = {
    cell: [
      {"node": node, "state": state, "weights": row.tolist(), "entropy": float(-(row * np.log(row)).sum())}
      for (node, state), row in weights[cell].items()
    ]
    for cell in CELLS
  }
  entropy = {cell: float(np.mean([module["entropy"] for module in modules[cell]])) for cell in CELLS}
  return {"hybrid_weights": modules, "entropy": entropy}
