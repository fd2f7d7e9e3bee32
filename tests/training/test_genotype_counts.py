"""Counting genotypes: equal structures are one, the latest of equals wins."""

import json

import pytest

from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.search_space import PAPER_SPACE
from nas3d_jax.training.genotype_counts import GenotypeCounts, rows_of

UP = (("identity", 0), ("up_conv", 1))
A = Genotype(down=(("max_pool", 0), ("down_conv", 1)), up=UP)
A_TURNED = Genotype(down=(("down_conv", 1), ("max_pool", 0)), up=UP)
B = Genotype(down=(("max_pool", 0), ("avg_pool", 1)), up=UP)
C = Genotype(down=(("avg_pool", 0), ("avg_pool", 1)), up=UP)


def count(*genotypes):
  counts = GenotypeCounts()
  for genotype in genotypes:
    counts.add(genotype)
  return counts


@pytest.mark.parametrize(
  ("genotypes", "expected"),
  [
    ([A], A),
    ([A, B, A, C], A),
    ([A, B], B),
    ([A, B, B, A], A),
    ([A, A, B, B], B),
    ([B, A, A_TURNED], A),
    ([A, B, A, C, C, B], B),
  ],
)
def test_most_common_and_of_equals_the_latest(genotypes, expected):
  assert count(*genotypes).most_common() == expected


def test_order_within_a_node_makes_no_new_structure():
  counts = count(A, B, A_TURNED)
  assert (counts[A], counts[A_TURNED], counts[B], counts[C], counts.total) == (2, 2, 1, 0, 3)
  assert counts.most_common().down == A_TURNED.down, "rows in the order that was counted last"


def test_json_keeps_counts_order_and_rows():
  counts = count(C, A, B, A_TURNED, C)
  entries = json.loads(json.dumps(counts.to_list()))
  assert [(entry["count"], entry["down"]) for entry in entries] == [
    (1, [["max_pool", 0], ["avg_pool", 1]]),
    (2, [["down_conv", 1], ["max_pool", 0]]),
    (2, [["avg_pool", 0], ["avg_pool", 1]]),
  ]
  again = GenotypeCounts.from_list(entries, PAPER_SPACE)
  assert again.to_list() == counts.to_list()
  again.add(A)
  assert (again[A], again[C], again.most_common()) == (3, 2, A)


def test_rows_make_the_genotype_again():
  rows = json.loads(json.dumps(rows_of(A_TURNED)))
  assert rows == {
    "down": [["down_conv", 1], ["max_pool", 0]], "up": [["identity", 0], ["up_conv", 1]]
  }
  assert Genotype(**rows).down == A_TURNED.down
