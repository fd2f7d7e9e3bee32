"""What of a volume is foreground, and how its intensities are brought to those that a network takes.

A data set of the paper's kind, zero outside the brain and scaled by equations 1 and 2, keeps the intensities of its
files; patches are scaled on the device. Of every other kind `prepare` makes a volume that is normalised, and zero where
nothing is, which the data set holds and which is scaled no more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from nas3d_jax.data.brain import intensity_range
from nas3d_jax.data.intensity_names import LAM, XI, Foreground, Normalization
from nas3d_jax.errors import InputError
from nas3d_jax.validation import is_number

PERCENTILES = (0.5, 99.5)
"""Where `percentile` and `window` clip, as nnU-Net has it."""
MOST_OF_FACES = 0.5
"""Part of a volume's faces that a value has which is background."""
_MANY_ZEROS = 0.05
"""Part of a volume that is zero, where zero is background though its faces lie in the foreground."""
NOTHING = np.float32(1e-6)
"""In the place of a zero of the foreground, as zero is outside."""


class Window(NamedTuple):
  """Intensities of a data set, at which each of its volumes is clipped and normalised.

  Attributes:
    low: the least that is kept.
    high: the greatest.
    mean: what becomes 0.
    deviation: what becomes 1 from there.
  """

  low: float
  high: float
  mean: float
  deviation: float

  @classmethod
  def of_values(cls, values: NDArray) -> Window:
    """That of the intensities of a foreground, flat: its percentiles, and mean and deviation of what they clip."""
    values = np.asarray(values, np.float64)
    low, high = np.percentile(values, PERCENTILES)
    return cls(*map(float, (low, high, *_moments(values.clip(low, high)))))

  @classmethod
  def between(cls, low: float, high: float) -> Window:
    """That from `low` to `high`, which become -1 and 1."""
    return cls(low, high, (low + high) / 2, (high - low) / 2)


