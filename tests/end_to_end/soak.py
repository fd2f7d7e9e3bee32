"""Kills runs of every stage at random moments and runs them again, until they end as ones that were left alone.

    python tests/end_to_end/soak.py --folder=FOLDER --kills=200 --seed=0 [--runs=search,train]

Everything is imported once; each run is a fork of this process, which itself computes nothing. The last line on
stdout is a JSON object of what was seen, how many kills each kind of run had among it; the line before says it in
words. The exit code is 0 if every run ended in the same bits and no step was lost.
"""

import argparse
import collections
import contextlib
import functools
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
# Programs of a toy compile in less time than JAX deems worth keeping.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax

import nas3d_jax.training.search
import nas3d_jax.training.session
import nas3d_jax.training.train
from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.evaluation.evaluate import evaluate
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.experiment.run import experiment
from nas3d_jax.inference.config import PredictConfig
from nas3d_jax.inference.predict import predict_cases
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.report import gallery
from nas3d_jax.report.build import write_report
from nas3d_jax.runtime.stopping import StopBySignal, Stopped
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.training.search import search
from nas3d_jax.training.train import train
from tests.support.runs import assert_same_end, steps_kept
from tests.support.toy import ToyDerivedNet, ToySupernet

TOY = dict(patch_size=16, kernels=1, nodes=1, depth=2, epochs=4, checkpoint_minutes=1e-9)
SMALL = {**TOY, "patch_size": 8, "epochs": 2, "checkpoint_minutes": 0.005}
GENOTYPE = Genotype(down=(("max_pool", 0), ("down_conv", 1)), up=(("identity", 0), ("up_conv", 1)))
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
ASKING = {signal.SIGTERM, signal.SIGINT}
MOMENTS = ("any", "write", "commit", "record", "operation")
# What Python says of itself before it changes the file system.
OPERATIONS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
PATIENCE = 300


def toy_search(workdir, stop, **changes):
  nas3d_jax.training.search.Supernet = ToySupernet
  # Rates so high that the genotype changes within an epoch.
  rates = dict(hybrid_learning_rate=0.3, kernel_learning_rate=0.1)
  search(SearchConfig(workdir, **{**TOY, **rates, **changes}), stop)


def chunked(toy):
  """With several steps a call, as on an accelerator."""

  def work(workdir, stop):
    nas3d_jax.training.session.steps_per_call = lambda: 3
    toy(workdir, stop, data_placement="device", checkpoint_minutes=0.001)

  return work


def toy_train(workdir, stop, **changes):
  nas3d_jax.training.train.DerivedNet = ToyDerivedNet
  small_train(workdir, stop, learning_rate=0.1, **{**TOY, **changes})


def small_search(workdir, stop):
  search(SearchConfig(workdir, **SMALL), stop)


def small_train(workdir, stop, **changes):
  (workdir / "search").mkdir(exist_ok=True)
  (workdir / "search" / "genotype.json").write_text(GENOTYPE.to_json())
  train(TrainConfig(workdir, **{**SMALL, **changes}), stop)


def store(workdir, _, **changes):
  preprocess(workdir.parent / "data", workdir / "dataset", folds=2, **changes)


def predict(workdir, _):
  where = dict(workdir=workdir, data_dir=workdir.parent / "data", out=workdir / "predictions")
  predict_cases(PredictConfig(**where, fold=(0,)))


def score(workdir, _):
  evaluate(workdir / "predictions", workdir.parent / "data", workdir / "scores" / "searched" / "training")


def report(workdir, _):
  write_report(workdir)


def compare_networks(workdir, stop):
  sizes = dict(folds=2, kernels=1, nodes=1, depth=2, filters=2, levels=2, checkpoint_minutes=0.005)
  data, epochs = workdir.parent / "data", dict(search_epochs=2, epochs=1, search_patch_size=8, patch_size=8)
  experiment(ExperimentConfig.of(workdir=workdir, data_dir=data, **epochs, **sizes), stop)


