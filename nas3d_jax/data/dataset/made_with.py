"""Whether a data set that is there was made as is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from nas3d_jax.data.dataset.choose_intensities import Named
from nas3d_jax.data.dataset.common_geometry import differs
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.intensity_names import AskedForeground
from nas3d_jax.errors import InputError


def check_made_with(
  dataset: Dataset,
  *,
  orientation: str | None = None,
  spacing: Sequence[float] | None = None,
  foreground: AskedForeground = "auto",
  named: Sequence[Named] | None = None,
  remedy: str,
) -> None:
  """Compares a data set with what a command asks for.

  Args:
    dataset: the data set.
    orientation: see `preprocess`; None where none is asked for.
    spacing: see `preprocess`; None where none is asked for.
    foreground: see `preprocess`.
    named: how each modality is to be normalised, see `named_kinds`; None where nothing is asked for.
    remedy: what to do about it.

  Raises:
    InputError: it was made otherwise.
  """
  own, was = dataset.intensities, f"{dataset.folder} was made with"
  if differs(dataset.geometry, orientation, spacing):
    asked = f"orientation={orientation}, " if orientation else ""
    asked += f"spacing={','.join(f'{length:g}' for length in spacing)}" if spacing else ""
    asked = asked.removesuffix(", ")
    raise InputError(f"{was} the geometry {dataset.geometry}, got {asked}; {remedy}")
  if foreground not in ("auto", own.foreground):
    raise InputError(f"{was} foreground={own.foreground}, got {foreground}; {remedy}")
  if named is None:
    return
  kinds, windows = own.kinds or ("range",) * len(named), own.windows or (None,) * len(named)
  for kind, window, (asked, given) in zip(kinds, windows, named, strict=True):
    if kind != asked or given not in (None, window):
      text = asked if given is None else f"window:{given.low:g}:{given.high:g}"
      raise InputError(f"{was} {own.said(dataset.schema.modality_names)}, got {text}; {remedy}")
