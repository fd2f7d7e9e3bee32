"""What the library raises for a wrong input."""


class InputError(ValueError):
  """A wrong input: the message names the argument, its value and the remedy.

  A subclass of ValueError, so that callers need not know it; the commands print its message without a traceback.
  """


class DamagedCheckpoint(InputError):
  """A checkpoint that cannot be read, or does not hold what was saved."""


class Unreadable(InputError):
  """A file that the system does not let us read; it may be sound."""