# What is run, and the folder that it writes in its run directory.
RUNS = {
  "search": (functools.partial(toy_search, data_placement="host"), "search"),
  "search-device": (functools.partial(toy_search, data_placement="device"), "search"),
  "search-chunks": (chunked(toy_search), "search"),
  "train-chunks": (chunked(toy_train), "train/0"),
  "train": (functools.partial(toy_train, data_placement="host"), "train/0"),
  "train-device": (functools.partial(toy_train, data_placement="device"), "train/0"),
  "train-all": (functools.partial(toy_train, data_placement="host", fold="all"), "train/all"),
  "small-search": (small_search, "search"),
  "small-train": (small_train, "train/0"),
  "small-unet3d": (functools.partial(small_train, network="unet3d", filters=2, levels=2), "unet3d/0"),
  "preprocess": (store, "dataset"),
  "preprocess-again": (functools.partial(store, overwrite=True), "dataset"),
  "predict": (predict, "predictions"),
  "evaluate": (score, "scores"),
  "report": (report, "report"),
  "experiment": (compare_networks, "."),
}
# What stands in a run directory before: a name -> what makes it, from which other one. Some need more than a data set.
TEMPLATES = {
  "trained": ((small_search, small_train), "template"),
  "predicted": ((predict,), "trained"),
  "scored": ((score,), "predicted"),
}
BEFORE = {"predict": "trained", "evaluate": "predicted", "report": "scored"}
# The others hold checkpoints, at whose writing they are struck.
WITHOUT_CHECKPOINTS = ("preprocess", "preprocess-again", *BEFORE)


def fork(log, work):
  """Runs `work` in a process of its own; returns its id."""
  sys.stdout.flush()
  # Until the child heeds them, or does not care.
  signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
  pid = os.fork()
  if pid:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
    return pid
  code = 1
  try:
    with log.open("a") as file:
      os.dup2(file.fileno(), 1)
      os.dup2(file.fileno(), 2)
    code = work()
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def count_operations(workdir, last=None):
  """Counts the changes of files in a folder from now on; kills this process before the one of number `last`."""
  count = itertools.count(1)

  def hook(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if (writes or event in OPERATIONS) and str(workdir) in str(arguments[0]) and next(count) == last:
      os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(hook)
  return lambda: next(count) - 1


def run(name, workdir, last=None):
  """What the command line does with a stage; killed before the operation of number `last`."""
  signal.signal(signal.SIGINT, signal.default_int_handler)
  operations, code = count_operations(workdir, last), 0
  with StopBySignal("run it again") as stop:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
    try:
      RUNS[name][0](workdir, stop)
      if last is None:
        (workdir / "operations").write_text(str(operations()))
    except Stopped as stopped:
      print(stopped, flush=True)
      code = stopped.code
    # Before the handlers are what they were.
    sys.stderr.flush()
    os._exit(code)


def code_of(pid, seconds=PATIENCE):
  """Exit code of a process, negative if a signal ended it; None if it does not end in time."""
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.002)
  return None


def kept(folder):
  """How much is safe: the last step that is whole, of all runs there are; of predictions, how many."""
  return sum(last_step(path.parent) for path in folder.rglob("checkpoints")) + len(list(folder.rglob("*.nii.gz")))


def last_step(folder):
  """The last step that is whole, one that stands aside included."""
  names = [path.name for path in (folder / "checkpoints").glob("*")] if (folder / "checkpoints").exists() else []
  steps = [int(name) for name in names if name.isdecimal()]
  steps += [int(name.split(".")[1]) for name in names if name.endswith(".former")]
  return max(steps, default=0)


def wait_for(moment, folder, pid, rng, seconds):
  """Returns at the moment to strike, or when the process has ended; then its exit code."""
  start, length = time.monotonic(), rng.uniform(0, seconds)
  metrics = folder / "metrics.jsonl"
  before = None
  while True:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
      return os.waitstatus_to_exitcode(status)
    if time.monotonic() - start > length:
      if moment == "any":
        return None
      if moment == "write" and any(folder.glob("checkpoints/*.orbax-checkpoint-tmp*")):
        time.sleep(rng.uniform(0, 0.1))
        return None
      now = last_step(folder) if moment == "commit" else metrics.exists() and metrics.stat().st_size
      if before is not None and now != before and moment != "write":
        time.sleep(rng.uniform(0, 0.02) if moment == "commit" else 0)
        return None
      before = now
    time.sleep(0.0005)


