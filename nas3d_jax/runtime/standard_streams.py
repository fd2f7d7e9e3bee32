"""Stdout and stderr that outlive their reader, and replace what they cannot show.

A training of days must not end because what it prints into, `tee` or a terminal, went away, nor because a terminal
lacks a letter of a folder's name.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


def withstand() -> None:
  """Replaces stdout and stderr of this process: characters that they lack are escaped, what cannot be written is lost.

  A stream that was closed before this process began, as services and `>&-` do, takes what comes and drops it; one that
  is none of a file stays as it is.
  """
  for number in range(3):
    _occupy(number)
  sys.stdout, sys.stderr = _replaced(sys.stdout, 1), _replaced(sys.stderr, 2)


def what_was_lost() -> OSError | None:
  """Why some of what was printed to stdout is lost, though somebody reads it; None where nothing is."""
  if sys.stdout is None:
    return None
  try:
    sys.stdout.flush()
  except OSError as error:
    return error
  raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
  return raw.failed if isinstance(raw, _Lasting) else None


def _occupy(number: int) -> None:
  """Opens a standard descriptor if it is closed.

  Else the next file would get its number, and what libraries print would be written into a checkpoint.
  """
  try:
    os.fstat(number)
  except OSError:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
      os.dup2(nowhere, number)
      os.close(nowhere)
    os.set_inheritable(number, True)


def _replaced(stream: TextIO | None, number: int) -> TextIO:
  if stream is None:
    return _written_to(_Lasting(number, "wb", closefd=False), "utf-8", lines=True)
  if not isinstance(stream, io.TextIOWrapper):
    return stream
  try:
    raw = _Lasting(stream.fileno(), "wb", closefd=False)
  except OSError:  # it is none of a file
    return stream
  return _written_to(raw, stream.encoding, lines=stream.line_buffering or stream.write_through)


def _written_to(raw: _Lasting, encoding: str, *, lines: bool) -> TextIO:
  return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=lines)


class _Lasting(io.FileIO):
  """A file descriptor that takes everything, and drops it once it cannot be written to.

  Attributes:
    failed: why it cannot; None as long as it can, or where it is a pipe that nobody reads.
  """

  failed: OSError | None = None
  _gone = False

  def write(self, data: bytes) -> int | None:
    if not self._gone:
      try:
        return super().write(data)
      except OSError as error:
        self._gone, self.failed = True, None if isinstance(error, BrokenPipeError) else error
    return len(data)
