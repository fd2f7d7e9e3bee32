"""The search: Table 2 of the paper, as a command runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nas3d_jax.files.run_layout import GENOTYPE, SEARCH
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import Supernet, partition
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.models.precision import activation_dtype, computing
from nas3d_jax.models.search_space import hybrid_weights
from nas3d_jax.runtime.compiling import announced
from nas3d_jax.runtime.distributed import say
from nas3d_jax.runtime.stopping import Stop
from nas3d_jax.training.config import SearchConfig
from nas3d_jax.training.epoch import Progress, mean_loss, take_steps
from nas3d_jax.training.genotype_counts import GenotypeCounts, describe, rows_of
from nas3d_jax.training.nonfinite import Skips, Source
from nas3d_jax.training.optimizers import Plateau, adam, with_moments, with_rate
from nas3d_jax.training.run_directory import Run
from nas3d_jax.training.session import Basis, key_of
from nas3d_jax.training.steps import (
  PARTITIONS,
  SearchState,
  make_chunk,
  make_search_step,
  make_validation_step,
  steps_per_call,
)

_LOSSES = tuple(f"{name}_loss" for name in PARTITIONS)
_METRICS = (*_LOSSES, *(f"{name}_finite" for name in PARTITIONS))


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
  folder = Path(config.workdir) / SEARCH
  with (
    computing(config.precision),
    contextlib.closing(_Search(basis, folder)) as state,
    basis.open_run(folder) as run,
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
    step, what = make_search_step(self._net, *optimizers, replicas=replicas), "the search step"
    chunk = make_chunk(step, self._draw, _METRICS) if basis.place(self.hybrid, self.kernel) else None
    self._step, self._chunk = announced(what, step), chunk and announced(what, chunk)
    self._validate = announced("the validation step", make_validation_step(self._net, replicas=replicas))
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