class Soak:
  """Strikes and counts.

  Args:
    folder: to work in; holds a run directory `template` with a data set.
    rng: of the moments.
    compiled: whether all programs are in the cache, so that runs take as long as they always will.
  """

  def __init__(self, folder, rng, compiled):
    self.folder, self.rng, self._compiled = folder, rng, compiled
    self.log = folder / "log"
    self.counts = collections.Counter()
    self._references = {}

  def reference(self, name):
    """Run directory and seconds of a run that was left alone."""
    if name not in self._references:
      workdir = self._new(f"{name}-reference")
      if not self._compiled:
        code_of(fork(self.log, lambda: run(name, workdir)))
        workdir = self._new(f"{name}-reference")
      start = time.monotonic()
      code = code_of(fork(self.log, lambda: run(name, workdir)))
      if code:
        raise RuntimeError(f"{name} ended with {code}:\n{self.log.read_text()[-2000:]}")
      self._references[name] = workdir, time.monotonic() - start
      print(f"{name}: {time.monotonic() - start:.1f} s alone", file=sys.stderr, flush=True)
    return self._references[name]

  def trial(self, name, kills, most):
    """One run, struck `most` times at most, to its end; returns what is wrong, None if all is right."""
    other, seconds = self.reference(name)
    workdir = self._new(name)
    folder = workdir / RUNS[name][1]
    strikes = 0
    while True:
      struck = strikes < most and self.counts["kills"] < kills
      before = kept(folder)
      moments = ("any", "operation") if name in WITHOUT_CHECKPOINTS else MOMENTS
      moment = self.rng.choice(moments) if struck else None
      last = self._operation(int((other / "operations").read_text())) if moment == "operation" else None
      pid = fork(self.log, functools.partial(run, name, workdir, last))
      self.counts["starts"] += 1
      if struck:
        kills_before = self.counts["kills"]
        code = self._strike(pid, folder, seconds, moment)
        self.counts[f"of {name}"] += self.counts["kills"] - kills_before
        strikes += code is None or code in (-signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGINT)
      else:
        code = code_of(pid)
      if kept(folder) < before:
        self.counts["lost"] += 1
        return f"of {before} steps or predictions {kept(folder)} are left"
      if code == 0:
        break
      if code not in (-signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGINT):
        self.counts["failed"] += 1
        return f"ended with {code}"
    self.counts["runs"] += 1
    if code_of(fork(self.log, lambda: compare(workdir, other, RUNS[name][1]))):
      self.counts["different"] += 1
      return "ended in another state"
    shutil.rmtree(workdir)
    return None

  def _operation(self, count):
    """The number of an operation; half of the times one of the first, when a run is opened."""
    return self.rng.choice((self.rng.randint(1, count), self.rng.randint(1, 30)))

  def _strike(self, pid, folder, seconds, moment):
    """Kills or stops a process at some moment, unless it does so itself; returns its exit code."""
    name = "SIGKILL" if moment == "operation" else self.rng.choices(list(SIGNALS), (8, 1, 1))[0]
    code = code_of(pid) if moment == "operation" else wait_for(moment, folder, pid, self.rng, seconds)
    began = time.monotonic()
    if code is None:
      os.kill(pid, SIGNALS[name])
      code = code_of(pid, 30)
      if code is None:
        os.kill(pid, signal.SIGKILL)
        raise RuntimeError(f"{name} did not end it:\n{self.log.read_text()[-2000:]}")
    if code != -signal.SIGKILL and code != 128 + SIGNALS[name]:
      return code
    self.counts["kills"] += 1
    self.counts[name] += 1
    self.counts[f"moment: {moment}"] += 1
    if name != "SIGKILL":
      self.counts["slowest stop, ms"] = max(self.counts["slowest stop, ms"], int(1000 * (time.monotonic() - began)))
    elif any(folder.glob("checkpoints/*.orbax-checkpoint-tmp*")):
      self.counts["inside a checkpoint write"] += 1
    return code

  def _new(self, name):
    for number in range(10**6):
      workdir = self.folder / f"{name}-{number}"
      if not workdir.exists():
        shutil.copytree(self.folder / BEFORE.get(name.removesuffix("-reference"), "template"), workdir)
        if name.startswith("preprocess") and "again" not in name:
          shutil.rmtree(workdir / "dataset")
        return workdir


def compare(workdir, reference, name):
  """Whether two run directories are alike; `name` is what `RUNS` gives."""
  if name in ("search", "train/0", "train/all", "unet3d/0"):
    return compare_runs(workdir, reference, name)
  contents = [contents_of(workdir), contents_of(reference)]
  assert contents[0].keys() == contents[1].keys(), contents[0].keys() ^ contents[1].keys()
  differing = [path for path in contents[0] if contents[0][path] != contents[1][path]]
  assert not differing, differing
  if name == ".":
    for run in ("search", *(f"{network}/{fold}" for network in ("train", "unet3d") for fold in (0, 1, "all"))):
      compare_runs(workdir, reference, run)
  return 0


