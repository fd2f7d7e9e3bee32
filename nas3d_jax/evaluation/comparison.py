"""Whether two networks differ on the same cases: paired differences, their interval, and a test."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nas3d_jax.errors import InputError
from nas3d_jax.validation import check_whole

LEVEL = 0.95
SAMPLES = 10_000
"""Resamples of the bootstrap by default."""

# SciPy's exact distribution knows no ties and goes up to 50; with ties all 2 ** n signs are tried up to this n.
_EXACT, _ALL_SIGNS = 50, 13
# Below so many cases that differ, no two-sided test of signs or ranks can reach p = 0.05: 2 / 2 ** 5 is above it.
_FEWEST = 6
_CHUNK = 1 << 22  # numbers drawn at once


@dataclasses.dataclass(frozen=True)
class PairedDifference:
  """The difference of one metric between two networks over the same cases, first minus second.

  Attributes:
    count: cases.
    differing: cases on which the two differ; the others do not count in a Wilcoxon test.
    mean: mean difference, in the metric's unit.
    median: median difference.
    low: lower end of the bootstrap 95% interval of the mean; None for fewer than 2 cases.
    high: upper end.
    p_value: two-sided Wilcoxon signed rank test; None where no case differs.
    note: how the p value was computed, and what limits it; for the reader.
  """

  count: int
  differing: int
  mean: float
  median: float
  low: float | None
  high: float | None
  p_value: float | None
  note: str


def paired_difference(
  first: Sequence[float], second: Sequence[float], *, seed: int, samples: int = SAMPLES
) -> PairedDifference:
  """Compares two networks on the same cases.

  The interval is the percentile bootstrap of the mean over cases. The test is Wilcoxon's signed rank test: cases
  without difference are left out, ties get their mean rank; the distribution is exact for up to 50 cases without ties
  and up to 13 with ties, and normal with tie correction beyond.

  Args:
    first: one finite number a case.
    second: one finite number a case, in the same order.
    seed: of the bootstrap, a whole number of at least 0.
    samples: resamples of the bootstrap, at least 1.

  Raises:
    InputError: the two are not as long as each other, are empty or not finite, or `samples` is below 1.
  """
  one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if one.shape != other.shape or one.ndim != 1 or not one.size:
    raise InputError(f"both must have one number a case, at least one, got {one.shape} and {other.shape}")
  if not (np.isfinite(one).all() and np.isfinite(other).all()):
    raise InputError("both must hold finite numbers only; leave out the cases that have none in both")
  check_whole("samples", samples, 1)
  differences = one - other
  low, high = _interval(differences, seed, samples)
  p_value, note = _wilcoxon(differences[differences != 0])
  return PairedDifference(
    count=one.size,
    differing=int(np.count_nonzero(differences)),
    mean=float(differences.mean()),
    median=float(np.median(differences)),
    low=low,
    high=high,
    p_value=p_value,
    note=note,
  )


def _interval(differences: NDArray[np.float64], seed: int, samples: int) -> tuple[float | None, float | None]:
  """The percentile bootstrap interval of the mean; None for fewer than 2 cases."""
  count = differences.size
  if count < 2:
    return None, None
  interval = stats.bootstrap(
    (differences,), np.mean, method="percentile", confidence_level=LEVEL, n_resamples=samples,
    batch=max(1, _CHUNK // count), random_state=np.random.default_rng(seed),
  ).confidence_interval
  return float(interval.low), float(interval.high)


def _wilcoxon(differences: NDArray[np.float64]) -> tuple[float | None, str]:
  """p value of differences that are not zero, and how it was computed."""
  count = differences.size
  if not count:
    return None, "no case differs"
  ties = np.unique(np.abs(differences)).size < count
  if count <= (_ALL_SIGNS if ties else _EXACT):
    method = stats.PermutationMethod(n_resamples=2**_ALL_SIGNS) if ties else "exact"
    note = "exact"
  else:
    method, note = "approx", "normal approximation"
  p_value = float(stats.wilcoxon(differences, method=method, correction=method == "approx").pvalue)
  if count < _FEWEST:
    note = f"{note}; {count} differ: p ≥ {2 / 2**count:.3g}"
  return p_value, note
