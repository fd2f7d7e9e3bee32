"""The verdict on a search: a genotype counts once, however often it is trained."""

import re

import numpy as np
import pytest

from nas3d_jax.evaluation.control import gain_over_random
from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.report.control_contents import ControlRun, gain, verdict
from nas3d_jax.report.control_figures import cost_figure
from nas3d_jax.schema.builtin import BRATS2019

_CASES = ("A", "B", "C")


def trained(group, number, seed, dice):
  cases = {
    case: {name: {"dice": value} for name in BRATS2019.region_names} for case, value in zip(_CASES, dice, strict=True)
  }
  return ControlRun(group, number, seed, None, Scores(BRATS2019, cases, {}))


def runs(searched, random, seeds=2):
  """Trainings that differ by 0.02 a seed, on cases that differ by 0.01."""
  groups = {"searched": searched, "random": random}
  return [
    trained(group, number, seed, base + 0.02 * seed + np.arange(3) / 100)
    for group, bases in groups.items()
    for number, base in enumerate(bases)
    for seed in range(seeds)
  ]


def test_trainings_of_a_genotype_are_averaged():
  found = gain(runs([0.6, 0.7], [0.5, 0.52, 0.54]), 0)
  cases = np.arange(3) / 100 + 0.01
  rows = [[base + cases for base in bases] for bases in ([0.6, 0.7], [0.5, 0.52, 0.54])]
  assert found.value == pytest.approx(100 * (0.67 - 0.54) / 0.54)  # 0.65 and 0.52, 0.02 above them by seed and case
  expected = gain_over_random(*rows, seed=0)
  assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
  ("searched", "random", "start"),
  [
    # Means 0.84 and 0.54: seeds add 0.02, cases 0.01.
    ([0.8, 0.81, 0.82], [0.5, 0.51, 0.52], r"The search beats random genotypes: \+55\.56% mean Dice of 3 searched"),
    ([0.5, 0.51, 0.52], [0.8, 0.81, 0.82], "The search is worse than random genotypes of the same space: -35.71%"),
    ([0.5, 0.6, 0.55], [0.5, 0.6, 0.55], r"The search does not beat random genotypes of the same space: \+0\.00%"),
    ([0.9], [0.5, 0.51, 0.52], r"Whether .* cannot be said with fewer than two genotypes .*: \+72\.22%"),
  ],
)
def test_the_verdict(searched, random, start):
  assert re.match(start, verdict(runs(searched, random, seeds=3), 0))


def test_score_against_cost_has_a_point_a_network():
  found = [*runs([0.6, 0.7], [0.5]), *(run._replace(group="cost_10") for run in runs([0.4], []))]
  flops = {("searched", 0): 3e9, ("searched", 1): 4e9, ("random", 0): 2e9, ("cost_10", 0): 1e9}
  axes = cost_figure(found, flops).axes[0]
  points = {line.get_label(): [*zip(line.get_xdata(), line.get_ydata(), strict=True)] for line in axes.lines}
  # Seeds add 0.02 and cases 0.01, that is 0.02 on average.
  assert points == {
    "searched genotypes": [(3, pytest.approx(0.62)), (4, pytest.approx(0.72))],
    "searched, cost_weight=10": [(1, pytest.approx(0.42))],
    "random genotypes": [(2, pytest.approx(0.52))],
  }


def test_without_random_genotypes_there_is_no_verdict():
  assert verdict(runs([0.6], []), 0) is None
