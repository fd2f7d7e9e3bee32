"""Labels of one schema as another's: by hand for the built-in ones, and what cannot be matched."""

import dataclasses

import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.schema.builtin import BRATS2019, BRATS2023, BRATS2024, DECATHLON
from nas3d_jax.schema.schema import Region
from nas3d_jax.schema.translation import translate, translation


@pytest.mark.parametrize(
  ("source", "target", "table"),
  [
    (BRATS2019, BRATS2023, {0: 0, 1: 1, 2: 2, 4: 3}),
    (BRATS2023, BRATS2019, {0: 0, 1: 1, 2: 2, 3: 4}),
    (BRATS2019, DECATHLON, {0: 0, 1: 2, 2: 1, 4: 3}),
    (DECATHLON, BRATS2023, {0: 0, 1: 2, 2: 1, 3: 3}),
    (BRATS2024, BRATS2024, {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}),
  ],
)
def test_labels_of_the_same_regions(source, target, table):
  assert translation(source, target) == table
  got = translate(np.asarray([list(table)], np.int16), source, target)
  assert got.dtype == np.uint8
  assert got.tolist() == [list(table.values())]


def test_order_of_the_regions_does_not_matter():
  other = dataclasses.replace(BRATS2023, regions=(BRATS2023.regions[0], BRATS2023.regions[1], BRATS2023.regions[2]))
  turned = dataclasses.replace(BRATS2024, regions=(BRATS2024.regions[3], *BRATS2024.regions[:3]))
  assert translation(BRATS2019, other)[4] == 3
  assert translation(turned, BRATS2024) == {value: value for value in range(5)}


@pytest.mark.parametrize(
  ("source", "target", "message"),
  [
    (BRATS2019, BRATS2024, r"'brats2019' \(WT, TC, ET\) and 'brats2024' .* but 'brats2019' lacks RC; give --schema"),
    (BRATS2024, BRATS2019, "but 'brats2019' lacks RC"),
  ],
)
def test_a_region_that_one_side_lacks(source, target, message):
  with pytest.raises(InputError, match=message):
    translation(source, target)


def test_regions_that_lie_otherwise():
  # Of the same names, but apart from each other: no label of theirs is both WT and TC.
  apart = dataclasses.replace(
    BRATS2023, name="apart", regions=(Region("WT", (2,), 2), Region("TC", (1,), 1), Region("ET", (3,), 3))
  )
  with pytest.raises(InputError, match="label 1 of schema 'brats2019' lies in TC, WT, for which schema 'apart' has no"):
    translation(BRATS2019, apart)
