"""One stage of an experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from nas3d_jax.experiment.inputs import ExperimentInputs
from nas3d_jax.experiment.status import Status


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of an experiment.

  Attributes:
    name: what it is.
    status: tells how far it is.
    run: does what is left.
    seconds: tells how long that takes; None where nothing like it was measured.
  """

  name: str
  status: Callable[[], Status]
  run: Callable[[], object]
  seconds: Callable[[], float | None] = lambda: None


def with_data(inputs: ExperimentInputs, status: Callable[[], Status]) -> Callable[[], Status]:
  """Before there is a data set, nothing is done."""
  return lambda: status() if inputs.has_dataset else "to do"
