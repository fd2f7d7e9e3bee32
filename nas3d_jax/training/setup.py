"""What a search or a training is made from: data set, network, devices and settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.dataset.reference import open_dataset
from nas3d_jax.data.dataset.suggest import suggested_patch
from nas3d_jax.data.patches.augmentation import Changes
from nas3d_jax.data.patches.patch_stream import PatchStream
from nas3d_jax.data.patches.placement import place
from nas3d_jax.data.patches.random_patches import RandomSampling
from nas3d_jax.errors import InputError
from nas3d_jax.models.architectures import HAND_DESIGNED
from nas3d_jax.models.config import CONFIGS, MOST, NetworkConfig, UNetConfig
from nas3d_jax.models.custom_operations import initial_parameters
from nas3d_jax.models.networks import Network, variable_shapes
from nas3d_jax.models.search_space import PAPER_SPACE, SearchSpace
from nas3d_jax.options import plain
from nas3d_jax.runtime import devices
from nas3d_jax.runtime.compiling import shared
from nas3d_jax.runtime.data_parallel import Replicas
from nas3d_jax.runtime.distributed import first_says, say
from nas3d_jax.runtime.memory import check_fits
from nas3d_jax.schema.schema import Schema
from nas3d_jax.training.config import OPERATION_TIMES, START_SUM, TAKEN
from nas3d_jax.training.losses import make_logit_loss
from nas3d_jax.training.optimizers import make_optimizer, scheduled
from nas3d_jax.training.run_directory import Run
from nas3d_jax.validation import axis_lengths, spelled_size


@dataclasses.dataclass(frozen=True)
class RunSetup:
  """What a run is made from.

  Attributes:
    config: a `SearchConfig` or a `TrainConfig`.
    dataset: of its work directory, see `open_dataset`.
    network: size, and variant where there is one, with the channels of the data set.
    device: where it computes.
    replicas: the devices that share a batch.
  """

  config: Any
  dataset: Dataset
  network: NetworkConfig | UNetConfig
  device: devices.DeviceReport
  replicas: Replicas

  @classmethod
  def of(cls, config: Any, space: SearchSpace = PAPER_SPACE) -> RunSetup:
    """Opens the data set and chooses the device.

    Args:
      config: a `SearchConfig` or a `TrainConfig`.
      space: candidate operations of a supernet.

    Raises:
      InputError: there is no data set or no device, or the patch size does not fit the network.
    """
    dataset = open_dataset(config.workdir)
    if config.modality_dropout and len(dataset.schema.modalities) == 1:
      raise InputError(
        f"modality_dropout needs two modalities or more, got {config.modality_dropout} for a data set with "
        f"{dataset.schema.modality_names[0]} alone; leave it out"
      )
    network = network_config(config, dataset.schema, space)
    if config.patch_size == "auto":
      config = dataclasses.replace(config, patch_size=suggested_patch(dataset, network.multiple))
      say(f"patch_size={spelled_size(config.patch_size)}, from the median brain cube")
    network.check_patch_size(config.patch_size)
    device = devices.select()
    channels = network.in_channels + network.out_channels
    voxels = config.batch_size * math.prod(axis_lengths(config.patch_size))
    check_fits(
      4 * channels * voxels,
      f"a batch of patch_size={spelled_size(config.patch_size)} and batch_size={config.batch_size}",
      "give smaller ones",
      device.memory,
    )
    return cls(config, dataset, network, device, Replicas.of(config.devices))

  @property
  def space(self) -> SearchSpace:
    """The candidate operations; the paper's for a hand-designed network, which has none."""
    return getattr(self.network, "space", PAPER_SPACE)

  def of_space(self, space: SearchSpace) -> RunSetup:
    """The same with a network of another search space."""
    return dataclasses.replace(self, network=dataclasses.replace(self.network, space=space))

  @property
  def objective(self) -> dict[str, Any]:
    """The loss, as the steps take it: `loss` and `logits`; none for the paper's, which is their default."""
    config = self.config
    if (config.loss, config.dice_over) == ("dice", "sample"):
      return {}
    return {"loss": shared(make_logit_loss, config.loss, over=config.dice_over, output=config.output), "logits": True}

  def optimizer(self, rate: float, updates: int) -> optax.GradientTransformation:
    """The optimiser of all but the hybrid parameters.

    Args:
      rate: the greatest learning rate.
      updates: in the whole run, from which a schedule follows.
    """
    config = self.config
    falls = config.schedule != "plateau"
    return shared(
      make_optimizer,
      config.optimizer,
      shared(scheduled, config.schedule, rate, steps=updates, warmup=config.warmup) if falls else rate,
      weight_decay=config.weight_decay,
      clip_norm=config.clip_norm,
      ema=getattr(config, "ema", 0.0),
    )

  def stream(
    self, name: str, cases: Sequence[Case], *, seed: int, steps: bool = True, random: bool = False
  ) -> PatchStream:
    """The patches of some cases.

    Args:
      name: of the part, for messages.
      cases: of the part.
      seed: of the order.
      steps: whether steps take its patches, of which a batch must not hold one twice.
      random: whether they are at random places where the run asks for it.

    Raises:
      InputError: there is no case, no patch, or a batch would be larger than all there are.
    """
    config = self.config
    if not cases:
      raise InputError(
        f"fold {config.fold} leaves no case for the {name} part; preprocess cases with labels, in at least 2 folds"
      )
    sizes = dict(patch_size=config.patch_size, batch_size=config.batch_size)
    sizes["changes"] = Changes(config.augmentation, config.mirror)
    if random and config.sampling == "random":
      sizes["sampling"] = RandomSampling(config.steps_per_epoch, config.foreground_share)
    stream = PatchStream(self.dataset, cases, seed=seed, skip_empty=config.skip_empty, replicas=self.replicas, **sizes)
    if steps and config.batch_size > (most := len(stream.order.refs)):
      raise InputError(
        f"batch_size must be at most {most}, the number of patches of the {name} part, got {config.batch_size}; give a "
        "smaller one, or smaller patches"
      )
    return stream

  def place(self, streams: Sequence[PatchStream]) -> bool:
    """Copies the cases to the device, where `data_placement` asks for it; whether they are there now.

    Raises:
      InputError: they do not fit.
    """
    placement, device = self.config.data_placement, self.device
    if self.replicas.processes > 1:
      if placement == "device":
        raise InputError(f"data_placement=device is for one process, got it with {self.replicas.processes}; use host")
      placement = "host"
    return place(streams, placement, device.memory, accelerated=device.platform != "cpu")

  def open_run(self, folder: Path, **settings: Any) -> Run:
    """Opens the run directory.

    Args:
      folder: the directory.
      **settings: plain JSON values to stand beside, or instead of, the fields of the configuration.

    Raises:
      InputError: as `Run` does.
    """
    if self.space != PAPER_SPACE:
      settings["space"] = self.space.to_dict()
    return Run(
      folder,
      {**plain_settings(self.config), **settings, "dataset": self.dataset.fingerprint},
      device=self.device.to_dict(),
      overwrite=self.config.overwrite,
      # Those are compared by `start`; times are taken over.
      changeable=self.config.changeable | {"init_from", START_SUM, TAKEN, OPERATION_TIMES},
      defaults=self.config.defaults,
      primary=self.replicas.process == 0,
      agree=first_says,
    )

  def metadata(self, **fields: Any) -> dict[str, Any]:
    """The item `metadata` of a checkpoint; `fields` are those of `RunMetadata` that are not known here."""
    return RunMetadata(
      architecture=self.network.architecture,
      network=self.network,
      dropout_rate=self.config.dropout,
      schema=self.dataset.schema,
      patch_size=self.config.patch_size,
      versions=self.device.versions,
      device=self.device.to_dict(),
      dataset={"fingerprint": self.dataset.fingerprint},
      geometry=self.dataset.geometry,
      intensities=self.dataset.intensities,
      modality_dropout=self.config.modality_dropout,
      **fields,
    ).to_dict()


