"""Training of a derived network (section 3.5) or of the 3D U-Net beside it, as a command runs it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from nas3d_jax.basis import Basis, key_of
from nas3d_jax.chunks import make_chunk, steps_per_call
from nas3d_jax.config import TRAIN_FOLDERS, Architecture, UNetConfig, Variant
from nas3d_jax.counts import rows_of
from nas3d_jax.data.part import Placement
from nas3d_jax.errors import InputError
from nas3d_jax.genotype import Genotype
from nas3d_jax.loop import mean_loss, say
from nas3d_jax.networks import TRAIN_DROPOUT, DerivedNet
from nas3d_jax.nonfinite import Skips, Source
from nas3d_jax.packing import PackedNet
from nas3d_jax.precision import Precision, activation_dtype, computing
from nas3d_jax.progress import Progress, take_steps
from nas3d_jax.run import GENOTYPE, Run, has_checkpoint
from nas3d_jax.schedules import Plateau, adam, with_moments, with_rate
from nas3d_jax.settings import check_numbers
from nas3d_jax.starting import read_genotype, read_start
from nas3d_jax.steps import TrainState, make_train_step, make_validation_step
from nas3d_jax.stopping import Stop
from nas3d_jax.unet3d import UNET_DROPOUT, UNet3D

# Learning rate and dropout of each network, where none are given; Isensee et al. (2017) for the 3D U-Net.
_DEFAULTS = {"searched": (1e-3, TRAIN_DROPOUT), "unet3d": (5e-4, UNET_DROPOUT)}
# Fields that do not concern a network, which may therefore differ when its training is gone on with.
OTHERS = {"searched": ("filters", "levels"), "unet3d": ("genotype", "kernels", "nodes", "depth", "variant")}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training; the defaults are the paper's (section 3.5).

  Attributes:
    workdir: run directory with `dataset/`; `train/<fold>/` is written, `unet3d/<fold>/` for the 3D U-Net.
    fold: the fold to validate on; "all" trains on all cases, without validation.
    network: "searched", the network of a genotype, or "unet3d", the hand-designed one.
    genotype: JSON file of the genotype; None means that of the search in `workdir`.
    init_from: run or checkpoint of the same network whose parameters to start from, of a run the best; None draws them.
    patch_size: length of a patch along each axis in voxels.
    epochs: number of epochs.
    batch_size: patches in the batch of one device.
    kernels: kernels a node; None means the number of modalities.
    nodes: nodes of a cell.
    depth: downward cells.
    variant: of the squeeze-and-excitation operations, see `NetworkConfig`.
    filters: channels of the first level of the 3D U-Net.
    levels: resolutions of the 3D U-Net.
    learning_rate: Adam's; None means 1e-3, for the 3D U-Net 5e-4.
    dropout: part of the channels dropped; None means 0.5, for the 3D U-Net 0.3.
    seed: of parameters, order, augmentation and dropout.
    skip_empty: leave out patches without tumour.
    augment: augment the patches.
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
  fold: int | Literal["all"] = 0
  network: Architecture = "searched"
  genotype: str | Path | None = None
  init_from: str | Path | None = None
  patch_size: int = 128
  epochs: int = 200
  batch_size: int = 1
  kernels: int | None = None
  nodes: int = 3
  depth: int = 4
  variant: Variant = "paper"
  filters: int = 16
  levels: int = 5
  learning_rate: float | None = None
  dropout: float | None = None
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
    if self.network not in TRAIN_FOLDERS:
      raise InputError(f"network must be one of {', '.join(TRAIN_FOLDERS)}, got {self.network!r}")
    if self.network != "searched" and self.genotype is not None:
      raise InputError(f"genotype is the searched network's, got it with network={self.network!r}; leave out one")
    for name, default in zip(("learning_rate", "dropout"), _DEFAULTS[self.network], strict=True):
      if getattr(self, name) is None:
        object.__setattr__(self, name, default)
    check_numbers(self, counts=("epochs", "batch_size"), positive=("learning_rate", "checkpoint_minutes"))
    if self.fold != "all" and (isinstance(self.fold, bool) or not isinstance(self.fold, int)):
      raise InputError(f'fold must be the number of a fold or "all", got {self.fold!r}')


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
    genotype = read_genotype(config.genotype or Path(config.workdir) / "search" / GENOTYPE)
    genotype.check(basis.network)
  folder = Path(config.workdir) / TRAIN_FOLDERS[config.network] / str(config.fold)
  # Before the run is opened, which deletes what is to be overwritten; a run that goes on has its own parameters.
  goes_on = has_checkpoint(folder) and not config.overwrite
  start = None if goes_on or config.init_from is None else read_start(basis, genotype)
  with (
    computing(config.precision),
    contextlib.closing(_Training(basis, folder, genotype, start)) as state,
    # The folder says which network it is; earlier runs did not.
    basis.open_run(
      folder, genotype=genotype and rows_of(genotype), changeable=("network", *OTHERS[config.network])
    ) as run,
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
    self._step = make_train_step(self._net, optimizer, replicas=replicas)
    self._chunk = make_chunk(self._step, self._draw, ("loss", "finite")) if basis.place(self.training) else None
    self._validate = make_validation_step(self._net, replicas=replicas)
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
