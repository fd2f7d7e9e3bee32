"""Whether searched networks are better than random ones of the same space, trained alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.comparison import LEVEL, SAMPLES
from nas3d_jax.validation import check_whole

_CHUNK = 1 << 22  # numbers drawn at once


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number with the bootstrap 95% interval around it.

  Attributes:
    value: the number.
    low: lower end; None where there is too little to resample.
    high: upper end.
  """

  value: float
  low: float | None
  high: float | None


def gain_over_random(searched: ArrayLike, random: ArrayLike, *, seed: int, samples: int = SAMPLES) -> Estimate:
  """The relative improvement over random networks in percent (Yang, Esperança and Carlucci 2020).

  100 (mean of the searched - mean of the random) / mean of the random, over networks and cases. The interval is the
  percentile bootstrap over cases and over networks: cases are drawn once for both groups, because they were scored by
  all networks; the networks of each group are drawn apart.

  Args:
    searched: [networks, cases], finite scores of which more is better; a network is one training.
    random: [networks, cases], the same cases in the same order; their mean must not be 0.
    seed: of the bootstrap, a whole number of at least 0.
    samples: resamples, at least 1.

  Raises:
    InputError: shapes that do not fit, numbers that are not finite, or a mean of 0.
  """
  groups = [_networks(values, name) for values, name in ((searched, "searched"), (random, "random"))]
  check_whole("samples", samples, 1)
  check_whole("seed", seed, 0)
  if groups[0].shape[1] != groups[1].shape[1]:
    counts = " and ".join(str(group.shape[1]) for group in groups)
    raise InputError(f"searched and random must be of the same cases, got {counts}")
  if groups[1].mean() == 0:
    raise InputError("random must not be 0 on average, for the gain is relative to it")
  value = _gain(*(group.mean() for group in groups))
  if groups[0].shape[1] < 2:
    return Estimate(value, None, None)
  drawn = np.random.default_rng(seed)
  gains = np.concatenate([_resampled(groups, drawn, count) for count in _chunks(groups, samples)])
  ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
  low, high = np.quantile(gains[np.isfinite(gains)], ends)
  return Estimate(value, float(low), float(high))


def rank_agreement(
  first: Sequence[float], second: Sequence[float], *, seed: int, samples: int = SAMPLES
) -> dict[str, Estimate]:
  """How far two rankings of the same networks agree: Kendall's tau-b and Spearman's rho, from -1 to 1.

  Args:
    first: a finite number a network, at least 3.
    second: a finite number a network, in the same order.
    seed: of the bootstrap over networks, a whole number of at least 0.
    samples: resamples, at least 1.

  Returns:
    "kendall" and "spearman"; a resample in which either ranking has one value alone counts as 0.

  Raises:
    InputError: shapes that do not fit, or numbers that are not finite.
  """
  one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if one.shape != other.shape or one.ndim != 1 or one.size < 3 or not np.isfinite([one, other]).all():
    raise InputError(f"both must have a finite number a network, for at least 3, got {one.shape} and {other.shape}")
  check_whole("samples", samples, 1)
  check_whole("seed", seed, 0)
  places = np.random.default_rng(seed).integers(one.size, size=(samples, one.size))
  found = {}
  for name, measure in (("kendall", stats.kendalltau), ("spearman", stats.spearmanr)):

    def value(x: NDArray, y: NDArray, measure=measure) -> float:
      alike = (x == x[0]).all() or (y == y[0]).all()
      return 0.0 if alike else float(measure(x, y).statistic)

    low, high = np.quantile([value(one[place], other[place]) for place in places], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    found[name] = Estimate(value(one, other), float(low), float(high))
  return found


def _networks(values: ArrayLike, name: str) -> NDArray[np.float64]:
  array = np.asarray(values, np.float64)
  if array.ndim != 2 or not array.size or not np.isfinite(array).all():
    raise InputError(f"{name} must be finite scores [networks, cases], at least one of each, got shape {array.shape}")
  return array


def _gain(searched: NDArray | float, random: NDArray | float) -> NDArray | float:
  with np.errstate(divide="ignore", invalid="ignore"):
    return 100 * (searched - random) / random


def _chunks(groups: list[NDArray], samples: int) -> list[int]:
  """Resamples that are drawn at once, so that memory stays small."""
  size = max(1, _CHUNK // max(group.size for group in groups))
  return [min(size, samples - start) for start in range(0, samples, size)]


def _resampled(groups: list[NDArray], drawn: np.random.Generator, count: int) -> NDArray[np.float64]:
  """The gains of `count` resamples."""
  cases = groups[0].shape[1]
  chosen = drawn.integers(cases, size=(count, cases))
  means = []
  for group in groups:
    networks = drawn.integers(len(group), size=(count, len(group)))
    means.append(group[networks[:, :, None], chosen[:, None, :]].mean((1, 2)))
  return _gain(*means)
