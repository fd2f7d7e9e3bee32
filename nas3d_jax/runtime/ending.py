"""Ends a process at once, whatever its threads still wait for.

At its end Python waits for every thread. Those of a library whose work has failed may wait minutes for one another, and
print what came of it below the message that the user is to read.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn


def end(code: int) -> NoReturn:
  """Ends this process now; what was printed is flushed, threads are not waited for.

  Args:
    code: its exit code.
  """
  for stream in (sys.stdout, sys.stderr):
    # A reader that closed its pipe has what it wanted.
    with contextlib.suppress(OSError, ValueError):
      if stream is not None:
        stream.flush()
  os._exit(code)