def plain_settings(config: Any) -> dict[str, Any]:
  """The fields of a `SearchConfig` or a `TrainConfig` as plain JSON values, as a run's `config.json` holds them."""
  return {name: plain(value) for name, value in dataclasses.asdict(config).items()}


def network_config(config: Any, schema: Schema, space: SearchSpace = PAPER_SPACE) -> NetworkConfig | UNetConfig:
  """The network that a `SearchConfig` or a `TrainConfig` asks for, for the channels of a data set."""
  channels, output = dict(in_channels=len(schema.modalities), out_channels=len(schema.regions)), config.output
  if output == "softmax" and not schema.exclusive:
    names = ", ".join(schema.region_names)
    raise InputError(f"output=softmax is for regions that exclude each other, and {names} overlap; use sigmoid")
  network = getattr(config, "network", NetworkConfig.architecture)
  if network in HAND_DESIGNED:
    return CONFIGS[network](filters=config.filters, levels=config.levels, **channels, output=output)
  sizes = {name: getattr(config, name) for name in ("kernels", "nodes", "depth", "variant")}
  return NetworkConfig(**sizes, **channels, output=output, space=space)


class RunKeys(NamedTuple):
  """The typed random keys of a run.

  Attributes:
    init: of the first parameters.
    step: of dropout; the key of a step follows from it.
    augment: of augmentation; so does that of its patches.
  """

  init: jax.Array
  step: jax.Array
  augment: jax.Array

  @classmethod
  def of(cls, seed: int) -> RunKeys:
    """The keys of a seed."""
    return cls(*jax.random.split(key_of(seed), 3))


def initial_variables(net: Network, key: jax.Array) -> dict[str, Any]:
  """The network's variables before the first step, on the host; the values of its `init`.

  Raises:
    InputError: a step of it does not fit into memory.
  """
  shapes = variable_shapes(net)["params"]
  size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  sizes = {name: value for name, value in net.config.to_dict().items() if name in MOST}
  # Parameters, their gradient and both moments.
  check_fits(16 * size, f"a network of {', '.join(f'{name}={n}' for name, n in sizes.items())}", "give smaller ones")
  return {"params": initial_parameters(key, shapes, net.config, host=True)}


def key_of(seed: int) -> jax.Array:
  """The typed random key of a seed.

  Threefry whatever JAX's default is, so that a run depends on its seed alone. As JAX does without x64, and therefore
  with it too, of a larger seed it takes the low 32 bits.
  """
  return jax.random.key(seed & 0xFFFFFFFF, impl="threefry2x32")
