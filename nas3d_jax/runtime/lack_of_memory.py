"""Tells that memory is used up from other errors, whoever raised them."""

from __future__ import annotations


def is_lack_of_memory(error: BaseException) -> bool:
  """Whether an error says that memory is used up, or the addresses that a process may have.

  Python and NumPy say so by a MemoryError, XLA by an error of its own, and the system where it cannot load a library.
  """
  if isinstance(error, ImportError):
    return any(words in str(error) for words in ("failed to map segment", "cannot allocate memory", "Cannot allocate"))
  # By its name: a stage without JAX does not import it for this.
  return isinstance(error, MemoryError) or (
    type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)
  )
