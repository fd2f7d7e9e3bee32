"""Training of a derived network (section 3.5) or of a hand-designed one beside it, as a command runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nas3d_jax.files.run_layout import GENOTYPE, SEARCH, TRAIN_FOLDERS
from nas3d_jax.models.architectures import HAND_DESIGNED
from nas3d_jax.models.genotype import Genotype, genotype_in
from nas3d_jax.models.networks import DerivedNet, Network
from nas3d_jax.models.packing import PACKED, packed_net
from nas3d_jax.models.precision import activation_dtype, computing
from nas3d_jax.models.search_space import CustomOperation
from nas3d_jax.runtime.compiling import shared
from nas3d_jax.runtime.stopping import Stop
from nas3d_jax.training.config import TrainConfig
from nas3d_jax.training.epoch import SavedSums
from nas3d_jax.training.feed import Feed
from nas3d_jax.training.genotype_counts import rows_of
from nas3d_jax.training.optimizers import Plateau, average_of, rate_of, with_average, with_rate
from nas3d_jax.training.session import Session
from nas3d_jax.training.setup import RunKeys, RunSetup, initial_variables
from nas3d_jax.training.start import start_of
from nas3d_jax.training.steps import TrainState, make_train_step
from nas3d_jax.training.tracking import Tracker, tracking


def train(
  config: TrainConfig,
  stop: Stop | None = None,
  *,
  operations: Sequence[CustomOperation] = (),
  tracker: Tracker | None = None,
) -> Path:
  """Trains, or goes on with the training that `config.workdir` holds.

  Args:
    config: what to train.
    stop: what may ask it to save and stop.
    operations: of the user's own, where the genotype has some.
    tracker: the user's own, beside that which `config.tracker` names.

  Returns:
    The run directory, `train/<fold>`, or `unet3d/<fold>` and the like; `restore` takes it.

  Raises:
    InputError: no data set or genotype, a fold, patch size or `init_from` that does not fit, other settings than those
      of the run that is there, a loss that is not finite, or a tracker that raised.
    Stopped: it was asked to stop, and has saved.
  """
  setup = RunSetup.of(config)
  genotype = None
  if config.network == "searched":
    genotype = read_genotype(config.genotype or Path(config.workdir) / SEARCH / GENOTYPE)
    setup = setup.of_space(genotype.space.with_operations(operations))
    genotype.check(setup.network)
  folder = Path(config.workdir) / TRAIN_FOLDERS[config.network] / str(config.fold)
  # Before the run is opened, which deletes what is to be overwritten.
  start = start_of(setup, genotype, folder)
  with (
    computing(config.precision),
    contextlib.closing(TrainSession(setup, folder, genotype, start.variables)) as session,
    setup.open_run(folder, genotype=genotype and rows_of(genotype), **start.settings) as run,
    tracking(tracker, config.tracker, folder, primary=setup.replicas.process == 0) as told,
  ):
    session.resume(run, stop or Stop(), told)
    # Section 3.5: each epoch is a pass over the patches of the training cases, then one over those left for validation.
    while session.progress.epoch < config.epochs:
      loss = session.take_steps()["loss"]
      validation_loss = session.validate(session.validation) if session.validation else None
      # The learning rate follows the loss; a record and a checkpoint are written.
      session.finish(loss, validation_loss)
  return folder


class TrainItems(NamedTuple):
  """The item `training` of a checkpoint of a training, see `CheckpointItems`."""

  epoch: int
  key: jax.Array
  optimizer: optax.OptState
  schedule: Plateau
  step: jax.Array
  sums: SavedSums


class TrainSession(Session[TrainState, TrainItems]):
  """A session of one update a step.

  Attributes:
    validation: the patches of the fold that is left out; None where all cases train.
    schedule: of the learning rate.
  """

  def __init__(self, setup: RunSetup, folder: Path, genotype: Genotype | None, start: dict[str, Any] | None):
    """Begins a training.

    Args:
      setup: data set, network, devices and settings.
      folder: the run directory, which need not be there yet.
      genotype: of a derived network; None for others.
      start: variables to start from; None draws them.
    """
    config, dataset = setup.config, setup.dataset
    if config.fold == "all":
      cases, self.validation = [case for case in dataset.cases if case.fold is not None], None
    else:
      cases = dataset.other_cases(config.fold)
      self.validation = setup.stream("validation", dataset.fold_cases(config.fold), seed=0, steps=False)
    training = setup.stream("training", cases, seed=config.seed, random=True)
    net = _make_network(setup, genotype)
    optimizer = setup.optimizer(config.learning_rate, config.epochs * training.order.steps)
    keys = RunKeys.of(config.seed)
    variables = initial_variables(net, keys.init) if start is None else start
    packed = packed_net(net)
    super().__init__(
      setup,
      folder,
      kind="train",
      genotype=genotype,
      feeds=(Feed("train", "", training, augment=config.augment),),
      net=packed,
      state=TrainState.create(packed.pack(variables), optimizer, keys.step),
      step=shared(
        make_train_step, packed, optimizer, modality_dropout=config.modality_dropout, replicas=setup.replicas,
        **setup.objective,
      ),
      augment_key=keys.augment,
    )
    self.schedule = Plateau(config.learning_rate)

  def finish(self, loss: float, validation_loss: float | None) -> None:
    """Ends an epoch: rate and best checkpoint follow the validation loss, where there is none the training loss."""
    follows = self.setup.config.schedule == "plateau"
    rate = self.schedule.rate if follows else rate_of(self.state.optimizer)
    record = self.record(loss=loss, validation_loss=validation_loss, learning_rate=rate)
    watched = loss if validation_loss is None else validation_loss
    if follows:
      self.schedule = self.schedule.after(watched)
      self.state = self.state.replace(optimizer=with_rate(self.state.optimizer, self.schedule.rate))
    shown = "" if validation_loss is None else f", validation loss {validation_loss:.4f}"
    self.finish_epoch(record, f"loss {loss:.4f}{shown}", best_metric=watched)

  @property
  def variables(self) -> dict[str, Any]:
    """The average of the parameters where one is kept: what is validated, saved and used."""
    average = average_of(self.state.optimizer)
    return self.state.variables if average is None else {"params": {PACKED: average}}

  def _with_raw(self, optimizer: optax.OptState) -> optax.OptState:
    """The optimiser's state with the parameters themselves in the place of their average, which is saved as theirs."""
    if average_of(optimizer) is None:
      return optimizer
    return with_average(optimizer, self.state.variables["params"][PACKED])

  def checkpoint_items(self) -> TrainItems:
    """The item `training` of a checkpoint of now."""
    return TrainItems(
      epoch=self.progress.epoch,
      key=self.state.key,
      optimizer=self.in_tree_order(self._with_raw(self.state.optimizer)),
      schedule=self.schedule,
      step=self.state.step,
      sums=self.progress.sums.saved(),
    )

  def restore(self, variables: dict[str, Any], items: TrainItems, progress: Mapping[str, Any]) -> None:
    """Sets state and schedule to those of a checkpoint."""
    optimizer = self.in_packed_order(items.optimizer)
    if (raw := average_of(optimizer)) is not None:
      # As they were saved: the average in the place of the parameters, and these in that of the average.
      optimizer = with_average(optimizer, jnp.asarray(variables["params"][PACKED]))
      variables = {"params": {PACKED: jnp.asarray(raw)}}
    self.state = TrainState(variables, optimizer, items.key, items.step)
    self.schedule = items.schedule


def _make_network(setup: RunSetup, genotype: Genotype | None) -> Network:
  config, dtype = setup.config, activation_dtype(setup.config.precision)
  if config.network in HAND_DESIGNED:
    return HAND_DESIGNED[config.network](setup.network, config.dropout, dtype)
  return DerivedNet(setup.network, genotype, config.dropout, dtype)


def read_genotype(path: str | Path) -> Genotype:
  """The genotype in a JSON file.

  Raises:
    InputError: the file cannot be read, or holds none.
  """
  return genotype_in(Path(path), "run the search first, or give --genotype")
