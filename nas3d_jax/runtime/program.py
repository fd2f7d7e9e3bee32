"""How a user calls the commands: `nas3d STAGE` where the package is installed, `python -m launch STAGE` in a clone."""

from __future__ import annotations

import importlib.util

_CLONE, _INSTALLED = "python -m launch", "nas3d"

# `launch/` becomes a part of the package when it is installed.
PROGRAM = _INSTALLED if importlib.util.find_spec("nas3d_jax.launch") else _CLONE
"""What stands before the name of a stage."""


def as_typed(text: str) -> str:
  """A text that names commands as in a clone, with the commands as they are typed here."""
  return text.replace(_CLONE, PROGRAM)
