"""The one exception that the library raises for a wrong input."""


class InputError(ValueError):
  """A wrong input: the message names the argument, its value and the remedy.

  A subclass of ValueError, so that callers need not know it; the commands print its message without a traceback.
  """
