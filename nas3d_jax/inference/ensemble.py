"""Several checkpoints as one predictor: their probabilities are averaged."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas3d_jax.checkpointing import checkpoints
from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.checkpointing.restore import fingerprint, restore
from nas3d_jax.data.intensities import PAPER_INTENSITIES, Intensities
from nas3d_jax.errors import InputError
from nas3d_jax.inference.config import PAPER, InferenceChoices
from nas3d_jax.inference.volume import OnPatch, PredictStep, Variables, predict_mean, shared_predict_step
from nas3d_jax.models.search_space import CustomOperation
from nas3d_jax.runtime.compiling import announced
from nas3d_jax.runtime.data_parallel import Replicas
from nas3d_jax.schema.geometry import Geometry
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import PatchSize, patch_size_of, spelled_size


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
  """Networks of one schema, which may differ in everything else.

  Attributes:
    members: step and variables of each; networks that are alike share a step, and so its compilation.
    schema: what their channels are.
    patch_size: length of a patch in voxels, one or one an axis.
    sources: fingerprint of each network and its parameters -> the checkpoint it is from, in the order of `members`.
    multiple: the lengths of an input must be multiples of this, for all of them.
    devices: how many share the patches of a case.
    geometry: orientation and voxel size that a case must be brought to (`conform`); None takes it as it is.
    intensities: whose `prepare` a case needs before that.
    incomplete: whether a case may lack modalities: all were trained with `modality_dropout`.
  """

  members: tuple[tuple[PredictStep, Variables], ...]
  schema: Schema
  patch_size: PatchSize
  sources: Mapping[str, str]
  multiple: int = 1
  devices: int = 1
  geometry: Geometry | None = None
  intensities: Intensities = PAPER_INTENSITIES
  incomplete: bool = False

  @property
  def settings(self) -> dict[str, Any]:
    """What decides the probabilities, as plain JSON values."""
    plain = {"schema": self.schema.to_dict(), "checkpoints": dict(self.sources)}
    plain["patch_size"] = self.patch_size if isinstance(self.patch_size, int) else list(self.patch_size)
    for name, value in (("geometry", self.geometry), ("intensities", self.intensities)):
      if value is not None and value != PAPER_INTENSITIES:
        plain[name] = value.to_dict()
    return plain

  def predict(
    self,
    image: np.ndarray,
    *,
    missing: Collection[int] = (),
    choices: InferenceChoices = PAPER,
    on_patch: OnPatch | None = None,
  ) -> np.ndarray:
    """Mean probability of each region of a prepared image, see `predict_mean`: [D, H, W, M] -> float32 [D, H, W, R]."""
    sizes = dict(patch_size=self.patch_size, regions=len(self.schema.regions), multiple=self.multiple)
    sizes["bounds"] = self.intensities.bounds(image, missing)
    return predict_mean(self.members, image, **sizes, devices=self.devices, choices=choices, on_patch=on_patch)

  def alone(self, index: int) -> Ensemble:
    """One of the members by its place; it shares its step, and so its compilation."""
    source = dict([list(self.sources.items())[index]])
    return dataclasses.replace(self, members=(self.members[index],), sources=source)


def restore_ensemble(
  runs: Sequence[str | Path],
  patch_size: PatchSize | None = None,
  *,
  devices: int | None = 1,
  operations: Sequence[CustomOperation] = (),
) -> Ensemble:
  """Restores the best checkpoint of each run.

  Args:
    runs: run directories, or folders of one step; at least one.
    patch_size: length of a patch in voxels, one or one an axis; None means that of the training.
    devices: how many share the patches of a case; None means all that JAX sees.
    operations: of the user's own, where a network has some.

  Raises:
    InputError: one cannot be restored or is given twice, they differ in schema, geometry or, without `patch_size`, in
      patch size, or `patch_size` does not fit a network.
  """
  steps: dict[str, PredictStep] = {}
  members: list[tuple[PredictStep, Variables]] = []
  sources: dict[str, str] = {}
  first: RunMetadata | None = None
  said: list[RunMetadata] = []
  multiple, replicas = 1, Replicas.of(devices)
  for run in runs:
    folder = checkpoints.open_run(run)
    net, variables, metadata = restore(folder, operations=operations)
    first = first or metadata
    said.append(metadata)
    _check_alike(runs[0], first, run, metadata, patch_size)
    if patch_size is not None:
      metadata.network.check_patch_size(patch_size_of(patch_size))
    multiple = math.lcm(multiple, metadata.network.multiple)
    plain = metadata.to_dict()
    # Rows in their order: genotypes that are equal but for it hold their parameters in another.
    kind = json.dumps([plain[name] for name in ("network", "genotype", "xi", "lam")], sort_keys=True)
    known = fingerprint(kind, variables)
    if known in sources:
      raise InputError(f"checkpoint {folder} is the same as {sources[known]}; give each once")
    sources[known] = str(folder)
    if kind not in steps:
      step = shared_predict_step(net, xi=metadata.xi, lam=metadata.lam, replicas=replicas)
      steps[kind] = announced("the network", step)
    members.append((steps[kind], replicas.replicate(variables)))
  size, geometry = patch_size_of(patch_size) or first.patch_size, _common_geometry(runs, said)
  return Ensemble(
    tuple(members), first.schema, size, sources, multiple, replicas.count, geometry, first.intensities,
    incomplete=all(one.modality_dropout > 0 for one in said),
  )


def _check_alike(
  first_run: str | Path, first: RunMetadata, run: str | Path, metadata: RunMetadata, patch_size: PatchSize | None
) -> None:
  """Raises InputError unless both have one schema and, where none is asked for, one patch size."""
  if metadata.schema != first.schema:
    raise InputError(
      f"checkpoints must have one schema, but {first_run} has {first.schema.name!r} and {run} another, "
      f"{metadata.schema.name!r}; predict with each alone"
    )
  if metadata.intensities != first.intensities:
    names = first.schema.modality_names
    raise InputError(
      f"checkpoints must have one normalization, but {first_run} has {first.intensities.said(names)} and {run} "
      f"{metadata.intensities.said(names)}; predict with each alone"
    )
  if patch_size is None and metadata.patch_size != first.patch_size:
    raise InputError(
      f"checkpoints must have one patch size, but {first_run} was trained with "
      f"patch_size={spelled_size(first.patch_size)} and {run} with {spelled_size(metadata.patch_size)}; give "
      "--patch_size"
    )


def _common_geometry(runs: Sequence[str | Path], said: Sequence[RunMetadata]) -> Geometry | None:
  """The geometry of all; a checkpoint without one has that of another from the same data set."""
  known = {one.dataset["fingerprint"]: one.geometry for one in said if one.geometry is not None}
  found = [one.geometry or known.get(one.dataset["fingerprint"]) for one in said]
  for run, geometry in zip(runs, found, strict=True):
    if geometry != found[0]:
      raise InputError(
        f"checkpoints must have one geometry, but {runs[0]} is of {_named(found[0])} and {run} of {_named(geometry)}; "
        "predict with each alone"
      )
  return found[0]


def _named(geometry: Geometry | None) -> str:
  return "cases as they are" if geometry is None else f"cases in {geometry}"