@dataclasses.dataclass(frozen=True)
class Intensities:
  """Foreground and normalisation of the volumes of a data set.

  Attributes:
    foreground: what of a modality is not background.
    kinds: how each modality is normalised over its foreground: "range" as in equations 1 and 2; "zscore" to mean 0 and
      deviation 1; "percentile" the same after a clip at the percentiles 0.5 and 99.5; "window" by its `Window`; "none"
      not at all. Empty: all by the range.
    windows: the window of each modality of that kind, None for others; empty without any.

  Raises:
    InputError: a field is of another kind, or a window is missing.
  """

  foreground: Foreground = "nonzero"
  kinds: tuple[Normalization, ...] = ()
  windows: tuple[Window | None, ...] = ()

  def __post_init__(self):
    if self.foreground not in get_args(Foreground):
      raise InputError(f"foreground must be one of {', '.join(get_args(Foreground))}, got {self.foreground!r}")
    if wrong := [kind for kind in self.kinds if kind not in get_args(Normalization)]:
      raise InputError(f"normalization must be one of {', '.join(get_args(Normalization))}, got {wrong[0]!r}")
    windows = self.windows or (None,) * len(self.kinds)
    if [window is not None for window in windows] != [kind == "window" for kind in self.kinds]:
      raise InputError(f"each modality with a window must have one, and no other, got {self.kinds}, {self.windows}")

  @property
  def is_paper(self) -> bool:
    """Whether patches are scaled on the device, by the range of their case (equation 2)."""
    return self.foreground == "nonzero" and set(self.kinds) <= {"range"}

  @property
  def prepared(self) -> Intensities:
    """Those of a volume that `prepare` made."""
    return self if self.is_paper else Intensities("nonzero", ("none",) * len(self.kinds))

  def prepare(self, image: NDArray, missing: Collection[int] = ()) -> NDArray:
    """Normalises a volume; one of the paper's kind stays as it is.

    Args:
      image: [D, H, W, M] raw intensities, finite.
      missing: modalities that the case lacks, which are 0 in `image` and stay so.

    Returns:
      float32 [D, H, W, M]: 0 in each modality where that has its background, and nowhere else.

    Raises:
      InputError: a modality has no foreground, or one value alone, or there are as many others.
    """
    if self.is_paper:
      return image
    if image.shape[-1] != len(self.kinds):
      raise InputError(f"image must have {len(self.kinds)} modalities, as normalization has, got {image.shape}")
    out = np.zeros(image.shape, np.float32)
    for channel, (kind, window) in enumerate(zip(self.kinds, self.windows or [None] * len(self.kinds), strict=True)):
      if channel in missing:
        continue
      values = image[..., channel]
      inside = foreground_of(values, self.foreground)
      own = values[inside]
      if not own.size or own.min() == own.max():
        what = "no foreground" if not own.size else f"one value alone, {own.flat[0]:g}"
        raise InputError(f"image must have different intensities, but modality {channel} has {what}; check the files")
      scaled = _normalized(own, kind, window).astype(np.float32)
      out[..., channel][inside] = np.where(scaled == 0, NOTHING, scaled)
    return out

  def bounds(
    self, image: NDArray, missing: Collection[int] = ()
  ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`low` and `high` [M] with which equation 2 brings a prepared volume [D, H, W, M] to what a network takes.

    Raises:
      InputError: a modality of the paper's kind is zero everywhere, and not in `missing`, see `prepare`.
    """
    if self.is_paper:
      return intensity_range(image, missing)
    # With these, equation 2 leaves a volume as it is.
    return np.full(len(self.kinds), XI * LAM, np.float32), np.full(len(self.kinds), XI * (1 + LAM), np.float32)

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain JSON values."""
    windows = [window and list(window) for window in self.windows]
    return {"foreground": self.foreground, "kinds": list(self.kinds), "windows": windows}

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> Intensities:
    """The inverse of `to_dict`.

    Raises:
      InputError: a field is missing, unknown or wrong.
    """
    names = {field.name for field in dataclasses.fields(cls)}
    lists = isinstance(fields, Mapping) and set(fields) == names and [fields["kinds"], fields["windows"]]
    if not lists or not all(isinstance(entry, (list, tuple)) for entry in lists):
      raise InputError(f"intensities must have the fields {', '.join(sorted(names))}, got {fields!r:.200}")
    good = [
      window is None or (isinstance(window, (list, tuple)) and len(window) == 4 and all(map(is_number, window)))
      for window in fields["windows"]
    ]
    if not all(good):
      raise InputError(f"a window must be four numbers, got {fields['windows']!r:.200}")
    windows = tuple(None if window is None else Window(*map(float, window)) for window in fields["windows"])
    return cls(fields["foreground"], tuple(fields["kinds"]), windows)

  def said(self, names: Sequence[str]) -> str:
    """In words, with the names of the modalities."""
    where = {
      "nonzero": "what is not 0",
      "constant": "what differs from the value at the borders of its volume",
      "all": "all voxels",
    }[self.foreground]
    kinds = self.kinds or ("range",) * len(names)
    if len(set(kinds)) == 1 and not any(self.windows):
      return f"foreground: {where}; normalization: {kinds[0]}"
    windows = self.windows or (None,) * len(names)
    each = (
      f"{name} {kind}" + (f" from {window.low:g} to {window.high:g}" if window else "")
      for name, kind, window in zip(names, kinds, windows, strict=True)
    )
    return f"foreground: {where}; normalization: {', '.join(each)}"


PAPER_INTENSITIES = Intensities()
"""What is not zero, scaled by its range."""


def border_value(values: NDArray) -> float | None:
  """The value that most voxels on the faces of a volume [D, H, W] have; None where none has most."""
  faces = np.concatenate([values.take(end, axis).ravel() for axis in range(3) for end in (0, -1)])
  found, counts = np.unique(faces, return_counts=True)
  most = int(counts.argmax())
  return found[most].item() if counts[most] > MOST_OF_FACES * faces.size else None


def foreground_of(values: NDArray, foreground: Foreground) -> NDArray[np.bool_]:
  """Where a modality [D, H, W] is not background."""
  if foreground == "nonzero":
    return values != 0
  outside = border_value(values) if foreground == "constant" else None
  return np.ones(values.shape, bool) if outside is None else values != outside


def find_foreground(images: Iterable[NDArray]) -> Foreground:
  """The foreground that most modalities of some volumes [D, H, W, M] have: see `Foreground`.

  Zero is background where it has most of the faces, or a twentieth of a volume without negative values.
  """
  votes: list[Foreground] = []
  for image in images:
    for channel in range(image.shape[-1]):
      values = image[..., channel]
      border = border_value(values)
      many_zeros = values.min() >= 0 and np.count_nonzero(values == 0) > _MANY_ZEROS * values.size
      if border is None:
        votes.append("nonzero" if many_zeros else "all")
      else:
        votes.append("constant" if border else "nonzero")
  return max(("nonzero", "constant", "all"), key=votes.count)


def _normalized(values: NDArray, kind: Normalization, window: Window | None) -> NDArray[np.float64]:
  """The intensities of a foreground, flat, by one of the kinds."""
  values = values.astype(np.float64)
  if kind == "none":
    return values
  if kind == "range":
    least, greatest = values.min(), values.max()
    return XI * ((values - least) / (greatest - least) + LAM)
  if kind == "window":
    return (values.clip(window.low, window.high) - window.mean) / window.deviation
  if kind == "percentile":
    clipped = values.clip(*np.percentile(values, PERCENTILES))
    # Where nearly all voxels have one value, there is nothing between the percentiles.
    values = clipped if clipped.min() < clipped.max() else values
  mean, deviation = _moments(values)
  return (values - mean) / deviation


def _moments(values: NDArray[np.float64]) -> tuple[float, float]:
  return values.mean(), max(values.std(), np.finfo(np.float64).tiny)
