"""What a step takes its patches from."""

from __future__ import annotations

import dataclasses

import jax

from nas3d_jax.data.patches.patch_stream import PatchStream


@dataclasses.dataclass(frozen=True)
class Feed:
  """The patches of one update of a step.

  Attributes:
    name: under which a checkpoint holds their position.
    prefix: of the update's metrics, `<prefix>loss` and `<prefix>finite`.
    stream: the patches.
    augment: whether they are augmented.
  """

  name: str
  prefix: str
  stream: PatchStream
  augment: bool

  def key(self, key: jax.Array, step: jax.Array | int) -> jax.Array | None:
    """Of the augmentation of the batch that is taken after so many steps, from the key of them all; None without."""
    return jax.random.fold_in(key, step) if self.augment else None
