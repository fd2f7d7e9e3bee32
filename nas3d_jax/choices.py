"""How a network is applied to a whole case, beyond what the paper does. No JAX here."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from nas3d_jax.errors import InputError


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceChoices:
  """Choices of inference; the defaults are the paper's: auto-fitted patches one by one, overlaps averaged, no more.

  Attributes:
    tta: average over the 8 mirrored inputs (test-time augmentation).
    overlap: least part of a patch's length that neighbours share, from 0 to below 1; 0 keeps the auto-fitted patches.
    gaussian: where patches overlap, weigh each by a Gaussian about its centre.
    whole_volume: the whole brain cube in one pass, padded to the network's multiple, instead of patches.
    patch_batch: patches in one pass.
    min_component_ml: connected components of the innermost region below this volume, in ml, are taken out of it.

  Raises:
    InputError: a field is of another type or out of range, or one excludes another.
  """

  tta: bool = False
  overlap: float = 0.0
  gaussian: bool = False
  whole_volume: bool = False
  patch_batch: int = 1
  min_component_ml: float = 0.0

  def __post_init__(self):
    for name in ("tta", "gaussian", "whole_volume"):
      self._require(name, isinstance(getattr(self, name), bool), "True or False")
    self._require("overlap", _is_number(self.overlap) and 0 <= self.overlap < 1, "a number from 0 to below 1")
    good = _is_number(self.min_component_ml) and self.min_component_ml >= 0
    self._require("min_component_ml", good, "a number of at least 0")
    whole = isinstance(self.patch_batch, int) and not isinstance(self.patch_batch, bool)
    self._require("patch_batch", whole and self.patch_batch >= 1, "a whole number of at least 1")
    if self.whole_volume and (self.overlap or self.gaussian or self.patch_batch > 1):
      raise InputError("whole_volume takes no patches: leave out overlap, gaussian and patch_batch, or whole_volume")

  def _require(self, name: str, good: bool, wanted: str) -> None:
    if not good:
      raise InputError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON."""
    return dataclasses.asdict(self)


PAPER = InferenceChoices()
"""As the paper predicts."""
