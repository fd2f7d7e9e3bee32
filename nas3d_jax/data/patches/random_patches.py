"""Patches at random places, a part of them about labelled voxels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.patches.grid import Start
from nas3d_jax.data.patches.host_batches import PatchRef
from nas3d_jax.errors import InputError
from nas3d_jax.validation import PatchSize, axis_lengths

EPOCHS = 50
"""Epochs whose patches are drawn; from then on they come again, in another order."""


@dataclasses.dataclass(frozen=True)
class RandomSampling:
  """How patches are drawn.

  Attributes:
    steps: of an epoch.
    foreground_share: part of the patches whose middle is labelled, with each label of its case alike often.
  """

  steps: int
  foreground_share: float


def random_patches(
  dataset: Dataset, cases: Sequence[Case], patch_size: PatchSize, *, count: int, foreground_share: float, seed: int
) -> list[PatchRef]:
  """Draws patches, as many of each case as can be.

  A patch lies within the brain cube, or, where that is shorter, about its middle.

  Args:
    dataset: the data set that the cases belong to.
    cases: each with labels.
    patch_size: length of a patch in voxels; one, or one an axis.
    count: patches in all.
    foreground_share: part of them that are centred on a labelled voxel, as far as the edges let them.
    seed: of the draw.

  Raises:
    InputError: a case has no labels.
  """
  positions = {case.name: index for index, case in enumerate(dataset.cases)}
  random = np.random.default_rng(np.random.SeedSequence(seed))
  lengths = np.asarray(axis_lengths(patch_size))
  refs = []
  for place, case in enumerate(cases):
    labels = dataset.labels(case)
    if labels is None:
      raise InputError(f"cases must have labels, but {case.name!r} has none; leave it out")
    own = count // len(cases) + (place < count % len(cases))
    about = round(own * foreground_share) if labels.any() else 0
    middles = [*_labelled(random, labels, about), *_anywhere(random, labels.shape, lengths, own - about)]
    refs += [PatchRef(positions[case.name], start) for start in _starts(middles, labels.shape, lengths)]
  return refs


def _labelled(random: np.random.Generator, labels: NDArray[np.uint8], count: int) -> list[NDArray]:
  """Labelled voxels; first a label is drawn, then one of its voxels."""
  if not count:
    return []
  flat = labels.ravel()
  places = {label: np.flatnonzero(flat == label) for label in np.unique(flat) if label}
  drawn = random.choice(list(places), count)
  return [np.asarray(np.unravel_index(random.choice(places[label]), labels.shape)) for label in drawn]


def _anywhere(random: np.random.Generator, shape: Sequence[int], lengths: NDArray, count: int) -> NDArray:
  """Middles of patches that lie within a volume, all alike likely."""
  room = np.maximum(np.asarray(shape) - lengths, 0)
  return random.integers(0, room + 1, (count, 3)) + lengths // 2


def _starts(middles: Sequence[NDArray], shape: Sequence[int], lengths: NDArray) -> list[Start]:
  room = np.asarray(shape) - lengths
  starts = np.reshape(middles, (-1, 3)) - lengths // 2
  # Where a volume is shorter, what the patch reaches past it is the same at both ends, as in the grid.
  starts = np.where(room < 0, -(-room // 2), np.clip(starts, 0, np.maximum(room, 0)))
  return [tuple(map(int, start)) for start in starts]
