"""How patches are augmented, by name."""

from __future__ import annotations

import dataclasses
from typing import Literal

Augmentation = Literal["paper", "strong"]
Mirror = Literal["none", "D", "H", "W", "DH", "DW", "HW", "DHW"]


@dataclasses.dataclass(frozen=True)
class Changes:
  """What an augmentation does to patches.

  Attributes:
    augmentation: "paper" as in `augment.py`, of patches as they are stored; "strong" as in `strong_augment.py`.
    mirror: axes that the strong one mirrors.
  """

  augmentation: Augmentation = "paper"
  mirror: Mirror = "DHW"

  @property
  def axes(self) -> tuple[int, ...]:
    """The axes that are mirrored, by number."""
    return () if self.mirror == "none" else tuple("DHW".index(axis) for axis in self.mirror)


PAPER_CHANGES = Changes()
