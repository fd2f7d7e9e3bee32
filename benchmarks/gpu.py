"""Figures of a GPU at the paper's sizes: `python -m benchmarks.gpu --out=FOLDER [--peer=program.py] [--only=PATTERN]`.

Compiling takes minutes, so all programs are compiled at the same time. Each is then stopped (SIGSTOP), and goes on when
it is its turn, so that one at a time has the device. Figures are lines of JSON in FOLDER/gpu.jsonl, each written as
soon as it is there; what a program printed is in FOLDER/logs. The peer is a PyTorch program that calls
`torch.cuda.synchronize` after its warm-up and prints a line of JSON, see README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.task04 import launch

# Runs a program, and stops it when it first waits for the device; compilers that it calls wait as well.
STOPPING = """
import os, runpy, signal, sys, torch
wait, calls = torch.cuda.synchronize, []
def first(*devices):
  wait(*devices)
  if not calls and sys._getframe(1).f_globals["__name__"] == "__main__":
    calls.append(os.kill(os.getpid(), signal.SIGSTOP))
torch.cuda.synchronize = first
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BEST = ("--compile", "--amp", "--channels_last", "--tf32")
IN_PLACE = "--xla_gpu_enable_dynamic_slice_fusion=true"
CASES, EPOCHS = 10, 6
EPOCH_OVER = re.compile(r"epoch \d+/\d+: .*validation loss .*patches/s")


class Job(NamedTuple):
  """A program to measure.

  Attributes:
    name: unique.
    command: its arguments.
    flags: for XLA_FLAGS.
    folder: the run directory of a command whose epochs are measured, and which is stopped after the first.
  """

  name: str
  command: Sequence[str]
  flags: str = ""
  folder: str = ""


def jobs(out: Path, peer: str | None) -> list[Job]:
  """All programs, in the order in which they are measured."""
  python, found = sys.executable, []
  for job in ("search", "train", "infer"):
    what = [f"--job={job}", f"--patch={64 if job == 'search' else 128}"]
    step = [python, "-m", "benchmarks.step", "--pause", *what]
    for precision in ("float32", "tf32", "bfloat16"):
      found.append(Job(f"{job} {precision}", [*step, f"--precision={precision}", "--profile"]))
      if job == "train":
        found.append(Job(f"{job} {precision}, slices in place", [*step, f"--precision={precision}"], IN_PLACE))
    if job == "search":
      found.append(Job("search float32 single_path", [*step, "--method=single_path", "--profile"]))
    if peer:
      program = [python, "-c", STOPPING, peer, *what]
      found.append(Job(f"{job} peer", [*program, "--warmup=2", "--steps=7"]))
      found.append(Job(f"{job} peer, its best", [*program, "--steps=15", *BEST]))
  run = ["--fold=0", f"--epochs={EPOCHS}", "--overwrite", f"--workdir={out / 'paper'}"]
  for stage, folder, flags in (
    ("search", "search", ["--patch_size=64"]),
    ("train", "train/0", ["--patch_size=128", f"--genotype={out / 'genotype.json'}"]),
  ):
    found.append(Job(f"{stage} epochs", [python, "-m", "launch", stage, *flags, *run], folder=folder))
  return found


class Program:
  """A job that runs: its process, and the lines that it has printed.

  Attributes:
    job: what it measures.
    lines: (seconds of the clock, line) of stdout and stderr.
    state: "compiling", "ready", "measuring", "ended".
  """

  def __init__(self, job: Job, log: Path):
    self.job, self.lines, self.state = job, [], "compiling"
    env = os.environ | ({"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {job.flags}".strip()} if job.flags else {})
    self._process = subprocess.Popen(
      job.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
    )
    self._log, self.code = log, None
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self) -> None:
    with self._log.open("w") as log:
      for line in self._process.stdout:
        self.lines.append((time.monotonic(), line.rstrip()))
        log.write(line)
        log.flush()
        if self.job.folder and self.state == "compiling" and EPOCH_OVER.match(line):
          os.kill(self._process.pid, signal.SIGSTOP)

  def look(self) -> str:
    """Its state now."""
    if self.code is not None:
      return self.state
    pid, status = os.waitpid(self._process.pid, os.WNOHANG | os.WUNTRACED)
    if pid and os.WIFSTOPPED(status):
      self.state = "ready"
    elif pid:
      self.state, self.code = "ended", os.waitstatus_to_exitcode(status)
      self._reader.join(5)
    return self.state

  def go_on(self, limit: float) -> None:
    """Lets it measure, `limit` seconds at most."""
    self.state, end = "measuring", time.monotonic() + limit
    os.kill(self._process.pid, signal.SIGCONT)
    while self.look() != "ended" and time.monotonic() < end:
      time.sleep(0.05)
    self.kill()
    self.state = "measured"

  def kill(self) -> None:
    """Ends it, if it runs."""
    if self.code is None:
      os.killpg(self._process.pid, signal.SIGKILL)
      self.code, self.state = os.waitstatus_to_exitcode(os.waitpid(self._process.pid, 0)[1]), "ended"
      self._reader.join(5)

  def figures(self, out: Path) -> dict[str, Any]:
    """What it measured alone, or how it ended."""
    if self.code:
      return {"failed": self.code, "said": [line for _, line in self.lines[-3:]]}
    if self.state != "measured":
      return {"failed": "it was not stopped when it was ready, and so not measured alone"}
    if self.job.folder:
      return _epochs(self.lines, out / "paper" / self.job.folder)
    found = [line for _, line in self.lines if line.startswith("{")]
    return json.loads(found[-1]) if found else {"failed": "it printed no line of JSON"}


