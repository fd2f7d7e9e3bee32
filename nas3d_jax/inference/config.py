"""Configurations of inference: how a network is applied to whole cases, and what to predict with which networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import TRAIN_FOLDERS
from nas3d_jax.inference.shards import Shard, parse_shard
from nas3d_jax.models.config import MOST_DEVICES, MOST_PATCH, Architecture
from nas3d_jax.options import check_options, option, part
from nas3d_jax.validation import PatchSize, is_whole, patch_size_of, spelled_size

if TYPE_CHECKING:
  from nas3d_jax.schema.schema import Schema
else:
  Schema = Any  # NumPy comes with it, for which `--help` would have to wait

Fold = int | Literal["all"]
Axes = Literal["D", "H", "W", "DH", "DW", "HW", "DHW"]

# A pass is filled up to that many patches, however few a case has.
MOST_PASS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceChoices:
  """Choices of inference; the defaults are the paper's: auto-fitted patches one by one, overlaps averaged, no more.

  Each field tells what it is.

  Raises:
    InputError: a field is of another type or out of range, or one excludes another.
  """

  # Test-time augmentation.
  tta: bool = option("average over the mirrored inputs", False)
  # No axis that the training did not mirror.
  tta_axes: Axes = option("axes that they are mirrored along, in all ways", "DHW")
  overlap: float = option(
    "least part of a patch that neighbours share; 0: auto-fitted patches", 0.0, least=0, below=1,
    wanted="a number from 0 to below 1",
  )  # fmt: skip
  # By a Gaussian.
  gaussian: bool = option("weigh overlapping patches about their centres", False)
  # The brain cube, padded to the network's multiple.
  whole_volume: bool = option("the whole brain in one pass, no patches", False)
  patch_batch: int = option("patches in one pass", 1, least=1, most=MOST_PASS)
  # Of connected components.
  min_component_ml: float = option("take smaller components out of the innermost region, in ml", 0.0, least=0)

  def __post_init__(self):
    check_options(self)
    if self.tta_axes != "DHW" and not self.tta:
      raise InputError(f"tta_axes is of tta, got {self.tta_axes!r} without it; give both, or leave it out")
    if self.whole_volume and (self.overlap or self.gaussian or self.patch_batch > 1):
      raise InputError("whole_volume takes no patches: leave out overlap, gaussian and patch_batch, or whole_volume")

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON; `tta_axes` where it is not the default, as before there was a choice."""
    plain = dataclasses.asdict(self)
    if self.tta_axes == "DHW":
      del plain["tta_axes"]
    return plain


PAPER = InferenceChoices()
"""As the paper predicts."""


