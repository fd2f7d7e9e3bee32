"""Training of a derived network (section 3.5) or of the 3D U-Net beside it, as a command runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import GENOTYPE, SEARCH, TRAIN_FOLDERS
from nas3d_jax.models.config import UNetConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet
from nas3d_jax.models.packing import PackedNet
from nas3d_jax.models.precision import activation_dtype, computing
from nas3d_jax.models.unet3d import UNet3D
from nas3d_jax.runtime.compiling import announced
from nas3d_jax.runtime.distributed import say
from nas3d_jax.runtime.stopping import Stop
from nas3d_jax.training.config import TrainConfig
from nas3d_jax.training.epoch import Progress, mean_loss, take_steps
from nas3d_jax.training.genotype_counts import rows_of
from nas3d_jax.training.nonfinite import Skips, Source
from nas3d_jax.training.optimizers import Plateau, adam, with_moments, with_rate
from nas3d_jax.training.run_directory import Run, has_checkpoint
from nas3d_jax.training.session import Basis, key_of
from nas3d_jax.training.steps import TrainState, make_chunk, make_train_step, make_validation_step, steps_per_call


def train(config: TrainConfig, stop: Stop | None = None) -> Path:
  """Trains, or goes on with the training that `config.workdir` holds.

  Args:
    config: what to train.
    stop: what may ask it to save and stop.

  Returns:
    The run directory, `train/<fold>` or `unet3d/<fold>`; `restore` takes it.

  Raises:
    InputError: no data set or genotype, a fold, patch size or `init_from` that does not fit, other settings than those
      of the run that is there, or a loss that is not finite.
    Stopped: it was asked to stop, and has saved.
  """
  basis = Basis.of(config)
  genotype = None
  if config.network == "searched":
    genotype = read_genotype(config.genotype or Path(config.workdir) / SEARCH / GENOTYPE)
    genotype.check(basis.network)
  folder = Path(config.workdir) / TRAIN_FOLDERS[config.network] / str(config.fold)
  # Before the run is opened, which deletes what is to be overwritten; a run that goes on has its own parameters.
  goes_on = has_checkpoint(folder) and not config.overwrite
  start = None if goes_on or config.init_from is None else read_start(basis, genotype)
  with (
    computing(config.precision),
    contextlib.closing(_Training(basis, folder, genotype, start)) as state,
    basis.open_run(folder, genotype=genotype and rows_of(genotype)) as run,
  ):
    state.resume(run)
    while state.progress.epoch < config.epochs:
      _train_epoch(config, state, run, stop or Stop())
  return folder


def _train_epoch(config: TrainConfig, state: _Training, run: Run, stop: Stop) -> None:
  progress = state.progress
  what, save = take_steps(state, config, run, stop)
  loss, validation = progress.sums.means()["loss"], None
  if state.validation:
    batches, count = stop.between(state.validation.once(), save), state.validation.steps
    validation = mean_loss(f"{what} validation", batches, count, state.validation_loss)
  record = {
    "epoch": progress.epoch + 1,
    "step": int(state.train.step),
    "loss": loss,
    "validation_loss": validation,
    "learning_rate": state.schedule.rate,
    "skipped": progress.sums.skipped,
    **progress.sums.speed(state.training.size),
  }
  watched = loss if validation is None else validation
  state.finish_epoch(watched)
  run.record(record)
  save(best_metric=watched)
  shown = "" if validation is None else f", validation loss {validation:.4f}"
  say(f"{what}: loss {loss:.4f}{shown}; {record['patches_per_second']:.2f} patches/s")
  stop.check(save)


class _Training:
  """The state of a training between two steps, and what one step needs."""

  def __init__(self, basis: Basis, folder: Path, genotype: Genotype | None, start: dict[str, Any] | None):
    self._basis, self._genotype = basis, genotype
    config, dataset, replicas = basis.config, basis.dataset, basis.replicas
    if config.fold == "all":
      cases, self.validation = [case for case in dataset.cases if case.fold is not None], None
    else:
      cases = dataset.other_cases(config.fold)
      self.validation = basis.part("validation", dataset.fold_cases(config.fold), seed=0)
    self.training = basis.part("training", cases, seed=config.seed)
    net, optimizer = _make_network(basis, genotype), adam(config.learning_rate)
    init_key, step_key, self._augment_key = jax.random.split(key_of(config.seed), 3)
    variables = basis.draw_variables(net, init_key) if start is None else start
    self._net = PackedNet(net, variables)
    self.train = replicas.replicate(TrainState.create(self._net.pack(variables), optimizer, step_key))
    step, what = make_train_step(self._net, optimizer, replicas=replicas), "the training step"
    chunk = make_chunk(step, self._draw, ("loss", "finite")) if basis.place(self.training) else None
    self._step, self._chunk = announced(what, step), chunk and announced(what, chunk)
    self._validate = announced("the validation step", make_validation_step(self._net, replicas=replicas))
    self.schedule = Plateau(config.learning_rate)
    self.progress = Progress(("loss",), self.training, Skips(folder, config.skip_nonfinite))

  def close(self) -> None:
    self.training.close()
    if self.validation:
      self.validation.close()

  def advance(self, most: int) -> tuple[int, dict[str, jax.Array]]:
    """Steps, one or as many as a call makes, each on the next patch."""
    if self._chunk is None:
      self.train, losses = self._step(self.train, self.training.draw(self._key(self.train.step)))
      return 1, losses
    limit = steps_per_call()
    count = min(most, limit)
    self.train, losses = self._chunk(self.train, self.training.data, self.training.take(count, limit), count)
    return count, losses

  def _key(self, step: jax.Array) -> jax.Array | None:
    return jax.random.fold_in(self._augment_key, step) if self._basis.config.augment else None

  def _draw(self, data: Any, order: Any, step: jax.Array) -> tuple[Any]:
    return (self.training.prepare(data, order, self._key(step)),)

  def skip(self, ago: int, metrics: Mapping[str, float]) -> None:
    """Counts a step that was left out, `ago` steps before the last."""
    step = int(self.train.step) - ago
    sources = {"": Source(self.training, self._key(step - 1))}
    self.progress.skips.add(step=step, epoch=self.progress.epoch + 1, ago=ago, metrics=metrics, sources=sources)

  def validation_loss(self, batch: tuple[jax.Array, jax.Array], weight: jax.Array) -> jax.Array:
    return self._validate(self.train.variables, batch, weight)

  def finish_epoch(self, watched: float) -> None:
    """The schedule follows the validation loss, or the training loss where there is no validation."""
    self.progress.finish_epoch()
    self.schedule = self.schedule.after(watched)
    self.train = self.train.replace(optimizer=with_rate(self.train.optimizer, self.schedule.rate))

  def _training(self) -> dict[str, Any]:
    """What a checkpoint holds beside the variables, as arrays and numbers."""
    state = {name: getattr(self.train, name) for name in ("key", "step")}
    # A checkpoint does not know of the packing.
    state["optimizer"] = with_moments(self.train.optimizer, self._net.packing.in_tree_order)
    return {**state, "schedule": self.schedule, **self.progress.saved()}

  def save(self, run: Run, best_metric: float | None = None) -> None:
    """Writes a checkpoint, in the background."""
    step = int(self.train.step)
    run.checkpoints.save(
      step,
      variables=self._net.unpack(self.train.variables),
      training=self._training(),
      metadata=self._basis.metadata(
        kind="train", genotype=self._genotype, epoch=self.progress.epoch, step=step, progress=self.progress.told()
      ),
      iterators={"train": self.training.position},
      best_metric=best_metric,
    )

  def resume(self, run: Run) -> None:
    """Goes on from the last checkpoint, if there is one."""
    last = run.resume(variables=self._net.unpack(self.train.variables), training=self._training())
    if last is None:
      return
    training = dict(last.training)
    self.schedule = training.pop("schedule")
    self.progress.restore({name: training.pop(name) for name in ("epoch", "sums")}, last.metadata["progress"])
    moments = with_moments(training["optimizer"], self._net.packing.in_own_order)
    training["optimizer"] = jax.tree.map(jnp.asarray, moments)
    state = TrainState(variables=self._net.pack(last.variables), **training)
    self.train = self._basis.replicas.replicate(state)
    self.training.go_to(last.positions["train"])


def _make_network(basis: Basis, genotype: Genotype | None) -> DerivedNet | UNet3D:
  config, dtype = basis.config, activation_dtype(basis.config.precision)
  if isinstance(basis.network, UNetConfig):
    return UNet3D(basis.network, config.dropout, dtype)
  return DerivedNet(basis.network, genotype, config.dropout, dtype)


def read_genotype(path: str | Path) -> Genotype:
  """The genotype in a JSON file.

  Raises:
    InputError: the file cannot be read, or holds none.
  """
  try:
    return Genotype.from_json(Path(path).read_text("utf-8"))
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"genotype {path} cannot be read ({error}); run the search first, or give --genotype") from error
  except InputError as error:
    raise InputError(f"{path}: {error}") from error


def read_start(basis: Basis, genotype: Genotype | None) -> dict[str, Any]:
  """The variables of `init_from` of a training, if they are of this very network.

  Raises:
    InputError: they are of another one, or cannot be restored.
  """
  net, variables, metadata = restore(basis.config.init_from)
  # Rows in another order, or another operation with parameters of the same shape, would be taken for something else.
  other = metadata.genotype and rows_of(metadata.genotype)
  for name, there, here in (
    ("architecture", metadata.architecture, basis.network.architecture),
    ("genotype", other, genotype and rows_of(genotype)),
    ("network", net.config, basis.network),
    ("schema", metadata.schema, basis.dataset.schema),
  ):
    if there != here:
      raise InputError(
        f"init_from {basis.config.init_from} has another {name} than this training: {there} there, {here} here; give a "
        "training of the same network"
      )
  return variables