def contents_of(workdir):
  """Path -> content of all files outside of searches and trainings, but for measured times and where they lie."""
  # The times at which files were written stand in verified.json, measured ones in costs.json, both in the report.
  timed = {"operations", "verified.json", "costs.json"}
  found = {}
  for path in workdir.rglob("*"):
    inside = path.relative_to(workdir)
    # A process that was killed leaves its lock, which the next one takes.
    within_run = inside.parts[0] in ("search", "train", "unet3d") and len(inside.parts) > 1
    if path.name in ("operations", ".lock") or within_run:
      continue
    apart = path.name in timed or (inside.parts[0] == "report" and (workdir / "costs.json").exists())
    content = b"" if apart or not path.is_file() else path.read_bytes()
    found[inside] = content.replace(str(workdir).encode(), b"FOLDER").replace(workdir.name.encode(), b"NAME")
  return found


def compare_runs(workdir, reference, name):
  folder, other = workdir / name, reference / name
  assert_same_end(folder, other)
  # Nothing is left over. Which checkpoint is the last but one depends on the time.
  names = [{path.name for path in run.iterdir()} for run in (folder, other)]
  assert names[0] == names[1], names[0] ^ names[1]
  kept = [path.name for path in (folder / "checkpoints").iterdir()]
  assert all(name.isdecimal() for name in kept) and len(kept) <= 3, kept
  for file in {"genotype.json"} & names[0]:
    assert (folder / file).read_bytes() == (other / file).read_bytes()
  # Paths of the run directory aside.
  settings = [json.loads((run / "config.json").read_text().replace(str(root), ""))["settings"]
              for run, root in ((folder, workdir), (other, reference))]
  assert settings[0] == settings[1]
  assert steps_kept(folder)
  return 0


def make_template(folder):
  write_phantoms(folder / "data", cases=4, seed=0, shape=(24, 24, 24))
  preprocess(folder / "data", folder / "template" / "dataset", folds=2)
  return 0


def succeed(stage, workdir):
  stage(workdir, None)
  return 0


def make_templates(folder, log, name):
  """A template, and before it those that it is made from; each stage in a process of its own."""
  if (folder / name).exists():
    return
  stages, before = TEMPLATES[name]
  make_templates(folder, log, before)
  shutil.copytree(folder / before, folder / f"{name}.partial")
  for stage in stages:
    if code_of(fork(log, functools.partial(succeed, stage, folder / f"{name}.partial"))):
      raise RuntimeError(log.read_text())
  (folder / f"{name}.partial").rename(folder / name)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
  parser.add_argument("--folder", type=Path, required=True)
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--most", type=int, default=8, help="kills of one run")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--runs", default=",".join(RUNS))
  arguments = parser.parse_args()
  folder = arguments.folder.absolute()
  folder.mkdir(parents=True, exist_ok=True)
  cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder / "xla")
  jax.config.update("jax_compilation_cache_dir", str(cache))
  soak = Soak(folder, random.Random(arguments.seed), compiled=cache.exists())
  if not (folder / "template").exists() and code_of(fork(soak.log, lambda: make_template(folder))):
    raise RuntimeError(soak.log.read_text())
  gallery.DPI = 20  # drawing takes longer than all else
  names, number, began = arguments.runs.split(","), 0, time.monotonic()
  for name in names:
    make_templates(folder, soak.log, BEFORE.get(name, "template"))
  while soak.counts["kills"] < arguments.kills:
    name = names[number % len(names)]
    wrong = soak.trial(name, arguments.kills, arguments.most)
    number += 1
    if wrong:
      print(f"{name}: {wrong}:\n{soak.log.read_text()[-3000:]}")
    if sys.stderr.isatty() or number % 10 == 0:
      print(f"{time.monotonic() - began:.0f} s", dict(soak.counts), file=sys.stderr, flush=True)
  for count in ("lost", "different", "failed"):
    soak.counts[count] += 0
  print("{kills} kills, {lost} lost, {different} differing, {failed} failed".format_map(soak.counts))
  print(json.dumps({**soak.counts, "seconds": round(time.monotonic() - began)}))
  return int(bool(soak.counts["lost"] + soak.counts["different"] + soak.counts["failed"]))


if __name__ == "__main__":
  with contextlib.suppress(KeyboardInterrupt):
    sys.exit(main())
