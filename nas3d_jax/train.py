"""Training of a derived network (section 3.5), as a command runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from nas3d_jax import checkpoints, devices
from nas3d_jax.config import NetworkConfig, Variant
from nas3d_jax.data import pipeline
from nas3d_jax.data.dataset import Dataset
from nas3d_jax.errors import InputError
from nas3d_jax.genotype import CELLS, Genotype
from nas3d_jax.loop import EpochSums, batch_spec, key_of, mean_loss, run_epoch, say
from nas3d_jax.metadata import RunMetadata
from nas3d_jax.networks import TRAIN_DROPOUT, DerivedNet
from nas3d_jax.run import Run
from nas3d_jax.schedules import Plateau, adam, with_rate
from nas3d_jax.settings import check_numbers
from nas3d_jax.steps import TrainState, make_train_step, make_validation_step

FOLDER = "train"
_CHANGEABLE = ("workdir", "epochs", "checkpoint_minutes", "overwrite")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training; the defaults are the paper's (section 3.5).

  Attributes:
    workdir: run directory with `dataset/`; `train/<fold>/` is written.
    fold: the fold to validate on; "all" trains on all cases, without validation.
    genotype: JSON file of the genotype; None means that of the search in `workdir`.
    init_from: run or checkpoint whose parameters to start from; None draws them.
    patch_size: length of a patch along each axis in voxels.
    epochs: number of epochs.
    batch_size: patches in a batch.
    kernels: kernels a node; None means the number of modalities.
    nodes: nodes of a cell.
    depth: downward cells.
    variant: of the squeeze-and-excitation operations, see `NetworkConfig`.
    learning_rate: Adam's.
    dropout: part of the channels dropped.
    seed: of parameters, order, augmentation and dropout.
    skip_empty: leave out patches without tumour.
    augment: augment the patches.
    checkpoint_minutes: minutes between checkpoints within an epoch.
    overwrite: start anew.

  Raises:
    InputError: a field is out of range.
  """

  workdir: str
  fold: int | str = 0
  genotype: str | None = None
  init_from: str | None = None
  patch_size: int = 128
  epochs: int = 200
  batch_size: int = 1
  kernels: int | None = None
  nodes: int = 3
  depth: int = 4
  variant: Variant = "paper"
  learning_rate: float = 1e-3
  dropout: float = TRAIN_DROPOUT
  seed: int = 0
  skip_empty: bool = True
  augment: bool = True
  checkpoint_minutes: float = 10.0
  overwrite: bool = False

  def __post_init__(self):
    check_numbers(self, counts=("epochs", "batch_size"), positive=("learning_rate", "checkpoint_minutes"))
    if self.fold != "all" and (isinstance(self.fold, bool) or not isinstance(self.fold, int)):
      raise InputError(f'fold must be the number of a fold or "all", got {self.fold!r}')


def train(config: TrainConfig) -> Path:
  """Trains, or goes on with the training that `config.workdir` holds.

  Returns:
    The run directory, `train/<fold>`; `restore` takes it.

  Raises:
    InputError: no data set or genotype, a fold or patch size that does not fit, other settings than those of the run that is
      there.
  """
  dataset = Dataset.open(Path(config.workdir) / "dataset")
  device = devices.select()
  network = NetworkConfig(
    in_channels=len(dataset.schema.modalities),
    out_channels=len(dataset.schema.regions),
    **{name: getattr(config, name) for name in ("kernels", "nodes", "depth", "variant")},
  )
  network.check_patch_size(config.patch_size)
  genotype = _read_genotype(config)
  genotype.check(network)
  parts = _refs(dataset, config)
  rows = {cell: [list(row) for row in getattr(genotype, cell)] for cell in CELLS}
  settings = {**dataclasses.asdict(config), "genotype": rows, "dataset": dataset.fingerprint}
  folder = Path(config.workdir) / FOLDER / str(config.fold)
  with (
    Run(folder, settings, device=device.to_dict(), overwrite=config.overwrite, changeable=_CHANGEABLE) as run,
    contextlib.closing(_Training(config, dataset, network, genotype, parts, device)) as state,
  ):
    state.restore(run)
    while state.epoch < config.epochs:
      _train_epoch(config, state, run)
  return folder


def _train_epoch(config: TrainConfig, state: _Training, run: Run) -> None:
  what = f"epoch {state.epoch + 1}/{config.epochs}"
  run_epoch(what, state.steps, state.sums, state.advance, lambda: state.save(run), save_minutes=config.checkpoint_minutes)
  loss = state.sums.means()["loss"]
  validation = None
  if state.validation_steps:
    batches = state.validation_batches()
    validation = mean_loss(f"{what} validation", batches, state.validation_steps, state.validation_loss)
  record = {
    "epoch": state.epoch + 1,
    "step": int(state.train.step),
    "loss": loss,
    "validation_loss": validation,
    "learning_rate": state.plateau.rate,
    "seconds": round(state.sums.seconds, 3),
    "patches_per_second": round(config.batch_size * state.sums.steps / max(state.sums.seconds, 1e-9), 3),
  }
  watched = loss if validation is None else validation
  state.finish_epoch(watched)
  run.record(record)
  state.save(run, best_metric=watched)
  shown = "" if validation is None else f", validation loss {validation:.4f}"
  say(f"{what}: loss {loss:.4f}{shown}; {record['patches_per_second']:.2f} patches/s")


