"""Deals labelled cases into folds, stratified by grade."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.validation import check_whole


def assign_folds(
  grades: Sequence[str | None], labelled: Sequence[bool], folds: int, seed: int
) -> tuple[int | None, ...]:
  """Gives each labelled case a fold of the cross-validation.

  The cases of each grade are shuffled, laid end to end, and dealt one by one, so that two folds
  differ by at most one case in each grade and by at most one case in all.

  Args:
    grades: grade of each case; None, unknown, counts as a grade.
    labelled: whether each case has a segmentation.
    folds: number of folds, at least 2; 1 for a single labelled case.
    seed: seed of the shuffle, at least 0.

  Returns:
    The fold of each case, from 0; None for those without labels.

  Raises:
    InputError: there are fewer labelled cases than folds.
  """
  check_folds(sum(labelled), folds)
  rng = np.random.default_rng(seed)
  line: list[int] = []
  for grade in sorted(set(grades), key=str):
    line += rng.permutation(
      [i for i, g in enumerate(grades) if g == grade and labelled[i]]
    ).astype(int).tolist()
  places = {case: place for place, case in enumerate(line)}
  return tuple(places[i] % folds if i in places else None for i in range(len(grades)))


def check_folds(labelled: int, folds: int) -> None:
  """Raises InputError unless so many labelled cases can be dealt into so many folds: one for a single case alone."""
  if labelled == 1 and folds == 1 and folds is not True:
    return
  check_whole("folds", folds, 2)
  if labelled < folds:
    remedy = f"use --folds={labelled}" if labelled > 1 else "add cases with a segmentation"
    remedy += ", or use --folds=1, which is enough for train --fold=all" if labelled == 1 else ""
    raise InputError(
      f"folds must be at most the number of cases with a segmentation ({labelled}), got {folds}; "
      f"{remedy}"
    )
