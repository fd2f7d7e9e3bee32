"""Gain over random networks and agreement of rankings: by hand, against SciPy, and where the truth is known."""

import numpy as np
import pytest
from scipy import stats

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.control import gain_over_random, rank_agreement


def test_gain_by_hand():
  found = gain_over_random([[0.9, 0.7], [0.8, 0.8]], [[0.6, 0.4]], seed=0, samples=2000)
  assert found.value == pytest.approx(100 * (0.8 - 0.5) / 0.5)
  # The cases drawn are both the first, one each, or both the second: 0.85/0.6, 0.8/0.5, 0.75/0.4 on average, and within
  # the searched group the networks vary.
  assert found.low == pytest.approx(100 * (0.8 / 0.6 - 1))
  assert found.high == pytest.approx(100 * (0.8 / 0.4 - 1))


def test_the_pairing_of_cases_narrows_the_interval():
  random = np.random.default_rng(0)
  hard = random.uniform(0.2, 0.9, 30)
  searched, others = hard + 0.02 + random.normal(0, 0.002, (3, 30)), hard + random.normal(0, 0.002, (5, 30))
  paired = gain_over_random(searched, others, seed=1)
  assert 0 < paired.low < paired.value < paired.high
  apart = gain_over_random(searched[:, random.permutation(30)], others, seed=1)
  assert apart.high - apart.low > 5 * (paired.high - paired.low)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
  random, inside = np.random.default_rng(2), 0
  for trial in range(200):
    groups = [0.5 + random.normal(0, 0.02, (8, 1)) + random.normal(0, 0.05, (1, 20)) for _ in range(2)]
    shared = random.normal(0, 0.05, (1, 20))
    found = gain_over_random(groups[0] * 0 + 0.5 + random.normal(0, 0.02, (8, 1)) + shared,
                             0.5 + random.normal(0, 0.02, (8, 1)) + shared, seed=trial, samples=500)
    inside += found.low <= 0 <= found.high
  assert 0.86 <= inside / 200 <= 0.99  # 8 networks: a percentile bootstrap is a little narrow


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
    (lambda: gain_over_random([1, 2], [[1, 2]], seed=0), r"searched must be finite scores \[networks, cases\]"),
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


def test_one_case_has_no_interval():
  assert gain_over_random([[0.6]], [[0.5]], seed=0).low is None
