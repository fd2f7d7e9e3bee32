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

  100 (mean of the searched - mean of the random) / mean of the random, over genotypes and cases. The interval is a
  bootstrap over cases and over genotypes: cases are drawn once for both groups, because they were scored by all
  networks; the genotypes of each group are drawn apart. A genotype is drawn with all its trainings, which are alike and
  would else pass for so many independent finds. A plain percentile interval is too narrow for few genotypes: of three
  against five it misses the truth in a fifth of all studies. So the scatter of n genotypes is widened by
  sqrt(n / (n - 1)), and the percentiles are those of Student's t ("expanded percentile", Hesterberg 2015, with the
  degrees of freedom of Welch's test).

  Args:
    searched: [genotypes, cases], finite scores of which more is better; of several trainings their mean.
    random: [genotypes, cases], the same cases in the same order; their mean must not be 0.
    seed: of the bootstrap, a whole number of at least 0.
    samples: resamples, at least 1.

  Returns:
    Without an interval where there is one case alone, or one genotype in a group.

  Raises:
    InputError: shapes that do not fit, numbers that are not finite, or a mean of 0.
  """
  groups = [_genotypes(values, name) for values, name in ((searched, "searched"), (random, "random"))]
  check_whole("samples", samples, 1)
  check_whole("seed", seed, 0)
  if groups[0].shape[1] != groups[1].shape[1]:
    counts = " and ".join(str(group.shape[1]) for group in groups)
    raise InputError(f"searched and random must be of the same cases, got {counts}")
  if groups[1].mean() == 0:
    raise InputError("random must not be 0 on average, for the gain is relative to it")
  value = _gain(*(group.mean() for group in groups))
  if groups[0].shape[1] < 2 or min(len(group) for group in groups) < 2:
    return Estimate(value, None, None)
  drawn = np.random.default_rng(seed)
  gains = np.concatenate([_resampled(groups, drawn, count) for count in _chunks(groups, samples)])
  tail = _tail(groups)
  low, high = np.quantile(gains[np.isfinite(gains)], [tail, 1 - tail])
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


def _genotypes(values: ArrayLike, name: str) -> NDArray[np.float64]:
  array = np.asarray(values, np.float64)
  if array.ndim != 2 or not array.size or not np.isfinite(array).all():
    raise InputError(f"{name} must be finite scores [genotypes, cases], at least one of each, got shape {array.shape}")
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
    size = len(group)
    places = drawn.integers(size, size=(count, size))
    mean = group[places[:, :, None], chosen[:, None, :]].mean((1, 2))
    # Of all genotypes on the cases drawn: what is left is the scatter of genotypes, which a bootstrap makes too small.
    centre = group.mean(0)[chosen].mean(1)
    means.append(centre + (mean - centre) * np.sqrt(size / (size - 1)))
  return _gain(*means)


def _tail(groups: list[NDArray]) -> float:
  """The part of the resamples beyond either end: that beyond a quantile of Student's t, as if they were normal."""
  variances = [(group.mean(1).var(ddof=1) / len(group), len(group) - 1) for group in groups]
  differences = groups[0].mean(0) - groups[1].mean(0)
  variances.append((differences.var(ddof=1) / len(differences), len(differences) - 1))
  # Welch and Satterthwaite's degrees of freedom; without any scatter it matters nothing.
  below = sum(variance**2 / freedom for variance, freedom in variances)
  freedom = sum(variance for variance, _ in variances) ** 2 / below if below else np.inf
  return float(stats.norm.cdf(stats.t.ppf((1 - LEVEL) / 2, freedom)))
