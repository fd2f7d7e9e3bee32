"""The search: Table 2 of the paper, as a command runs it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nas3d_jax.basis import Basis, key_of
from nas3d_jax.chunks import make_chunk, steps_per_call
from nas3d_jax.config import Variant
from nas3d_jax.counts import GenotypeCounts, describe, rows_of
from nas3d_jax.data.part import Placement
from nas3d_jax.genotype import Genotype, hybrid_weights
from nas3d_jax.loop import mean_loss, say
from nas3d_jax.networks import SEARCH_DROPOUT, Supernet, partition
from nas3d_jax.nonfinite import Skips, Source
from nas3d_jax.packing import PackedNet
from nas3d_jax.precision import Precision, activation_dtype, computing
from nas3d_jax.progress import Progress, take_steps
from nas3d_jax.run import GENOTYPE, Run
from nas3d_jax.schedules import Plateau, adam, with_moments, with_rate
from nas3d_jax.settings import check_numbers
from nas3d_jax.steps import PARTITIONS, SearchState, make_search_step, make_validation_step
from nas3d_jax.stopping import Stop

FOLDER = "search"
_LOSSES = tuple(f"{name}_loss" for name in PARTITIONS)
_METRICS = (*_LOSSES, *(f"{name}_finite" for name in PARTITIONS))


@dataclasses.dataclass(frozen=True)
class SearchConfig:
  """A search; the defaults are the paper's (section 3.4).

  Attributes:
    workdir: run directory with `dataset/`; `search/` is written.
    fold: the fold that is the hybrid part; the others are the kernel part.
    patch_size: length of a patch along each axis in voxels.
    epochs: N_E, epochs at most.
    min_count: N_C, stop when a genotype was counted so often.
    batch_size: patches in the batch of one device.
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
    data_placement: where the data lies: "device", "host", or "auto", on an accelerator where it fits.
    precision: of convolutions: "float32", "tf32" or "bfloat16".
    devices: number of devices that share a batch; None means all that JAX sees.
    skip_nonfinite: steps that may be left out because a loss or gradient was not finite.
    checkpoint_minutes: minutes between checkpoints within an epoch.
    overwrite: start anew.

  Raises:
    InputError: a field is out of range.
  """

  workdir: str | Path
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
  data_placement: Placement = "auto"
  precision: Precision = "float32"
  devices: int | None = None
  skip_nonfinite: int = 0
  checkpoint_minutes: float = 10.0
  overwrite: bool = False

  def __post_init__(self):
    check_numbers(
      self,
      counts=("epochs", "min_count", "batch_size"),
      positive=("hybrid_learning_rate", "kernel_learning_rate", "checkpoint_minutes"),
    )


def search(config: SearchConfig, stop: Stop | None = None) -> Genotype:
  """Searches, or goes on with the search that `config.workdir` holds.

  Args:
    config: what to search.
    stop: what may ask it to save and stop.

  Returns:
    The genotype, which stands in `search/genotype.json` as well.

  Raises:
    InputError: no data set, a fold or patch size that does not fit, other settings than those of the search that is
      there, or a loss that is not finite.
    Stopped: it was asked to stop, and has saved.
  """
  basis = Basis.of(config)
  folder = Path(config.workdir) / FOLDER
  with (
    computing(config.precision),
    contextlib.closing(_Search(basis, folder)) as state,
    basis.open_run(folder, changeable=("min_count",)) as run,
  ):
    state.resume(run)
    genotype = _search(config, state, run, stop or Stop())
    run.write(GENOTYPE, genotype.to_json())
  return genotype


def _search(config: SearchConfig, state: _Search, run: Run, stop: Stop) -> Genotype:
  """Table 2: until a genotype was counted N_C times, or N_E epochs are over: then the most common, latest of equals."""
  while state.progress.epoch < config.epochs:
    genotype, count = state.begin_epoch()
    if count >= config.min_count:
      return genotype
    _search_epoch(config, state, run, stop)
  return state.counts.most_common()


def _search_epoch(config: SearchConfig, state: _Search, run: Run, stop: Stop) -> None:
  progress = state.progress
  what, save = take_steps(state, config, run, stop)
  losses = progress.sums.means()
  batches = stop.between(state.hybrid.once(), save)
  validation = mean_loss(f"{what} validation", batches, state.hybrid.steps, state.validation_loss)
  record = {
    "epoch": progress.epoch + 1,
    "step": int(state.train.step),
    **losses,
    "validation_loss": validation,
    "hybrid_learning_rate": state.schedules["hybrid"].rate,
    "kernel_learning_rate": state.schedules["kernel"].rate,
    **state.opening,
    "skipped": progress.sums.skipped,
    **progress.sums.speed(state.hybrid.size + state.kernel.size),
  }
  state.finish_epoch(losses["hybrid_loss"], validation)
  run.record(record)
  save(best_metric=validation)
  say(
    f"{what}: hybrid loss {losses['hybrid_loss']:.4f}, kernel loss {losses['kernel_loss']:.4f}, validation loss "
    f"{validation:.4f}; genotype counted {record['count']} of {config.min_count}; "
    f"{record['patches_per_second']:.2f} patches/s"
  )
  stop.check(save)


class _Search:
  """The state of a search between two steps, and what one step needs."""

  def __init__(self, basis: Basis, folder: Path):
    self._basis = basis
    config, dataset, replicas = basis.config, basis.dataset, basis.replicas
    self.hybrid = basis.part("hybrid", dataset.fold_cases(config.fold), seed=2 * config.seed)
    self.kernel = basis.part("kernel", dataset.other_cases(config.fold), seed=2 * config.seed + 1)
    net = Supernet(basis.network, config.dropout, dtype=activation_dtype(config.precision))
    init_key, step_key, self._augment_key = jax.random.split(key_of(config.seed), 3)
    variables = basis.draw_variables(net, init_key)
    self._net = PackedNet(net, variables)
    optimizers = adam(config.hybrid_learning_rate), adam(config.kernel_learning_rate)
    self.train = replicas.replicate(SearchState.create(self._net.pack(variables), *optimizers, step_key))
    self._step = make_search_step(self._net, *optimizers, replicas=replicas)
    self._chunk = make_chunk(self._step, self._draw, _METRICS) if basis.place(self.hybrid, self.kernel) else None
    self._validate = make_validation_step(self._net, replicas=replicas)
    self.schedules = {
      "hybrid": Plateau(config.hybrid_learning_rate), "kernel": Plateau(config.kernel_learning_rate)
    }
    self.progress = Progress(_LOSSES, self.kernel, Skips(folder, config.skip_nonfinite))
    self.counts = GenotypeCounts()
    # What is recorded of the genotype when an epoch begins; None between two epochs.
    self.opening: dict[str, Any] | None = None

  def close(self) -> None:
    self.hybrid.close()
    self.kernel.close()

  def begin_epoch(self) -> tuple[Genotype, int]:
    """Reads and counts the genotype (Table 2, lines 8 and 9), once an epoch however often it is begun."""
    if self.opening is None:
      genotype = Genotype.from_hybrid(self.train.hybrid, self._basis.network)
      self.counts.add(genotype)
      weights = hybrid_weights(self.train.hybrid, self._basis.network)
      self.opening = {"genotype": rows_of(genotype), "count": self.counts[genotype], **describe(weights)}
    return Genotype(**self.opening["genotype"]), self.opening["count"]

  def advance(self, most: int) -> tuple[int, dict[str, jax.Array]]:
    """Steps, one or as many as a call makes: the next hybrid patch as it is, the next kernel patch augmented."""
    if self._chunk is None:
      batches = self.hybrid.draw(), self.kernel.draw(self._key(self.train.step))
      self.train, losses = self._step(self.train, *batches)
      return 1, losses
    limit = steps_per_call()
    count = min(most, limit)
    order = [part.take(count, limit) for part in (self.hybrid, self.kernel)]
    self.train, losses = self._chunk(self.train, (self.hybrid.data, self.kernel.data), order, count)
    return count, losses

  def _key(self, step: jax.Array) -> jax.Array | None:
    return jax.random.fold_in(self._augment_key, step) if self._basis.config.augment else None

  def _draw(self, data: Any, order: Any, step: jax.Array) -> tuple[Any, Any]:
    hybrid = self.hybrid.prepare(data[0], order[0])
    return hybrid, self.kernel.prepare(data[1], order[1], self._key(step))

  def skip(self, ago: int, metrics: Mapping[str, float]) -> None:
    """Counts a step that was left out, `ago` steps before the last."""
    step = int(self.train.step) - ago
    sources = Source(self.hybrid, None), Source(self.kernel, self._key(step - 1))
    named = dict(zip(PARTITIONS, sources, strict=True))
    self.progress.skips.add(step=step, epoch=self.progress.epoch + 1, ago=ago, metrics=metrics, sources=named)

  def validation_loss(self, batch: tuple[jax.Array, jax.Array], weight: jax.Array) -> jax.Array:
    return self._validate(self.train.variables, batch, weight)

  def finish_epoch(self, hybrid_loss: float, validation_loss: float) -> None:
    """Schedules: the hybrid rate follows the hybrid loss, the kernel rate the validation loss."""
    self.progress.finish_epoch()
    self.opening = None
    hybrid, kernel = self.schedules["hybrid"].after(hybrid_loss), self.schedules["kernel"].after(validation_loss)
    self.schedules = {"hybrid": hybrid, "kernel": kernel}
    self.train = self.train.replace(
      hybrid_optimizer=with_rate(self.train.hybrid_optimizer, hybrid.rate),
      kernel_optimizer=with_rate(self.train.kernel_optimizer, kernel.rate),
    )

  def _training(self) -> dict[str, Any]:
    """What a checkpoint holds beside the variables, as arrays and numbers."""
    state = {name: getattr(self.train, name) for name in ("hybrid_optimizer", "key", "step")}
    # A checkpoint does not know of the packing.
    moments = with_moments(self.train.kernel_optimizer, self._net.packing.in_tree_order)
    state["kernel_optimizer"] = moments
    return {**state, "schedules": self.schedules, **self.progress.saved()}

  def save(self, run: Run, best_metric: float | None = None) -> None:
    """Writes a checkpoint, in the background."""
    step = int(self.train.step)
    told = {"counts": self.counts.to_list(), "opening": self.opening, **self.progress.told()}
    run.checkpoints.save(
      step,
      variables=self._net.unpack(self.train.variables),
      training=self._training(),
      metadata=self._basis.metadata(
        kind="search", genotype=None, epoch=self.progress.epoch, step=step, progress=told
      ),
      iterators={"hybrid": self.hybrid.position, "kernel": self.kernel.position},
      best_metric=best_metric,
    )

  def resume(self, run: Run) -> None:
    """Goes on from the last checkpoint, if there is one."""
    last = run.resume(variables=self._net.unpack(self.train.variables), training=self._training())
    if last is None:
      return
    training, told = dict(last.training), last.metadata["progress"]
    self.schedules = training.pop("schedules")
    self.progress.restore({name: training.pop(name) for name in ("epoch", "sums")}, told)
    moments = with_moments(training["kernel_optimizer"], self._net.packing.in_own_order)
    training["kernel_optimizer"] = jax.tree.map(jnp.asarray, moments)
    hybrid, kernel = partition(self._net.pack(last.variables))
    self.train = self._basis.replicas.replicate(SearchState(hybrid=hybrid, kernel=kernel, **training))
    self.counts, self.opening = GenotypeCounts.from_list(told["counts"]), told["opening"]
    self.hybrid.go_to(last.positions["hybrid"])
    self.kernel.go_to(last.positions["kernel"])
