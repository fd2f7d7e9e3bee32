"""Numbers of the configurations: what is refused, by name and value."""

import math
import numbers

import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.validation import check_whole, is_number, is_whole


@pytest.mark.parametrize("make", [SearchConfig, TrainConfig])
@pytest.mark.parametrize(
  ("field", "value", "wanted"),
  [
    ("epochs", 0, "a whole number of at least 1"),
    ("epochs", 1.5, "a whole number of at least 1"),
    ("epochs", True, "a whole number of at least 1"),
    ("batch_size", 0, "a whole number of at least 1"),
    ("checkpoint_minutes", 0.0, "a number above 0"),
    ("checkpoint_minutes", math.nan, "a number above 0"),
    ("seed", -1, "a whole number of at least 0"),
    ("seed", 0.0, "a whole number of at least 0"),
    ("dropout", 1, "a number of at least 0 and below 1"),
    ("dropout", -0.1, "a number of at least 0 and below 1"),
    ("dropout", math.nan, "a number of at least 0 and below 1"),
    ("dropout", "0.5", "a number of at least 0 and below 1"),
  ],
)
def test_a_field_out_of_range(make, field, value, wanted):
  with pytest.raises(InputError) as error:
    make("run", **{field: value})
  assert str(error.value) == f"{field} must be {wanted}, got {value!r}"


@pytest.mark.parametrize(
  ("make", "field", "value"),
  [
    (SearchConfig, "min_count", 0),
    (SearchConfig, "hybrid_learning_rate", 0),
    (SearchConfig, "kernel_learning_rate", math.inf),
    (TrainConfig, "learning_rate", -1e-3),
    (TrainConfig, "learning_rate", "1e-3"),
    (TrainConfig, "fold", "0"),
    (TrainConfig, "fold", True),
  ],
)
def test_a_field_of_one_command_out_of_range(make, field, value):
  with pytest.raises(InputError, match=f"^{field} must be .*, got {value!r}$"):
    make("run", **{field: value})


def test_defaults_are_the_papers():
  search, train = SearchConfig("run"), TrainConfig("run")
  assert (search.patch_size, search.epochs, search.min_count, search.batch_size) == (64, 100, 40, 1)
  assert (search.dropout, train.dropout) == (0.1, 0.5)
  assert (train.patch_size, train.epochs, train.batch_size) == (128, 200, 1)
  assert (search.hybrid_learning_rate, search.kernel_learning_rate, train.learning_rate) == (1e-3, 1e-3, 1e-3)
  assert TrainConfig("run", fold="all").fold == "all"


@pytest.mark.parametrize(
  ("value", "whole", "number"),
  [
    (0, True, True),
    (-3, True, True),
    (10**400, True, False),
    (1.0, False, True),
    (math.inf, False, False),
    (math.nan, False, False),
    (True, False, False),
    ("1", False, False),
    (None, False, False),
    (np.int64(1), False, False),
  ],
)
def test_whole_numbers_and_numbers(value, whole, number):
  assert is_whole(value) is whole
  assert is_number(value) is number


def test_a_whole_number_below_the_least():
  check_whole("folds", 2, 2)
  check_whole("patch", np.int64(2), 1, numbers.Integral)
  with pytest.raises(InputError, match=r"^folds must be a whole number of at least 2, got 1$"):
    check_whole("folds", 1, 2)
  with pytest.raises(InputError, match=r"^patch must be a whole number of at least 1, got True$"):
    check_whole("patch", True, 1, numbers.Integral)
