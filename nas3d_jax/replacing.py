"""Writing the checkpoint of a step again: the former one stands aside until the new one is whole. No JAX here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def set_aside(folder: Path, step: int) -> None:
  """Renames the checkpoint of a step in a folder of checkpoints, so that the step can be saved again."""
  os.replace(folder / str(step), folder / f".{step}.former")


def settle(folder: Path) -> None:
  """Removes what was set aside, or puts it back where no new one came of it; not while one is being written."""
  for former in folder.glob(".*.former"):
    step = folder / former.name.split(".")[1]
    if step.exists():
      shutil.rmtree(former, ignore_errors=True)
    else:
      os.replace(former, step)
