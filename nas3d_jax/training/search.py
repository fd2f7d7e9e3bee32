"""The search: Table 2 of the paper, as a command runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nas3d_jax.files.run_layout import GENOTYPE, SEARCH
from nas3d_jax.models.expected_cost import make_expected_cost, operation_costs
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.hybrid_parameters import hybrid_weights
from nas3d_jax.models.networks import Supernet, partition
from nas3d_jax.models.packing import packed_net
from nas3d_jax.models.precision import activation_dtype, computing
from nas3d_jax.models.random_genotype import random_genotype
from nas3d_jax.models.search_space import CustomOperation, SearchSpace
from nas3d_jax.models.single_path import Path as OperationPath
from nas3d_jax.models.single_path import sampled_paths, strongest_paths
from nas3d_jax.runtime.compiling import shared
from nas3d_jax.runtime.distributed import say
from nas3d_jax.runtime.stopping import Stop
from nas3d_jax.training.config import LAST_TEMPERATURE, OPERATION_TIMES, SearchConfig
from nas3d_jax.training.epoch import SavedSums
from nas3d_jax.training.feed import Feed
from nas3d_jax.training.genotype_counts import GenotypeCounts, describe, rows_of
from nas3d_jax.training.operation_times import operation_times
from nas3d_jax.training.optimizers import Plateau, adam, rate_of, with_rate
from nas3d_jax.training.session import Session
from nas3d_jax.training.setup import RunKeys, RunSetup, initial_variables
from nas3d_jax.training.steps import SearchState, WeightsOf, make_search_step
from nas3d_jax.training.tracking import Tracker, tracking


def search(
  config: SearchConfig,
  stop: Stop | None = None,
  *,
  operations: Sequence[CustomOperation] = (),
  tracker: Tracker | None = None,
) -> Genotype:
  """Searches, or goes on with the search that `config.workdir` holds.

  Args:
    config: what to search.
    stop: what may ask it to save and stop.
    operations: candidates of the user's own, beside those that `config.operations` names.
    tracker: the user's own, beside that which `config.tracker` names; a random genotype has nothing to tell it.

  Returns:
    The genotype, which stands in `search/genotype.json` as well.

  Raises:
    InputError: no data set, a fold or patch size that does not fit, other settings than those of the search that is
      there, a loss that is not finite, or a tracker that raised.
    Stopped: it was asked to stop, and has saved.
  """
  setup = RunSetup.of(config, SearchSpace.of(config.operations, operations))
  folder = Path(config.workdir) / SEARCH
  if config.method == "random":
    return _draw(setup, folder)
  with computing(config.precision):
    timed = config.cost_weight and config.cost == "time"
    times = {OPERATION_TIMES: operation_times(setup, folder)} if timed else {}
    with (
      contextlib.closing(SearchSession(setup, folder, times.get(OPERATION_TIMES))) as session,
      setup.open_run(folder, **times) as run,
      tracking(tracker, config.tracker, folder, primary=setup.replicas.process == 0) as told,
    ):
      session.resume(run, stop or Stop(), told)
      genotype = _search(session, config)
      run.write(GENOTYPE, genotype.to_json())
  return genotype


def _draw(setup: RunSetup, folder: Path) -> Genotype:
  """The control: a genotype of the seed instead of a search, in the same place."""
  genotype = random_genotype(setup.network, setup.config.seed)
  with setup.open_run(folder) as run:
    run.write(GENOTYPE, genotype.to_json())
  say(f"a genotype at random, seed {setup.config.seed}:\n{genotype}")
  return genotype


def _search(session: SearchSession, config: SearchConfig) -> Genotype:
  """Table 2, from its first epoch or from where the session stands."""
  # N_E epochs at most.
  while session.progress.epoch < config.epochs:
    # Lines 8 and 9: the genotype that the hybrid parameters hold now is read and counted. N_C times end the search.
    genotype, count = session.count_genotype()
    if count >= config.min_count:
      return genotype
    # A pass over the patches of the kernel part, each with the next one of the hybrid part. Of a step, the hybrid
    # parameters are updated first, then the kernel parameters: `make_search_step`.
    losses = session.take_steps()
    validation_loss = session.validate(session.hybrid)
    # Learning rates follow these losses (section 3.4); a record and a checkpoint are written.
    session.finish(losses, validation_loss)
  # Line 10: none was counted N_C times, so it is the most common one, of equals the latest.
  return session.counts.most_common()


def path_sampling(temperature: float, steps: int) -> WeightsOf:
  """One operation an edge and update, at a temperature that falls linearly over the steps (Dong and Yang 2019).

  Args:
    temperature: the first one; the last is 0.1.
    steps: of the whole search.
  """

  def sample(hybrid: Mapping[str, jax.Array], key: jax.Array, step: jax.Array) -> dict[str, OperationPath]:
    part = jnp.minimum(step / max(steps - 1, 1), 1)
    return sampled_paths(hybrid, key, temperature + part * (LAST_TEMPERATURE - temperature))

  return sample


def _cost_penalty(
  setup: RunSetup, times: Mapping[str, Sequence[float]] | None
) -> Callable[[Mapping[str, jax.Array]], jax.Array] | None:
  """The weighted cost of the network that is searched, where the run asks for it; `times` where they are the cost."""
  config = setup.config
  if not config.cost_weight:
    return None
  costs = times or operation_costs(setup.network, config.cost, config.patch_size)
  cost = make_expected_cost(setup.network, costs)
  return lambda hybrid: config.cost_weight * cost(hybrid)


class Schedules(NamedTuple):
  """Learning rates of the two partitions."""

  hybrid: Plateau
  kernel: Plateau


class SearchItems(NamedTuple):
  """The item `training` of a checkpoint of a search, see `CheckpointItems`."""

  epoch: int
  hybrid_optimizer: optax.OptState
  kernel_optimizer: optax.OptState
  key: jax.Array
  schedules: Schedules
  step: jax.Array
  sums: SavedSums


class SearchSession(Session[SearchState, SearchItems]):
  """A session of two updates a step, which counts genotypes.

  Attributes:
    hybrid: the patches of the hybrid part, which also validate.
    schedules: of the learning rates.
    counts: how often each genotype was read.
  """

  def __init__(self, setup: RunSetup, folder: Path, times: Mapping[str, Sequence[float]] | None = None):
    """Begins a search.

    Args:
      setup: data set, network and settings.
      folder: its run directory, which need not be there yet.
      times: of the candidates, see `operation_times`, where they are the cost.
    """
    config, dataset = setup.config, setup.dataset
    self.hybrid = setup.stream("hybrid", dataset.fold_cases(config.fold), seed=2 * config.seed)
    kernel = setup.stream("kernel", dataset.other_cases(config.fold), seed=2 * config.seed + 1, random=True)
    net = Supernet(setup.network, config.dropout, dtype=activation_dtype(config.precision))
    keys = RunKeys.of(config.seed)
    variables = initial_variables(net, keys.init)
    packed = packed_net(net)
    optimizers = (
      shared(adam, config.hybrid_learning_rate),
      setup.optimizer(config.kernel_learning_rate, config.epochs * kernel.order.steps),
    )
    steps, sampling = config.epochs * kernel.order.steps, None
    if config.method == "single_path":
      sampling = shared(path_sampling, config.temperature, steps)
    options = dict(
      weights=sampling, warmup=config.warmup_epochs * kernel.order.steps, replicas=setup.replicas,
      modality_dropout=config.modality_dropout, **setup.objective,
    )
    if (penalty := _cost_penalty(setup, times)) is None:
      step = shared(make_search_step, packed, *optimizers, **options)
    else:  # which is this search's own
      step = make_search_step(packed, *optimizers, penalty=penalty, **options)
    super().__init__(
      setup,
      folder,
      kind="search",
      genotype=None,
      feeds=(
        Feed("hybrid", "hybrid_", self.hybrid, augment=False), Feed("kernel", "kernel_", kernel, augment=config.augment)
      ),
      net=packed,
      state=SearchState.create(packed.pack(variables), *optimizers, keys.step),
      step=step,
      augment_key=keys.augment,
      # Validated is what the search would choose now, as far as a path can be: all edges stay.
      validated={} if sampling is None else {"weights": strongest_paths},
    )
    self.schedules = Schedules(Plateau(config.hybrid_learning_rate), Plateau(config.kernel_learning_rate))
    self.counts = GenotypeCounts()
    # What is recorded of the genotype when an epoch begins; None between two epochs.
    self._genotype_record: dict[str, Any] | None = None

  def count_genotype(self) -> tuple[Genotype, int]:
    """Reads and counts the genotype, once an epoch however often it goes on; returns it with its count.

    That of a warm-up counts 0 times: the weights of the operations are those of the start, and say nothing yet.
    """
    if self._genotype_record is None:
      genotype = Genotype.from_hybrid(self.state.hybrid, self.setup.network)
      if self.progress.epoch >= self.setup.config.warmup_epochs:
        self.counts.add(genotype)
      weights = hybrid_weights(self.state.hybrid, self.setup.network)
      self._genotype_record = {"genotype": rows_of(genotype), "count": self.counts[genotype], **describe(weights)}
    genotype = Genotype(**self._genotype_record["genotype"], space=self.setup.network.space)
    return genotype, self._genotype_record["count"]

  def finish(self, losses: Mapping[str, float], validation_loss: float) -> None:
    """Ends an epoch: the hybrid rate follows the hybrid loss, the kernel rate the validation loss."""
    follows = self.setup.config.schedule == "plateau"
    record = self.record(
      **losses,
      validation_loss=validation_loss,
      hybrid_learning_rate=self.schedules.hybrid.rate,
      kernel_learning_rate=self.schedules.kernel.rate if follows else rate_of(self.state.kernel_optimizer),
      **self._genotype_record,
    )
    self._genotype_record = None
    hybrid, kernel = self.schedules.hybrid.after(losses["hybrid_loss"]), self.schedules.kernel.after(validation_loss)
    self.schedules = Schedules(hybrid, kernel)
    self.state = self.state.replace(hybrid_optimizer=with_rate(self.state.hybrid_optimizer, hybrid.rate))
    if follows:
      self.state = self.state.replace(kernel_optimizer=with_rate(self.state.kernel_optimizer, kernel.rate))
    summary = (
      f"hybrid loss {losses['hybrid_loss']:.4f}, kernel loss {losses['kernel_loss']:.4f}, validation loss "
      f"{validation_loss:.4f}; genotype counted {record['count']} of {self.setup.config.min_count}"
    )
    self.finish_epoch(record, summary, best_metric=validation_loss)

  def checkpoint_items(self) -> SearchItems:
    """The item `training` of a checkpoint of now."""
    state = self.state
    return SearchItems(
      epoch=self.progress.epoch,
      hybrid_optimizer=state.hybrid_optimizer,
      kernel_optimizer=self.in_tree_order(state.kernel_optimizer),
      key=state.key,
      schedules=self.schedules,
      step=state.step,
      sums=self.progress.sums.saved(),
    )

  def progress_metadata(self) -> dict[str, Any]:
    """Counts and the genotype of the epoch under way, beside the progress of every session."""
    return {"counts": self.counts.to_list(), "opening": self._genotype_record, **super().progress_metadata()}

  def restore(self, variables: dict[str, Any], items: SearchItems, progress: Mapping[str, Any]) -> None:
    """Sets state, schedules and counts to those of a checkpoint."""
    hybrid, kernel = partition(variables)
    optimizers = items.hybrid_optimizer, self.in_packed_order(items.kernel_optimizer)
    self.state = SearchState(hybrid, kernel, *optimizers, items.key, items.step)
    self.schedules = items.schedules
    self.counts = GenotypeCounts.from_list(progress["counts"], self.setup.network.space)
    self._genotype_record = progress["opening"]