class _Training:
  """The state of a training between two steps, and what one step needs."""

  def __init__(self, config: TrainConfig, dataset: Dataset, network: NetworkConfig, genotype: Genotype, parts, device):
    self.config, self.dataset, self.network, self.genotype = config, dataset, network, genotype
    self._device = device
    self._train_refs, self._validation_refs = parts
    self.steps = pipeline.steps_per_epoch(self._train_refs, config.batch_size)
    self.validation_steps = pipeline.steps_per_epoch(self._validation_refs, config.batch_size)
    net, optimizer = DerivedNet(network, genotype, config.dropout), adam(config.learning_rate)
    init_key, step_key, self._augment_key = jax.random.split(key_of(config.seed), 3)
    variables = net.init(init_key, batch_spec(config.batch_size, config.patch_size, network.in_channels))
    if config.init_from is not None:
      variables = checkpoints.read_variables(checkpoints.open_run(config.init_from), like=variables)
    self.train = TrainState.create(variables, optimizer, step_key)
    self._step = make_train_step(net, optimizer)
    self._validate = make_validation_step(net)
    self._prepare = jax.jit(functools.partial(pipeline.prepare_batch, schema=dataset.schema))
    self.epoch = 0
    self.sums = EpochSums.zero(("loss",))
    self.plateau = Plateau(config.learning_rate)
    self._batches = self._stream(self._train_refs, config.seed)

  def _stream(self, refs, seed, **options):
    size = dict(patch_size=self.config.patch_size, batch_size=self.config.batch_size)
    return pipeline.patch_batches(self.dataset, refs, seed=seed, **size, **options)

  def close(self) -> None:
    self._batches.close()

  def advance(self) -> dict[str, jax.Array]:
    """One step on the next patch."""
    key = jax.random.fold_in(self._augment_key, self.train.step) if self.config.augment else None
    self.train, losses = self._step(self.train, self._prepare(next(self._batches), key=key))
    return losses

  def validation_batches(self) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Every patch of the fold once."""
    with contextlib.closing(self._stream(self._validation_refs, 0, epochs=1, shuffle=False)) as batches:
      for batch in batches:
        yield self._prepare(batch)

  def validation_loss(self, batch) -> jax.Array:
    return self._validate(self.train.variables, batch)

  def finish_epoch(self, watched: float) -> None:
    """The schedule follows the validation loss, or the training loss where there is no validation."""
    self.epoch += 1
    self.sums = EpochSums.zero(("loss",))
    self.plateau = self.plateau.after(watched)
    self.train = self.train.replace(optimizer=with_rate(self.train.optimizer, self.plateau.rate))

  def _rest(self) -> dict[str, Any]:
    """What a checkpoint holds beside the variables, as arrays and numbers."""
    state = {name: getattr(self.train, name) for name in ("optimizer", "key", "step")}
    return {**state, "schedule": self.plateau, "epoch": self.epoch, "sums": dataclasses.asdict(self.sums)}

  def save(self, run: Run, best_metric: float | None = None) -> None:
    """Writes a checkpoint, in the background."""
    metadata = RunMetadata(
      kind="train",
      network=self.network,
      genotype=self.genotype,
      dropout_rate=self.config.dropout,
      schema=self.dataset.schema,
      patch_size=self.config.patch_size,
      epoch=self.epoch,
      step=int(self.train.step),
      versions=self._device.versions,
      device=self._device.to_dict(),
      dataset={"fingerprint": self.dataset.fingerprint},
    )
    run.checkpoints.save(
      int(self.train.step),
      variables=self.train.variables,
      training=self._rest(),
      metadata=metadata.to_dict(),
      iterators={"train": self._batches.get_state()},
      best_metric=best_metric,
    )

  def restore(self, run: Run) -> None:
    """Goes on from the last checkpoint, if there is one."""
    step = run.checkpoints.latest_step()
    if step is None:
      run.rewind(0)
      return
    variables, training = run.checkpoints.restore(step, variables=self.train.variables, training=self._rest())
    self.plateau, self.epoch = training.pop("schedule"), training.pop("epoch")
    self.sums = EpochSums(**training.pop("sums"))
    self.train = TrainState(variables=variables, **training)
    self._batches.set_state(run.checkpoints.iterators(step)["train"])
    run.rewind(self.epoch)


def _read_genotype(config: TrainConfig) -> Genotype:
  path = Path(config.genotype or Path(config.workdir) / "search" / "genotype.json")
  try:
    return Genotype.from_json(path.read_text("utf-8"))
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"genotype {path} cannot be read ({error}); run the search first, or give --genotype") from error
  except InputError as error:
    raise InputError(f"{path}: {error}") from error


def _refs(dataset: Dataset, config: TrainConfig):
  """Patches to train on and to validate on; none of the latter with fold "all"."""
  if config.fold == "all":
    parts = tuple(case for case in dataset.cases if case.fold is not None), ()
  else:
    parts = dataset.other_cases(config.fold), dataset.fold_cases(config.fold)
  if not parts[0] or (config.fold != "all" and not parts[1]):
    raise InputError(f"fold {config.fold} leaves no case to train or validate on; preprocess more cases, or --fold=all")
  options = dict(skip_empty=config.skip_empty)
  return [pipeline.patch_index(dataset, cases, config.patch_size, **options) if cases else [] for cases in parts]
