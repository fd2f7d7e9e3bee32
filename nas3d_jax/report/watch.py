"""The report's figures of search and training, while these are under way; it reads, and takes no lock of theirs."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nas3d_jax.errors import InputError
from nas3d_jax.files.atomic import write_whole, writing
from nas3d_jax.files.locks import locked
from nas3d_jax.files.run_layout import (
  CONFIG,
  FIGURES,
  GENOTYPE,
  METRICS,
  NESTED,
  PAGE,
  SEARCH,
  SEEDS,
  TABLES,
  TRAIN_FOLDERS,
  WATCH,
)
from nas3d_jax.report import sections
from nas3d_jax.report.context import Context
from nas3d_jax.report.gallery import Gallery, check_out
from nas3d_jax.report.page import Page
from nas3d_jax.report.run_contents import Histories, History
from nas3d_jax.runtime.program import PROGRAM
from nas3d_jax.validation import is_number

MOST_SECONDS = 86400
_LEAD = "Search and trainings as far as they are. The page reads itself again."

State = dict[str, tuple[int, int]]
"""Time and length of each file that the figures are drawn from, by path."""


def watch(workdir: str | Path, out: str | Path | None = None, *, every: float = 30.0, once: bool = False) -> Path:
  """Draws what a run directory holds of searches and trainings, again whenever one of them has come further.

  The page, `index.html`, reads itself again in the browser. Figures lie beside it as in the report. Each refresh says
  on stderr how far everything is. It ends when it is stopped.

  Args:
    workdir: the run directory; it may be empty yet.
    out: the folder to write to; None means `watch/` in the run directory.
    every: seconds between two looks, above 0 and at most a day.
    once: draw what is there now, and return.

  Returns:
    The page, with `once`.

  Raises:
    InputError: the run directory is not there, `out` holds something else, is written to by another process or cannot
      be written to; with `once`, also that no search or training has begun, or that a file is damaged.
  """
  if not (is_number(every) and 0 < every <= MOST_SECONDS):
    raise InputError(f"every must be a number of seconds above 0 and at most {MOST_SECONDS}, got {every!r:.100}")
  workdir = Path(workdir)
  if not workdir.is_dir():
    raise InputError(f"workdir must be a run directory, got {str(workdir)!r}; is it mistyped?")
  out = workdir / WATCH if out is None else Path(out)
  check_out(out)
  return _watch(workdir, out, every, once)


def _watch(workdir: Path, out: Path, every: float, once: bool) -> Path:
  nothing = f"no search or training has begun in {workdir}"
  waiting = False
  while not _state(workdir):
    if once:
      raise InputError(f"{nothing}; start one, as by {PROGRAM} search --workdir={workdir}")
    if not waiting:
      _say(f"{nothing}; waiting for one")
    waiting = True
    time.sleep(every)
  drawn: State | None = None
  with locked(out), writing(out):
    while True:
      state = _state(workdir)
      if state != drawn:
        drawn = state
        try:
          found = Histories.of(workdir)
        except InputError as error:
          # A run that is started anew is half there for a moment. It is looked at again when its files change.
          if once:
            raise
          _say(f"not drawn: {error}")
        else:
          page = _draw(found, out, every)
          _say("; ".join(progress(found)) or nothing, *([] if once else [page]))
          if once:
            return page
      time.sleep(every)


def _draw(found: Histories, out: Path, every: float) -> Path:
  page = Page(f"Watching {Path(os.path.abspath(found.workdir)).name}", _LEAD, refresh=max(1, math.ceil(every)))
  page.section("Progress")
  page.code("\n".join([*progress(found), time.strftime("drawn %Y-%m-%d %H:%M:%S")]))
  gallery = Gallery(out / FIGURES)
  context = Context(found, page, gallery, out / TABLES, 0, lambda: None)
  sections.search(context)
  sections.training(context)
  gallery.close()
  write_whole(out / PAGE, page.to_html())
  return out / PAGE


def progress(found: Histories) -> list[str]:
  """How far each search and training is, a line each."""
  runs: dict[str, History | None] = {"search": found.search}
  runs |= {f"search of seed {seed}": history for seed, history in found.seeds.items()}
  runs |= {f"search without fold {fold}": history for fold, history in found.nested.items()}
  runs |= {f"{TRAIN_FOLDERS[network]}/{fold}": history for (network, fold), history in found.trainings.items()}
  return [f"{name}: {_stand(history)}" for name, history in runs.items() if history]


def _stand(history: History) -> str:
  epochs, most = len(history.records), history.settings["epochs"]
  over = history.genotype is not None or epochs >= most
  said = f"epoch {epochs} of {most}{', over' * over}"
  if not epochs:
    return said
  last = history.records[-1]
  losses = {name: last.get(name) for name in ("hybrid_loss", "kernel_loss", "loss", "validation_loss")}
  shown = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in losses.items() if value is not None]
  return ", ".join([said, *shown])


def _state(workdir: Path) -> State:
  found = {}
  for folder in _folders(workdir):
    for path in (folder / CONFIG, folder / METRICS, folder / GENOTYPE):
      try:
        seen = path.stat()
      except OSError:
        continue  # not there yet; what cannot be read is said when it is drawn
      found[str(path)] = seen.st_mtime_ns, seen.st_size
  return found


def _folders(workdir: Path) -> Iterator[Path]:
  """Where searches and trainings may be."""
  yield workdir / SEARCH
  for parent in (SEEDS, NESTED):
    yield from (workdir / parent).glob(f"*/{SEARCH}")
  for parent in TRAIN_FOLDERS.values():
    yield from (workdir / parent).glob("*")


def _say(*words: object) -> None:
  print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)
