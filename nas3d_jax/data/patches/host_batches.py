"""From a preprocessed dataset to batches on the device. The only file that imports Grain.

The search reads two streams of `patch_batches`: the kernel part, of which an epoch takes
`PatchOrder.steps` batches, and the hybrid part, one batch with each step, starting over when used
up. Both are endless and reshuffled each pass; a checkpoint stores how many patches were taken of
each. The validation loss reads the hybrid part once more, with `epochs=1` and `shuffle=False`.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Sequence

import grain
import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.patches import grid
from nas3d_jax.data.patches.augment import augment
from nas3d_jax.data.patches.augmentation import PAPER_CHANGES, Changes
from nas3d_jax.data.patches.batch import Batch, RawBatch
from nas3d_jax.data.patches.normalize import normalize
from nas3d_jax.data.patches.strong_augment import strong_augment
from nas3d_jax.errors import InputError
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import PatchSize, axis_lengths


@dataclasses.dataclass(frozen=True)
class PatchRef:
  """Where a patch lies.

  Attributes:
    case_index: index of its case in `dataset.cases`.
    start: its first voxel along D, H and W, from the corner of the brain cube.
  """

  case_index: int
  start: grid.Start


def patch_index(
  dataset: Dataset, cases: Sequence[Case], patch_size: PatchSize, *, skip_empty: bool = True
) -> list[PatchRef]:
  """Lists the auto-fitted patches (section 2.3) of labelled cases.

  Args:
    dataset: the dataset that the cases belong to.
    cases: the cases to cut into patches, each with labels.
    patch_size: length of a patch in voxels; one, or one an axis.
    skip_empty: leave out the patches that hold background alone.

  Returns:
    The patches, in the order of the cases and then of `patch_grid`.

  Raises:
    InputError: a case has no labels, or no patch is left.
  """
  positions = {case.name: index for index, case in enumerate(dataset.cases)}
  refs = []
  for case in cases:
    labels = dataset.labels(case)
    if labels is None:
      raise InputError(f"cases must have labels, but {case.name!r} has none; leave it out")
    for start in grid.patch_grid(labels.shape, patch_size):
      if not skip_empty or grid.extract_patch(labels, start, patch_size).any():
        refs.append(PatchRef(positions[case.name], start))
  if not refs:
    raise InputError(
      f"no patch is left of {len(cases)} cases with skip_empty={skip_empty}; "
      "give cases with labelled voxels, or skip_empty=False"
    )
  return refs


class PatchSource(grain.sources.RandomAccessDataSource):
  """The patches of a list, read from the memory-mapped arrays when asked for.

  An element is a dict of image [d, h, w, M] in the stored type, label uint8 [d, h, w], low and high
  float32 [M] (the case's range for `normalize`), and, to name it in messages, case int32 [] and
  start int32 [3] as in PatchRef.

  Args:
    dataset: where the cases lie.
    refs: the patches, as `patch_index` lists them.
    patch_size: length of a patch in voxels; one, or one an axis.
  """

  def __init__(self, dataset: Dataset, refs: Sequence[PatchRef], patch_size: PatchSize):
    self._dataset = dataset
    self._refs = tuple(refs)
    self._patch_size = patch_size

  def __len__(self) -> int:
    return len(self._refs)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    ref = self._refs[index]
    case = self._dataset.cases[ref.case_index]
    # Mapped anew for each patch: a map kept open holds a file descriptor, and 335 cases have 670.
    image, labels = self._dataset.image(case), self._dataset.labels(case)
    return {
      "image": grid.extract_patch(image, ref.start, self._patch_size),
      "label": grid.extract_patch(labels, ref.start, self._patch_size),
      "low": np.asarray(case.low, np.float32),
      "high": np.asarray(case.high, np.float32),
      "case": np.asarray(ref.case_index, np.int32),
      "start": np.asarray(ref.start, np.int32),
    }


def patch_batches(
  dataset: Dataset,
  refs: Sequence[PatchRef],
  *,
  patch_size: PatchSize,
  batch_size: int = 1,
  seed: int = 0,
  epochs: int | None = None,
  shuffle: bool = True,
  first: int = 0,
  process: int = 0,
  processes: int = 1,
) -> grain.DatasetIterator:
  """Batches of patches, read ahead by two threads.

  Every pass takes each patch once, in an order that is a pure function of seed, pass and number of
  patches. No patch is ever dropped. Where `batch_size` does not divide their number:

  - an endless stream (`epochs=None`, training) goes on into the next pass within a batch, so all
    batches are full and one compilation serves; an epoch of `PatchOrder.steps` batches then
    covers a pass and up to `batch_size - 1` patches of the next;
  - a finite stream (validation) ends each pass with a smaller batch, so that a mean weighted by
    the batches' sizes counts each patch once; the smaller size costs one more compilation.

  The position is the number of batches taken: `get_state()` is a dict for JSON, and after
  `set_state()` an iterator made with the same arguments goes on from there. `close()` stops the
  threads; a dropped iterator does so by itself.

  Args:
    dataset: where the cases lie.
    refs: the patches, as `patch_index` lists them.
    patch_size: length of a patch in voxels; one, or one an axis.
    batch_size: N, patches in a batch.
    seed: seed of the order, at least 0.
    epochs: number of passes; None goes on without end.
    shuffle: shuffle each pass anew; otherwise the order is that of `refs`.
    first: patches of the stream to leave out, those taken before.
    process: number of this process among those that share the stream.
    processes: how many do. They take its batches in turn, and each reads its own alone.

  Returns:
    An iterator over dicts, those of PatchSource with a first axis of length N.

  Raises:
    InputError: `refs` is empty, or a number is out of range.
  """
  for length in axis_lengths(patch_size):
    _check("patch_size", length)
  source = grain.MapDataset.source(PatchSource(dataset, refs, patch_size))
  stream = _ordered(source, batch_size, seed, epochs, shuffle, first)
  if processes > 1:
    stream = stream[process::processes]
  return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def patch_order(patches: int, *, seed: int = 0) -> Sequence[int]:
  """The order in which the endless stream of `patch_batches` takes its patches.

  Args:
    patches: their number.
    seed: that of the stream.

  Returns:
    A sequence without end; item i is the index of the i-th patch in the list.

  Raises:
    InputError: a number is out of range.
  """
  return _shuffled(grain.MapDataset.range(patches), seed).repeat()


def _ordered(
  stream: grain.MapDataset, batch_size: int, seed: int, epochs: int | None, shuffle: bool, first: int
) -> grain.MapDataset:
  _check("batch_size", batch_size)
  _check("epochs", 1 if epochs is None else epochs)
  _check("first", first, 0)
  stream = _shuffled(stream, seed) if shuffle else stream
  if epochs is None:
    # There is no remainder to drop, but Grain's length would overflow if it counted one.
    return stream.repeat()[first:].batch(batch_size, drop_remainder=True)
  return stream[first:].batch(batch_size).repeat(epochs)


def _shuffled(stream: grain.MapDataset, seed: int) -> grain.MapDataset:
  if not len(stream):
    raise InputError("refs must hold at least one patch, got none; see patch_index")
  _check("seed", seed, 0)
  # Grain adds the pass to this number, so neighbouring seeds must not give neighbouring numbers.
  return stream.shuffle(int(np.random.SeedSequence(seed).generate_state(1)[0]))


def _check(name: str, value: int, least: int = 1) -> None:
  if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
    raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")


def prepare_batch(
  batch: RawBatch, schema: Schema, key: jax.Array | None = None, *, changes: Changes = PAPER_CHANGES
) -> Batch:
  """Augments, normalises (equations 1 and 2) and splits labels into regions, on the device.

  For `jit`, with `schema` and `changes` bound by `functools.partial`. Jitted apart from the step, it keeps the
  stored type, which may differ from case to case, out of the step's compilation.

  Args:
    batch: a batch of `patch_batches`.
    schema: what the labels mean, `dataset.schema`.
    key: a random key for the augmentation; None leaves the patches as they are.
    changes: what the augmentation does.

  Returns:
    Image float32 [N, D, H, W, M] and target float32 [N, D, H, W, R] of zeros and ones, R the
    regions in the schema's order.
  """
  image, label = jnp.asarray(batch["image"]), jnp.asarray(batch["label"])
  if key is not None and changes.augmentation == "paper":
    image, label = augment(key, image, label)
  image = normalize(image, low=batch["low"], high=batch["high"])
  if key is not None and changes.augmentation == "strong":
    image, label = strong_augment(key, image, label, mirror=changes.axes)
  return image, schema.region_masks(label).astype(jnp.float32)
