"""Gain over random networks and agreement of rankings: by hand, against SciPy, and where the truth is known."""

import numpy as np
import pytest
from scipy import stats

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.control import gain_over_random, rank_agreement


def test_gain_by_hand():
  found = gain_over_random([[0.9, 0.7], [0.9, 0.7]], [[0.6, 0.4], [0.6, 0.4]], seed=0, samples=2000)
  assert found.value == pytest.approx(100 * (0.8 - 0.5) / 0.5)
  # Genotypes of one group are alike, so the cases alone scatter: both the first, one each, or both the second.
  assert found.low == pytest.approx(100 * (0.9 / 0.6 - 1))
  assert found.high == pytest.approx(100 * (0.7 / 0.4 - 1))


def test_few_genotypes_widen_the_interval():
  """Two genotypes and one score each: a resample's mean is 0.5 or 0.9 instead of 0.7, times sqrt(2) off it."""
  found = gain_over_random([[0.5, 0.5], [0.9, 0.9]], [[0.5, 0.5], [0.5, 0.5]], seed=0, samples=2000)
  assert found.value == pytest.approx(40)
  assert (found.low, found.high) == pytest.approx((40 - 40 * 2**0.5, 40 + 40 * 2**0.5))


def test_the_pairing_of_cases_narrows_the_interval():
  random = np.random.default_rng(0)
  hard = random.uniform(0.2, 0.9, 30)
  searched, others = hard + 0.02 + random.normal(0, 0.002, (3, 30)), hard + random.normal(0, 0.002, (5, 30))
  paired = gain_over_random(searched, others, seed=1)
  assert 0 < paired.low < paired.value < paired.high
  apart = gain_over_random(searched[:, random.permutation(30)], others, seed=1)
  assert apart.high - apart.low > 5 * (paired.high - paired.low)


@pytest.mark.parametrize(("genotypes", "cases"), [((3, 5), 20), ((2, 5), 20), ((8, 8), 20), ((3, 3), 6)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(genotypes, cases):
  """Genotypes of one distribution, whose trainings are averaged; the plain percentiles hold it 81% and 77% of times."""
  random, inside = np.random.default_rng(2), 0
  for trial in range(300):
    hard = random.normal(0.6, 0.05, (1, 1, cases))
    groups = [
      (hard + random.normal(0, 0.02, (size, 1, 1)) + random.normal(0, 0.02, (size, 3, cases))).mean(1)
      for size in genotypes
    ]
    found = gain_over_random(*groups, seed=trial, samples=500)
    inside += found.low <= 0 <= found.high
  assert 0.91 <= inside / 300 <= 0.99


def test_rankings_against_scipy():
  one, other = [0.1, 0.4, 0.3, 0.9, 0.7], [1, 3, 2, 4, 5]
  found = rank_agreement(one, other, seed=0, samples=200)
  assert found["kendall"].value == pytest.approx(stats.kendalltau(one, other).statistic)
  assert found["spearman"].value == pytest.approx(0.9)  # 1 - 6 (1 + 1) / (5 * 24)
  assert found["kendall"].low < found["kendall"].value <= found["kendall"].high
  assert rank_agreement(one, one, seed=0, samples=50)["spearman"].value == pytest.approx(1)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: gain_over_random([[1, 2]], [[1]], seed=0), "must be of the same cases, got 2 and 1"),
    (lambda: gain_over_random([1, 2], [[1, 2]], seed=0), r"searched must be finite scores \[genotypes, cases\]"),
    (lambda: gain_over_random([[1]], [[np.nan]], seed=0), "random must be finite scores"),
    (lambda: gain_over_random([[1]], [[0]], seed=0), "random must not be 0 on average"),
    (lambda: gain_over_random([[1]], [[1]], seed=0, samples=0), "samples must be a whole number of at least 1, got 0"),
    (lambda: rank_agreement([1, 2], [1, 2], seed=0), "at least 3"),
    (lambda: rank_agreement([1, 2, 3], [1, 2], seed=0), "at least 3"),
  ],
)
def test_wrong_input(call, message):
  with pytest.raises(InputError, match=message):
    call()


@pytest.mark.parametrize(
  ("searched", "random"), [([[0.6], [0.7]], [[0.5], [0.5]]), ([[0.6, 0.7]], [[0.5, 0.4], [0.6, 0.5]])]
)
def test_one_case_or_one_genotype_has_no_interval(searched, random):
  found = gain_over_random(searched, random, seed=0)
  assert (found.low, found.high) == (None, None)
  assert found.value == pytest.approx(100 * (np.mean(searched) / np.mean(random) - 1))
