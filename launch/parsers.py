"""How the text of a flag becomes a path, or the lengths of a patch."""

from __future__ import annotations

import errno
import os
from typing import Any

from absl import flags


class PathParser(flags.ArgumentParser):
  """Reads a path: `~` and `~user` become the folder that they stand for, here and nowhere else.

  Args:
    named: whether the path may stand behind NAME=.
  """

  def __init__(self, named: bool = False):
    self._named = named

  def parse(self, argument: str) -> str:
    """The path as it is used from here on.

    Raises:
      ValueError: it cannot be used, wherever it leads.
    """
    from nas3d_jax.validation import path_fault

    name, equals, path = argument.rpartition("=") if self._named else ("", "", argument)
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path:
      raise ValueError(f"no home is known of {path.partition('/')[0]}; for a folder of that name write ./{path}")
    if (fault := path_fault(expanded) or _in_the_way(expanded)) is not None:
      raise ValueError(fault)
    # As `.` it would be missing from messages.
    return f"{name}{equals}{os.getcwd() if expanded == os.curdir else expanded}"


class LengthsParser(flags.ArgumentParser):
  """Reads one length, `64`, or three along D, H and W, `40,56,40`.

  Args:
    auto: whether it may be `auto` as well.
  """

  def __init__(self, *, auto: bool = False):
    self._auto = auto
    self.syntactic_help = "a whole number, or three with commas" + ", or auto" * auto

  def parse(self, argument: Any) -> int | tuple[int, ...] | str:
    """The number, a tuple of three, or "auto".

    Raises:
      ValueError: it is neither.
    """
    if isinstance(argument, (int, tuple)) or (self._auto and argument == "auto"):
      return argument
    texts = [text.strip() for text in argument.split(",")]
    if len(texts) not in (1, 3):
      raise ValueError(f"one length or three along D,H,W are wanted, got {len(texts)}")
    try:
      lengths = tuple(map(int, texts))
    except ValueError as error:
      raise ValueError(f"{self.syntactic_help} is wanted") from error
    if (least := min(lengths)) < 1:
      raise ValueError(f"{least} is not a positive integer")
    return lengths if len(lengths) == 3 else lengths[0]

  def flag_type(self) -> str:
    """For the help."""
    return "length or lengths"


class LengthsSerializer(flags.ArgumentSerializer):
  """The inverse of `LengthsParser`."""

  def serialize(self, value: Any) -> str:
    """As it is given."""
    from nas3d_jax.validation import spelled_size

    return value if isinstance(value, str) else spelled_size(value)


def _in_the_way(path: str) -> str | None:
  """Why nothing can be at a path as the disk is now, neither read nor written, with the remedy; None if it can."""
  try:
    os.stat(path)
  except (FileNotFoundError, NotADirectoryError):
    above = os.path.abspath(path)
    while not os.path.lexists(above):
      above = os.path.dirname(above)
    if not os.path.exists(above):
      return f"{above} is a link to nowhere; make what it leads to, or give another path"
    if above != os.path.abspath(path) and not os.path.isdir(above):
      return f"{above} is a file, in which nothing can be; give another path"
  except OSError as error:
    if error.errno == errno.ELOOP:
      return "its links lead in a circle; give another path"
  return None
