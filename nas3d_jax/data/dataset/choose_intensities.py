"""Chooses foreground and normalisation of a data set: by name, or from some of its cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from nas3d_jax.data.cases.case_files import CaseError, CaseFiles
from nas3d_jax.data.cases.find_and_read import RawCase, read_case
from nas3d_jax.data.intensities import PAPER_INTENSITIES, Intensities, Window, find_foreground, foreground_of
from nas3d_jax.data.intensity_names import AskedForeground, Foreground, Normalization
from nas3d_jax.errors import InputError
from nas3d_jax.runtime.parallel import each
from nas3d_jax.schema.schema import Schema

_KINDS = get_args(Normalization)
_LOOKED_AT = 4
"""Cases in which the foreground is looked for."""
_MEASURED = 32
"""Cases of whose labelled voxels a window is made."""
_MOST_VOXELS = 100_000
"""Of each of those."""

Named = tuple[str, Window | None]
"""A normalisation and the window that was given with it."""


def named_kinds(normalization: Sequence[str] | None, schema: Schema) -> tuple[Named, ...]:
  """What is asked for, for each modality; of the schema's own where nothing is.

  Args:
    normalization: names as `Intensities.kinds` has them, one or one a modality, a window also as "window:-160:240".
    schema: whose modalities.

  Raises:
    InputError: there is no such normalisation, or as many modalities.
  """
  names = schema.modality_names
  given = [m.normalization or "range" for m in schema.modalities] if normalization is None else list(normalization)
  given = given * len(names) if len(given) == 1 else given
  if len(given) != len(names):
    raise InputError(
      f"normalization must be one name, or one for each of {', '.join(names)}, got {','.join(given)}; give as many"
    )
  return tuple(map(parse_normalization, given))


def parse_normalization(text: str) -> Named:
  """A normalisation as it is written, and the window that is part of it: `"window:-160:240"`.

  Raises:
    InputError: there is no such one.
  """
  kind, *numbers = text.split(":")
  try:
    low, high = map(float, numbers) if numbers else (0.0, 1.0)
    good = kind in _KINDS and (kind == "window" or not numbers) and np.isfinite([low, high]).all() and low < high
  except ValueError:
    good = False
  if not good:
    raise InputError(f"normalization must be one of {', '.join(_KINDS)}, or as window:-160:240, got {text!r:.100}")
  return kind, Window.between(low, high) if numbers else None


def choose_intensities(
  found: Sequence[CaseFiles],
  schema: Schema,
  *,
  foreground: AskedForeground,
  normalization: Sequence[str] | None,
  workers: int,
) -> Intensities:
  """Foreground and normalisation of a data set.

  Args:
    found: its cases; one that cannot be read is left out here.
    schema: the schema of the data set.
    foreground: what counts as one; "auto" finds out.
    normalization: as in `named_kinds`.
    workers: cases read at once.

  Raises:
    InputError: a name is wrong, or zero is asked to be background where it is an intensity like any other.
  """
  if foreground not in get_args(AskedForeground):
    raise InputError(f"foreground must be one of {', '.join(get_args(AskedForeground))}, got {foreground!r}")
  asked = named_kinds(normalization, schema)
  # The other two need no look at the cases.
  matters = foreground in ("auto", "nonzero")
  looked = _read(_spread(found, _LOOKED_AT), schema, workers, "foreground") if matters else []
  there: Foreground = find_foreground(raw.image for raw in looked) if looked else "nonzero"
  if foreground == "nonzero" and there == "all" and any(raw.image.min() < 0 for raw in looked):
    raise InputError(
      "foreground=nonzero takes 0 for background, but these images have negative intensities and no background of 0, "
      "as computed tomography has; give --foreground=auto or all"
    )
  chosen: Foreground = there if foreground == "auto" else foreground
  kinds = tuple(kind for kind, _ in asked)
  windows = tuple(window for _, window in asked)
  measured = [channel for channel, (kind, window) in enumerate(asked) if kind == "window" and window is None]
  if measured:
    labelled = [files for files in found if files.segmentation is not None] or list(found)
    values = [_values(raw, chosen, measured) for raw in _read(_spread(labelled, _MEASURED), schema, workers, "window")]
    if not values:
      raise InputError("normalization=window needs a case that can be read; give it as window:LOW:HIGH")
    own = {m: Window.of_values(np.concatenate([one[m] for one in values])) for m in measured}
    if flat := [schema.modality_names[m] for m, window in own.items() if window.low == window.high]:
      raise InputError(f"the labelled voxels of {', '.join(flat)} have one intensity alone; give window:LOW:HIGH")
    windows = tuple(own.get(channel, window) for channel, window in enumerate(windows))
  chosen_ones = Intensities(chosen, kinds, windows if any(windows) else ())
  return PAPER_INTENSITIES if chosen_ones.is_paper else chosen_ones


def _read(files: Sequence[CaseFiles], schema: Schema, workers: int, title: str) -> list[RawCase]:
  def read(one: CaseFiles) -> RawCase | None:
    try:
      return read_case(one, schema)
    except CaseError:
      return None

  return [raw for raw in each(title, read, list(files), workers) if raw is not None]


def _spread(files: Sequence[CaseFiles], most: int) -> list[CaseFiles]:
  """So many of them, as evenly as can be."""
  return [files[i] for i in sorted({round(place) for place in np.linspace(0, len(files) - 1, most)})] if files else []


def _values(raw: RawCase, foreground: Foreground, channels: Sequence[int]) -> dict[int, np.ndarray]:
  """Intensities of a case where it is labelled, else of its foreground; every so many where there are very many."""
  found = {}
  for channel in channels:
    values = raw.image[..., channel]
    inside = raw.labels > 0 if raw.labels is not None and raw.labels.any() else foreground_of(values, foreground)
    own = values[inside]
    found[channel] = own[:: max(own.size // _MOST_VOXELS, 1)]
  return found
