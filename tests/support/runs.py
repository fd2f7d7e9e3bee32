"""Looking into run directories, and stopping runs; what the tests of search and training share."""

import json
import signal

import numpy as np
import orbax.checkpoint as ocp

from nas3d_jax.checkpointing.checkpoints import open_run
from nas3d_jax.runtime.stopping import Stop

TIMES = ("seconds", "patches_per_second")


def history(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(folder):
  return [{name: value for name, value in record.items() if name not in TIMES} for record in history(folder)]


def steps_kept(folder):
  """Steps of the finished checkpoints."""
  return {int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()}


def arrays(step_folder):
  """Every array of a checkpoint by its path, with Orbax alone."""
  found = {}

  def walk(tree, path):
    for name, value in tree.items():
      if isinstance(value, dict):
        walk(value, f"{path}/{name}")
      else:
        found[f"{path}/{name}"] = np.asarray(value)

  for item in ("params", "training"):
    walk(ocp.PyTreeCheckpointer().restore(step_folder.absolute() / item), item)
  return found


def said(step_folder, item="metadata"):
  """A JSON item of a checkpoint, with Orbax alone."""
  return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(step_folder.absolute() / item)


def assert_same_end(folder, other):
  """The same history, times aside, the same best, and the same bits of all that the last checkpoint holds."""
  assert without_times(folder) == without_times(other)
  assert open_run(folder).name == open_run(other).name
  assert_same_state(folder, other)


def assert_same_state(folder, other):
  """The same bits of all that the last checkpoint holds."""
  last, others = (run / "checkpoints" / str(max(steps_kept(run))) for run in (folder, other))
  assert said(last)["progress"] == said(others)["progress"]
  assert said(last, "input") == said(others, "input")
  got, expected = arrays(last), arrays(others)
  assert got.keys() == expected.keys()
  for name, array in got.items():
    np.testing.assert_array_equal(array, expected[name], err_msg=name)


class StopAt(Stop):
  """Asks to stop at the check of this number, from 0, as SIGTERM does."""

  def __init__(self, number):
    super().__init__()
    self._left = number

  def requested(self):
    self._left -= 1
    return signal.SIGTERM if self._left < 0 else None


def interrupt(monkeypatch, module, make, *, after):
  """Makes the steps that `module.make` gives raise KeyboardInterrupt after so many calls."""
  original = getattr(module, make)

  def make_step(*arguments, **options):
    step, calls = original(*arguments, **options), []

    def limited(*arguments):
      if len(calls) == after:
        raise KeyboardInterrupt
      calls.append(None)
      return step(*arguments)

    return limited

  monkeypatch.setattr(module, make, make_step)


def damage(step_folder):
  """Flips a bit in the middle of each file that may hold parameters of a checkpoint."""
  for path in (step_folder / "params").glob("**/d/*"):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
