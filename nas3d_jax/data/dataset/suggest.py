"""What size of patch and network a data set suggests."""

from __future__ import annotations

import dataclasses

import numpy as np

from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.validation import PatchSize, patch_size_of, spelled_size

MOST_LENGTH, LEAST_AT_THE_BOTTOM = 128, 4
"""Of a patch, in voxels; and what is left of its shortest axis after the last downward cell."""
_DEPTHS = (4, 3, 2)
_BYTES = 260
"""Of a training step in single precision, a voxel of the batch and a kernel: 2.1 GiB of a patch of 128^3 with 4."""
_SHARE, _MOST_BATCH = 0.5, 8
"""Of the memory that a step may take; and the largest batch that is suggested."""


@dataclasses.dataclass(frozen=True)
class Suggestion:
  """Flags of search and training.

  Attributes:
    patch_size: as long as most brain cubes, as far as memory lets it.
    depth: as many downward cells as leave the shortest axis four voxels.
    kernels: those of the paper, 4; 8 where there are fewer modalities.
    batch_size: as many patches as fit half of the memory, at most 8.
    median: lengths of the brain cubes, in voxels.
  """

  patch_size: PatchSize
  depth: int
  kernels: int
  batch_size: int
  median: tuple[int, int, int]

  def __str__(self):
    median = " x ".join(map(str, self.median))
    return (
      f"--patch_size={spelled_size(self.patch_size)} --depth={self.depth} --kernels={self.kernels} "
      f"--batch_size={self.batch_size} (median {median} voxels)"
    )


def suggest(dataset: Dataset, memory: int | None) -> Suggestion:
  """What a data set and so many bytes of memory suggest; None: 16 GiB."""
  median, memory = median_lengths(dataset), memory or 16 << 30
  depth = next((d for d in _DEPTHS if min(median) >= LEAST_AT_THE_BOTTOM << (d + 1)), _DEPTHS[-1])
  kernels = 4 if len(dataset.schema.modalities) >= 4 else 8
  size = suggested_patch(dataset, 2 ** (depth + 1))
  lengths = (size,) * 3 if isinstance(size, int) else size
  fits = int(_SHARE * memory / (_BYTES * kernels * float(np.prod(lengths))))
  return Suggestion(size, depth, kernels, max(1, min(fits, _MOST_BATCH, len(dataset.cases))), median)


def suggested_patch(dataset: Dataset, multiple: int) -> PatchSize:
  """The patch of a network whose lengths must be multiples of this: the median brain cube's, up to 128 voxels."""
  most = max(MOST_LENGTH // multiple * multiple, multiple)
  return patch_size_of([min(-(-length // multiple) * multiple, most) for length in median_lengths(dataset)])


def median_lengths(dataset: Dataset) -> tuple[int, int, int]:
  """The median lengths of the brain cubes, in voxels."""
  return tuple(int(n) for n in np.median([case.cube_shape for case in dataset.cases], axis=0))
