"""Paired differences against SciPy and hand-worked cases."""

import itertools

import numpy as np
import pytest
from scipy import stats

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.comparison import paired_difference


def sample(count, shift=0.3, seed=0):
  random = np.random.default_rng(seed)
  return random.normal(shift, 1, count), random.normal(0, 1, count)


def all_signs(differences):
  """Two-sided p value over all signs of the ranks, ties at their mean rank; independent of SciPy's wilcoxon."""
  ranks = stats.rankdata(np.abs(differences))
  sums = np.array([ranks[np.array(signs)].sum() for signs in itertools.product((False, True), repeat=len(ranks))])
  found = ranks[differences > 0].sum()
  return min(1, 2 * min((sums <= found + 1e-9).mean(), (sums >= found - 1e-9).mean()))


@pytest.mark.parametrize("count", [2, 6, 12, 40, 80])
def test_p_value_equals_scipys(count):
  first, second = sample(count)
  got = paired_difference(first, second, seed=0, samples=10)
  expected = stats.wilcoxon(first, second, correction=count > 50, method="exact" if count <= 50 else "approx")
  assert got.p_value == pytest.approx(expected.pvalue)
  assert (got.count, got.differing) == (count, count)
  assert got.note.startswith("exact" if count <= 50 else "normal approximation")


def test_mean_and_median_by_hand():
  got = paired_difference([3, 1, 5, 2], [1, 1, 1, 1], seed=0)
  assert (got.mean, got.median, got.count, got.differing) == (1.75, 1.5, 4, 3)


@pytest.mark.parametrize(
  "differences",
  [[1, 1, 1, -1, 2, 2, -3], [0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [2, -2, 1, -1, 3, 4, 4, 5, 6, 7]],
)
def test_ties_are_exact(differences):
  got = paired_difference(differences, np.zeros(len(differences)), seed=0, samples=10)
  assert got.p_value == pytest.approx(all_signs(np.array(differences)))
  assert got.note == "exact"


def test_many_ties_take_the_normal_approximation():
  first = np.round(sample(30)[0], 1)
  got = paired_difference(first, np.zeros(30), seed=0, samples=10)
  kept = first[first != 0]
  assert got.p_value == pytest.approx(stats.wilcoxon(kept, correction=True, method="approx").pvalue)
  assert got.note == "normal approximation"


def test_cases_without_difference_are_left_out():
  first, second = sample(9)
  padded = paired_difference([*first, 1, 2], [*second, 1, 2], seed=0, samples=10)
  assert padded.p_value == paired_difference(first, second, seed=0, samples=10).p_value
  assert (padded.count, padded.differing) == (11, 9)


def test_equal_networks():
  got = paired_difference([1, 2, 3], [1, 2, 3], seed=0)
  assert (got.mean, got.low, got.high, got.p_value, got.note) == (0, 0, 0, None, "no case differs")


@pytest.mark.parametrize("count", [1, 3, 5])
def test_too_few_cases_say_so(count):
  got = paired_difference(np.arange(1, count + 1), np.zeros(count), seed=0)
  assert got.p_value == pytest.approx(2 / 2**count)  # all of one sign: the least that can be
  assert got.note == f"exact; {count} differ: p ≥ {2 / 2**count:.3g}"
  assert (got.low is None) == (count == 1)


@pytest.mark.parametrize("count", [8, 50])
def test_interval_equals_scipys_percentile_bootstrap(count):
  first, second = sample(count)
  got = paired_difference(first, second, seed=3)
  expected = stats.bootstrap((first - second,), np.mean, method="percentile", n_resamples=20_000, rng=1)
  width = expected.confidence_interval.high - expected.confidence_interval.low
  assert got.low == pytest.approx(expected.confidence_interval.low, abs=0.05 * width)
  assert got.high == pytest.approx(expected.confidence_interval.high, abs=0.05 * width)


def test_interval_of_two_cases_by_hand():
  # Means of two draws from 0 and 1: 0, 1/2 or 1, each end with probability 1/4.
  got = paired_difference([0, 1], [0, 0], seed=0)
  assert (got.low, got.high) == (0, 1)


def test_the_seed_settles_the_interval():
  first, second = sample(20)
  one, same, other = (paired_difference(first, second, seed=seed) for seed in (1, 1, 2))
  assert one == same
  assert one.low != other.low


@pytest.mark.parametrize(
  ("first", "second", "samples", "message"),
  [
    ([1, 2], [1], 10, "one number a case"),
    ([], [], 10, "at least one"),
    ([1, np.nan], [1, 2], 10, "finite"),
    ([1, 2], [1, 2], 0, "samples must be"),
  ],
)
def test_wrong_input(first, second, samples, message):
  with pytest.raises(InputError, match=message):
    paired_difference(first, second, seed=0, samples=samples)
