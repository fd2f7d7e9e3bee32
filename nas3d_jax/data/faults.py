"""What a wrong input says of the case that it came from. No JAX here."""

from __future__ import annotations

from nas3d_jax.data.brats import CaseError, Fault
from nas3d_jax.errors import InputError


def of_case(name: str, error: InputError) -> CaseError:
  """The error as one of a case; reason and remedy are parted where messages part them, by the last semicolon."""
  if isinstance(error, CaseError):
    return error
  reason, parted, remedy = str(error).rpartition("; ")
  return CaseError([Fault(name, reason if parted else remedy, remedy if parted else "leave the case out")])
