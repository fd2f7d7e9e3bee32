"""The memory of this machine, and what is too large for it."""

from __future__ import annotations

import os

from nas3d_jax.errors import InputError


def machine_memory() -> int | None:
  """Bytes of memory of this machine; None where the system does not tell."""
  try:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, OSError, ValueError):
    return None


def check_fits(size: int, what: str, remedy: str, memory: int | None = None) -> None:
  """Raises InputError where so many bytes do not fit.

  Args:
    size: bytes that are needed at the least.
    what: the settings that need them, with their values.
    remedy: what to do instead.
    memory: bytes of the device; None means those of this machine.
  """
  memory = memory or machine_memory()
  if memory is not None and size > memory:
    raise InputError(
      f"{what} needs at least {size / 2**30:.1f} GiB of memory, and there are {memory / 2**30:.1f} GiB; {remedy}"
    )