def _epochs(lines: Sequence[tuple[float, str]], run: Path) -> dict[str, Any]:
  """Medians: seconds of an epoch, with validation and checkpoint, ms of a step. In the first it compiled."""
  ends = [clock for clock, line in lines if EPOCH_OVER.match(line)]
  records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
  steps = records[0]["step"]
  return {
    "steps": steps,
    "epoch_s": round(statistics.median(after - before for before, after in itertools.pairwise(ends[1:])), 3),
    "step_ms": round(statistics.median(1000 * record["seconds"] / steps for record in records[2:]), 3),
    "first_epoch_s": records[0]["seconds"],
  }


def prepare(out: Path) -> None:
  """Made-up cases of 240x240x155, as a data set, and the genotype to train."""
  from benchmarks.step import DERIVED

  (out / "genotype.json").write_text(DERIVED.to_json())
  launch("phantom", f"--out={out / 'phantoms'}", f"--cases={CASES}")
  launch("preprocess", f"--data_dir={out / 'phantoms'}", f"--workdir={out / 'paper'}", "--folds=5")


def watched(program: Program, limit: float) -> dict[str, Any]:
  """Lets a program measure; returns, of its epochs, the median of how busy the device was, in percent, and its MiB."""
  ask = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--loop-ms=200"]
  with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) as smi:
    program.go_on(limit)
    smi.terminate()
    numbers = [re.findall(r"\d+", line) for line in smi.stdout]
  samples = [(int(both[0]), int(both[1])) for both in numbers if len(both) == 2]
  # A step is over in seconds, most of which go into starting and summing up.
  if not samples or not program.job.folder:
    return {}
  return {"device_busy": statistics.median(busy for busy, _ in samples), "device_mib": max(used for _, used in samples)}


def main() -> None:
  """Checks the flags, and measures."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument("--out", type=Path, required=True)
  flags.add_argument("--peer", help="the PyTorch program")
  flags.add_argument("--only", default="", help="jobs whose name matches this pattern")
  flags.add_argument("--compile_limit", type=float, default=300, help="seconds until what is not ready is left out")
  flags.add_argument("--limit", type=float, default=40, help="seconds that one may measure")
  arguments = flags.parse_args()
  if shutil.which("nvidia-smi") is None:
    flags.error("it measures an NVIDIA GPU, and there is no nvidia-smi here")
  if arguments.peer and not Path(arguments.peer).is_file():
    flags.error(f"--peer must be a file, got {arguments.peer}")
  out = arguments.out.resolve()
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    flags.error(f"--out must be a new folder, in which nothing is compiled yet, got {out}")
  (out / "logs").mkdir(parents=True, exist_ok=True)
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(out / "cache"))
  os.environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
  # Programs that are stopped hear of no Ctrl-C, and would stay with their memory.
  signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
  programs: list[Program] = []
  try:
    measure([job for job in jobs(out, arguments.peer) if re.search(arguments.only, job.name)], programs, out, arguments)
  finally:
    for program in programs:
      program.kill()


def measure(chosen: Sequence[Job], programs: list[Program], out: Path, arguments: argparse.Namespace) -> None:
  """Starts the programs, adds each to `programs`, and lets one after the other measure."""
  start = time.monotonic()
  programs += [_start(job, out) for job in chosen if not job.folder]
  if any(job.folder for job in chosen):
    prepare(out)
    programs += [_start(job, out) for job in chosen if job.folder]
  end = start + arguments.compile_limit
  while [program for program in programs if program.look() == "compiling"] and time.monotonic() < end:
    time.sleep(0.2)
  states = {program.job.name: program.state for program in programs}
  print(f"after {time.monotonic() - start:.0f} s: {states}", flush=True)
  for program in programs:
    if program.state == "compiling":
      program.kill()
  for program in programs:
    extra = watched(program, arguments.limit) if program.state == "ready" else {}
    figures = {"name": program.job.name, **program.figures(out), **extra}
    with (out / "gpu.jsonl").open("a") as file:
      print(json.dumps(figures), file=file)
    print({name: value for name, value in figures.items() if name not in ("program", "profile")}, flush=True)


def _start(job: Job, out: Path) -> Program:
  return Program(job, out / "logs" / f"{re.sub('[^a-z0-9]+', '_', job.name)}.txt")


if __name__ == "__main__":
  main()
