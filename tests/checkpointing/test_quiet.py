"""What is kept from the terminal, and what is not."""

import logging
import sys
import types

from absl import logging as absl_logging

from nas3d_jax.checkpointing.quiet import quiet, settle


def say(path):
  logger = absl_logging.get_absl_logger()
  logger.handle(logger.makeRecord("absl", logging.ERROR, path, 1, path, (), None))


def unraisable(error):
  sys.unraisablehook(types.SimpleNamespace(exc_value=error, exc_type=type(error), exc_traceback=None))


def test_the_library_is_kept_quiet_and_others_are_not(caplog, monkeypatch):
  seen = []
  monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(str(args.exc_value)))
  before = sys.unraisablehook
  with quiet("orbax"):
    say("lib/orbax/save.py")
    say("lib/other/save.py")
    logging.getLogger("asyncio").error("Future exception was never retrieved")
    logging.getLogger("asyncio").error("something else")
    unraisable(RuntimeError("Event loop is closed"))
    unraisable(RuntimeError("something else"))
  say("lib/orbax/later.py")
  assert [record.getMessage() for record in caplog.records] == [
    "lib/other/save.py", "something else", "lib/orbax/later.py"
  ]
  assert seen == ["something else"]
  assert sys.unraisablehook is before


def test_threads_that_are_later_than_the_failed_read_stay_quiet(monkeypatch):
  seen = []
  monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(str(args.exc_value)))
  for _ in range(2):
    with quiet("orbax"), quiet("orbax"):
      settle()
    after = sys.unraisablehook
    unraisable(RuntimeError("Event loop is closed"))
    unraisable(RuntimeError("something else"))
  with quiet("orbax"):
    pass
  assert sys.unraisablehook is after
  assert seen == ["something else"] * 2