def schema_help(of: str = "", otherwise: str = "found out") -> str:
  """The help of an option that is a schema.

  Args:
    of: what it is the schema of.
    otherwise: which one is taken where none is given.
  """
  return (
    f"what files, labels and regions{of} are called: brats2019 (2017 to 2021), brats2023, brats2024, decathlon, nnunet "
    f"or a YAML file; not given: {otherwise}"
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
  """What to predict, and with what: `fold` of `workdir`, the `cross_validation` of all or these, or `checkpoint`.

  Each field tells what it is. The networks take the modalities that they were trained on by name. Segmentations of the
  cases are not read.

  Raises:
    InputError: the fields name no networks or too many, or a field is of another type or out of range.
  """

  workdir: str | Path | None = option("run directory whose trainings --fold names", None)
  # The best checkpoint of each is used.
  fold: tuple[Fold, ...] = option("trained fold, a number or all; several with commas or given again", ())
  # Each case of the data set of `workdir` by the fold that was not trained on it; of the folds in `fold`, if any.
  cross_validation: bool = option("all folds, or each of --fold, for its own cases alone", False)
  network: Architecture = option("whose folds", "searched")
  checkpoint: tuple[str | Path, ...] = option("run or checkpoint instead; several with commas or given again", ())
  data_dir: str | Path = option("folder of the cases")
  # A cross-validation reads the cases as the data set did.
  schema: str | Path | Schema | None = option(schema_help(), None)
  # Of a cross-validation, all that are in a fold.
  cases: tuple[str, ...] | None = option("names of the cases, with commas or given again; not given: all", None)
  # See `PredictionFolder`.
  out: str | Path = option("folder to write <case>.nii.gz to")
  patch_size: PatchSize | None = option(
    "voxels of a patch, one length or D,H,W; not given: that of the training", None, least=1, most=MOST_PATCH
  )
  choices: InferenceChoices = part(PAPER)
  # Of the regions.
  probabilities: bool = option("write the probabilities as well", False)
  # They share the patches of a case.
  devices: int | None = option(
    "devices that share the work; not given: all there are", None, least=1, most=MOST_DEVICES
  )
  overwrite: bool = option("predict again what is there", False)
  # None is all of them; only the command asks SLURM.
  shard: str | None = option(
    "K/N: part K of N of the cases, others are for other processes; not given: by the SLURM array, else all", None
  )

  def __post_init__(self):
    for name in ("fold", "checkpoint", "cases"):
      value = getattr(self, name)
      if name == "cases" and value is None:
        continue
      if not isinstance(value, (list, tuple)):
        raise InputError(f"{name} must be a tuple, got {value!r}")
      object.__setattr__(self, name, tuple(value))
    object.__setattr__(self, "patch_size", patch_size_of(self.patch_size))
    check_options(self)
    if self.shard is not None:
      parse_shard(self.shard)
    self._check_sources()
    for path in (*self.checkpoint, self.data_dir, self.out):
      if not isinstance(path, (str, Path)) or not str(path):
        raise InputError(f"checkpoint, data_dir and out must be paths, got {path!r}")
    if self.cases is not None and not self.cases:
      raise InputError("cases must name at least one case, or be None for all, got none")

  def _check_sources(self) -> None:
    folds = bool(self.fold) or self.cross_validation
    if folds == bool(self.checkpoint):
      got = "both" if folds else "neither"
      raise InputError(f"give either fold or cross_validation (with workdir) or checkpoint, one of them; got {got}")
    if "all" in self.fold and self.cross_validation:
      raise InputError('fold "all" saw all cases and has none for a cross_validation; give numbers of folds, or none')
    if self.checkpoint and self.network != "searched":
      raise InputError(
        f"network says whose fold is meant, and checkpoint names a network itself, got network={self.network!r}; leave "
        "out one"
      )
    if self.choices.whole_volume and self.patch_size is not None:
      raise InputError(f"whole_volume takes no patches, got patch_size={spelled_size(self.patch_size)}; leave out one")
    if self.cross_validation and self.schema is not None:
      raise InputError("cross_validation reads the cases by the schema of the data set; leave out schema")
    if folds != (self.workdir is not None):
      raise InputError(
        f"workdir and fold go together, got workdir={self.workdir!r} and fold={self.fold}; give both, or checkpoint "
        "alone"
      )
    for fold in self.fold:
      if fold != "all" and not is_whole(fold, 0):
        raise InputError(f'fold must be the number of a fold, from 0, or "all", got {fold!r}')

  @property
  def part(self) -> Shard | None:
    """The part of the cases that is predicted; None for all of them, of which 1/1 is a way to say so."""
    shard = None if self.shard is None else parse_shard(self.shard)
    return None if shard is None or shard.count == 1 else shard

  @property
  def runs(self) -> tuple[Path, ...]:
    """The run directories or checkpoints whose probabilities are averaged; none for a cross-validation."""
    if self.checkpoint:
      return tuple(Path(path) for path in self.checkpoint)
    if self.cross_validation:
      return ()
    return tuple(Path(self.workdir) / TRAIN_FOLDERS[self.network] / str(fold) for fold in self.fold)
