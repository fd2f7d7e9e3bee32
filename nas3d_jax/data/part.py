"""The patches of some cases as a run takes them: one after the other without end, or each of them once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from nas3d_jax.data import pipeline
from nas3d_jax.data.case import Case
from nas3d_jax.data.dataset import Dataset

_prepare = jax.jit(pipeline.prepare_batch, static_argnames="schema")


class Part:
  """A part of a data set, such as the hybrid part and the kernel part of a search.

  A batch is an image [N, p, p, p, M] and a target [N, p, p, p, R], float32, ready for a step.

  Attributes:
    steps: batches of one pass.
  """

  def __init__(
    self, dataset: Dataset, cases: Sequence[Case], *, patch_size: int, batch_size: int, seed: int, skip_empty: bool
  ):
    """Lists the patches; none is read yet.

    Args:
      dataset: the data set.
      cases: those of its cases that make the part, with labels.
      patch_size: p, length of a patch along each axis in voxels.
      batch_size: N, patches in a batch.
      seed: of the order in which `draw` takes them.
      skip_empty: leave out patches without tumour.

    Raises:
      InputError: a case has no labels, or no patch is left.
    """
    refs = pipeline.patch_index(dataset, cases, patch_size, skip_empty=skip_empty)
    self.steps = pipeline.steps_per_epoch(refs, batch_size)
    self._schema = dataset.schema
    self._batches = functools.partial(
      pipeline.patch_batches, dataset, refs, patch_size=patch_size, batch_size=batch_size
    )
    self._stream = self._batches(seed=seed)

  def draw(self, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """The next batch of the endless stream, reshuffled each pass; with a key, augmented."""
    return _prepare(next(self._stream), schema=self._schema, key=key)

  def once(self) -> Iterator[tuple[jax.Array, jax.Array]]:
    """One pass in order, as it is; the stream stays where it is. The last of the `steps` batches may be smaller."""
    with contextlib.closing(self._batches(epochs=1, shuffle=False)) as batches:
      for batch in batches:
        yield _prepare(batch, schema=self._schema)

  @property
  def position(self) -> dict[str, Any]:
    """Where the endless stream stands, plain JSON values."""
    return self._stream.get_state()

  def go_to(self, position: dict[str, Any]) -> None:
    """Sets the endless stream to a `position`."""
    self._stream.set_state(position)

  def close(self) -> None:
    """Stops reading ahead."""
    self._stream.close()
