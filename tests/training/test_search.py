"""The search as a command runs it: Table 2, what is recorded, what is kept, and that stopping it changes nothing.

All but the last put a network that compiles in no time in the place of the supernet; the loop is the same.
"""

import dataclasses
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import nas3d_jax.training.epoch
import nas3d_jax.training.operation_times
import nas3d_jax.training.search
import nas3d_jax.training.session
from nas3d_jax.data.patches.host_batches import patch_index
from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.random_genotype import random_genotype
from nas3d_jax.models.search_space import SearchSpace
from nas3d_jax.report.run_contents import History
from nas3d_jax.runtime.stopping import Stopped
from nas3d_jax.training.config import SearchConfig
from nas3d_jax.training.search import search
from tests.support.runs import TIMES, StopAt, arrays, assert_same_end, damage, history, interrupt, said, steps_kept
from tests.support.toy import ToySupernet

ROOT = Path(__file__).parents[2]
SIZES = dict(patch_size=16, kernels=1, nodes=1, depth=2)
FIELDS = {
  "epoch", "step", "hybrid_loss", "kernel_loss", "validation_loss", "hybrid_learning_rate", "kernel_learning_rate",
  "genotype", "count", "hybrid_weights", "entropy", "skipped", *TIMES,
}
UP = (("identity", 0), ("up_conv", 1))
A = Genotype(down=(("max_pool", 0), ("down_conv", 1)), up=UP)
B = Genotype(down=(("max_pool", 0), ("avg_pool", 1)), up=UP)


@pytest.fixture
def toy(monkeypatch):
  monkeypatch.setattr(nas3d_jax.training.search, "Supernet", ToySupernet)


@pytest.fixture
def scripted(monkeypatch):
  """Makes a search read one genotype after the other from a list."""

  def script(*genotypes):
    left = iter(genotypes)
    monkeypatch.setattr(Genotype, "from_hybrid", lambda *_: next(left))

  return script


def make_config(workdir, **changes):
  """Rates so high that the genotype changes within an epoch."""
  rates = dict(hybrid_learning_rate=0.3, kernel_learning_rate=0.1)
  return SearchConfig(workdir, **{**SIZES, "epochs": 2, **rates, **changes})


def copy_of(workdir):
  """A run directory with the same data set."""
  other = workdir.with_name("other")
  shutil.copytree(workdir / "dataset", other / "dataset")
  return other


def recorded(workdir, name):
  return [record[name] for record in history(workdir / "search")]


@pytest.mark.usefixtures("toy")
def test_what_is_recorded(workdir, phantom_dataset):
  genotype = search(make_config(workdir, hybrid_learning_rate=0.25))
  records = history(workdir / "search")
  assert [set(record) for record in records] == [FIELDS, FIELDS]
  steps = len(patch_index(phantom_dataset, phantom_dataset.fold_cases(1), 16))
  assert recorded(workdir, "epoch") == [1, 2]
  assert recorded(workdir, "step") == [steps, 2 * steps]
  assert recorded(workdir, "hybrid_learning_rate") == [0.25, 0.25]
  assert recorded(workdir, "kernel_learning_rate") == [0.1, 0.1]
  for record in records:
    assert all(0 < record[name] < 1 for name in ("hybrid_loss", "kernel_loss", "validation_loss"))
    speed = 2 * steps / record["seconds"]
    assert record["patches_per_second"] == pytest.approx(speed, rel=0.05), "a hybrid and a kernel patch each step"
  # Of the first epoch, when all hybrid parameters are zero: ties go to the first, weights are even.
  first = records[0]
  assert first["genotype"] == {"down": [["avg_pool", 0], ["avg_pool", 1]], "up": [["identity", 0], ["up_se_conv", 1]]}
  assert first["count"] == 1
  assert first["entropy"] == {
    "down": pytest.approx(math.log(6)), "up": pytest.approx((math.log(5) + math.log(4)) / 2)
  }
  modules = first["hybrid_weights"]["up"]
  assert [(module["node"], module["state"]) for module in modules] == [(0, 0), (0, 1)]
  assert modules[0]["weights"] == pytest.approx([1 / 5] * 5)
  assert modules[1]["weights"] == pytest.approx([1 / 4] * 4)
  assert [module["entropy"] for module in modules] == pytest.approx([math.log(5), math.log(4)])
  # Of the second, what the first has learned.
  second = records[1]["hybrid_weights"]["down"][0]
  weights = np.array(second["weights"])
  assert weights.sum() == pytest.approx(1)
  assert second["entropy"] == pytest.approx(-(weights * np.log(weights)).sum())
  assert second["entropy"] < math.log(6)
  text = (workdir / "search" / "genotype.json").read_text()
  assert Genotype.from_json(text) == genotype == Genotype(**records[1]["genotype"])
  assert {path.name for path in (workdir / "search").iterdir()} == {
    "config.json", "metrics.jsonl", "checkpoints", "genotype.json"
  }


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
  ("genotypes", "min_count", "counts", "expected"),
  [
    # Table 2: a genotype is counted before the steps of its epoch, and N_C ends the search there and then.
    ([A, B, A], 2, [1, 1], A),
    ([A, A, A], 3, [1, 2], A),
    ([B], 1, [], B),
    # Never reached: the most common, the latest of equals.
    ([A, B, B, A], 9, [1, 1, 2, 2], A),
    ([B, A, B], 9, [1, 1, 2], B),
  ],
)
def test_when_it_ends_and_with_what(workdir, scripted, *, genotypes, min_count, counts, expected):
  scripted(*genotypes)
  epochs = 100 if min_count < 9 else len(genotypes)
  assert search(make_config(workdir, epochs=epochs, min_count=min_count)) == expected
  assert Genotype.from_json((workdir / "search" / "genotype.json").read_text()) == expected
  if counts:
    assert recorded(workdir, "count") == counts
    assert [Genotype(**rows) for rows in recorded(workdir, "genotype")] == genotypes[: len(counts)]
  else:
    assert not (workdir / "search" / "metrics.jsonl").exists()


@pytest.mark.usefixtures("toy")
def test_rates_follow_the_losses(workdir, monkeypatch):
  # The validation loss stands still: epoch 1 is good, the 11th bad one is epoch 12. The hybrid loss falls all the time.
  losses = iter(np.linspace(0.9, 0.3, 13))
  monkeypatch.setattr(nas3d_jax.training.session, "mean_loss", lambda *_: 0.5)
  monkeypatch.setattr(
    nas3d_jax.training.epoch.EpochSums, "means", lambda _: {"hybrid_loss": float(next(losses)), "kernel_loss": 0.5}
  )
  search(make_config(workdir, epochs=13))
  assert recorded(workdir, "hybrid_learning_rate") == [0.3] * 13
  assert recorded(workdir, "kernel_learning_rate") == [0.1] * 12 + [0.05]
  last = arrays(workdir / "search" / "checkpoints" / str(max(steps_kept(workdir / "search"))))
  rates = [last[f"training/{name}_optimizer/hyperparams/learning_rate"] for name in ("hybrid", "kernel")]
  np.testing.assert_array_equal(rates, np.float32([0.3, 0.05]))


@pytest.mark.usefixtures("toy")
def test_a_finished_search_does_nothing_when_run_again_and_may_be_made_longer(workdir, monkeypatch):
  first = search(make_config(workdir))
  records = history(workdir / "search")
  with monkeypatch.context() as patch:
    interrupt(patch, nas3d_jax.training.search, "make_search_step", after=0)
    (workdir / "search" / "genotype.json").unlink()
    assert search(make_config(workdir)) == first
  assert history(workdir / "search") == records
  assert (workdir / "search" / "genotype.json").exists()
  search(make_config(workdir, epochs=4))
  other = copy_of(workdir)
  search(make_config(other, epochs=4))
  assert_same_end(workdir / "search", other / "search")


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("place", ["first epoch", "second epoch", "end of an epoch"])
def test_a_search_stopped_anywhere_ends_as_one_left_alone(workdir, phantom_dataset, monkeypatch, place):
  other = copy_of(workdir)
  search(make_config(other, epochs=3))
  steps = len(patch_index(phantom_dataset, phantom_dataset.fold_cases(1), 16))
  after = {"first epoch": 2, "second epoch": steps + 3, "end of an epoch": 2 * steps}[place]
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    interrupt(patch, nas3d_jax.training.search, "make_search_step", after=after)
    search(make_config(workdir, epochs=3, checkpoint_minutes=1e-9))
  saved = max(steps_kept(workdir / "search"))
  assert saved == after
  if place == "first epoch":
    # What makes it hard: the hybrid parameters no longer hold the genotype that was counted.
    folder = workdir / "search" / "checkpoints" / str(saved)
    assert Genotype(**said(folder)["progress"]["opening"]["genotype"]) != genotype_now(folder)
  search(make_config(workdir, epochs=3))
  assert_same_end(workdir / "search", other / "search")
  assert len({(run / "search" / "genotype.json").read_text() for run in (workdir, other)}) == 1


@pytest.mark.usefixtures("toy")
def test_a_search_whose_last_checkpoint_is_damaged_ends_as_one_left_alone(workdir, capsys):
  """It was over, with its genotype: the last epoch is made once more, to the same end."""
  other = copy_of(workdir)
  genotype = search(make_config(other, epochs=3))
  search(make_config(workdir, epochs=3))
  last = max(steps_kept(workdir / "search"))
  damage(workdir / "search" / "checkpoints" / str(last))
  capsys.readouterr()
  assert search(make_config(workdir, epochs=3)) == genotype
  assert f"It is called {last}.damaged now; going on from step {last // 3 * 2}" in capsys.readouterr().err
  assert_same_end(workdir / "search", other / "search")


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("place", ["second step", "validation", "end of an epoch", "end"])
def test_a_search_that_was_asked_to_stop_ends_as_one_left_alone(workdir, phantom_dataset, place):
  other = copy_of(workdir)
  search(make_config(other, epochs=2))
  steps, batches = (len(patch_index(phantom_dataset, phantom_dataset.fold_cases(k), 16)) for k in (1, 0))
  # It may stop after each step but the last of an epoch, before each batch of the validation, and at an epoch's end.
  epoch = steps - 1 + batches + 1
  check, saved = {
    "second step": (1, 2), "validation": (steps, steps), "end of an epoch": (epoch - 1, steps),
    "end": (2 * epoch - 1, 2 * steps),
  }[place]
  with pytest.raises(Stopped):
    search(make_config(workdir, epochs=2), StopAt(check))
  assert max(steps_kept(workdir / "search")) == saved
  assert not (workdir / "search" / "genotype.json").exists()
  search(make_config(workdir, epochs=2))
  assert_same_end(workdir / "search", other / "search")


def genotype_now(step_folder):
  start = "params/params/hybrid/"
  hybrid = {path.removeprefix(start): array for path, array in arrays(step_folder).items() if path.startswith(start)}
  return Genotype.from_hybrid(hybrid, NetworkConfig(kernels=1, nodes=1, depth=2))


def test_a_genotype_at_random_in_the_place_of_a_search(workdir, capsys):
  config = SearchConfig(workdir, method="random", seed=3, **SIZES)
  genotype = search(config)
  assert genotype == random_genotype(NetworkConfig(nodes=1, depth=2, kernels=1), 3)
  assert Genotype.from_json((workdir / "search" / "genotype.json").read_text()) == genotype
  assert "a genotype at random, seed 3:\ndownward cell\n  node 0 = " in capsys.readouterr().err
  assert search(config) == genotype
  with pytest.raises(InputError, match="method was 'random', is 'darts'"):
    search(SearchConfig(workdir, seed=3, **SIZES))
  assert History.read(workdir / "search", "search").genotype == genotype


@pytest.mark.usefixtures("toy")
def test_a_single_path_search_that_was_asked_to_stop_ends_as_one_left_alone(copies):
  whole, stopped, mixed = (copies(name) for name in ("whole", "stopped", "mixed"))
  search(make_config(mixed, epochs=2))
  search(make_config(whole, epochs=2, method="single_path"))
  with pytest.raises(Stopped):
    search(make_config(stopped, epochs=2, method="single_path"), StopAt(7))
  search(make_config(stopped, epochs=2, method="single_path"))
  assert_same_end(stopped / "search", whole / "search")
  assert history(whole / "search")[0]["hybrid_loss"] != history(mixed / "search")[0]["hybrid_loss"]
  with pytest.raises(InputError, match=r"temperature was 10\.0, is 5\.0"):
    search(make_config(whole, epochs=2, method="single_path", temperature=5.0))


@pytest.mark.usefixtures("toy")
def test_the_weights_stay_as_they_are_during_the_warm_up(workdir):
  search(make_config(workdir, epochs=3, warmup_epochs=1))
  at_start, after_one, after_two = (record["hybrid_weights"] for record in history(workdir / "search"))
  assert at_start == after_one
  assert all(weight == module["weights"][0] for cell in ("down", "up") for module in after_one[cell]
             for weight in module["weights"])
  assert after_two != after_one
  # Nothing was chosen before the weights learn.
  assert [record["count"] for record in history(workdir / "search")][:2] == [0, 1]


@pytest.mark.usefixtures("toy")
def test_a_warm_up_does_not_end_a_search(workdir):
  """Counted, the genotype of the start would reach `min_count` before a weight has moved."""
  search(make_config(workdir, epochs=4, warmup_epochs=2, min_count=2, hybrid_learning_rate=0.5))
  counts = [record["count"] for record in history(workdir / "search")]
  assert (counts[:3], len(counts) >= 3) == ([0, 0, 1], True)


@pytest.mark.usefixtures("toy")
def test_a_great_cost_weight_finds_the_cheapest_operations(workdir):
  genotype = search(make_config(workdir, epochs=3, cost_weight=1e3))
  # Pools and the identity cost nothing; with a single channel where most voxels are, a convolution costs less than two.
  assert {name for name, _ in genotype.down} <= {"avg_pool", "max_pool"}
  assert genotype.up == (("identity", 0), ("up_conv", 1))
  # The losses that are recorded are those of the network alone.
  assert all(0 < record["hybrid_loss"] < 1 for record in history(workdir / "search"))


@pytest.mark.usefixtures("toy")
def test_times_are_measured_once_and_kept_with_the_run(workdir, monkeypatch):
  config = make_config(workdir, epochs=1, cost_weight=1e3, cost="time", operations=("conv", "pool"))
  search(config)
  kept = json.loads((workdir / "search" / "config.json").read_text())["settings"]["operation_times"]
  assert {name: len(row) for name, row in kept.items()} == {"down_down": 3, "up_up": 1, "up_normal": 1}
  assert all(time > 0 for row in kept.values() for time in row)
  # A convolution takes longer than a pool; the pools differ by chance.
  names = SearchSpace.of(config.operations).down
  assert max(zip(kept["down_down"], names, strict=True))[1] == "down_conv"

  monkeypatch.setattr(nas3d_jax.training.operation_times, "measured_times", None)
  genotype = search(dataclasses.replace(config, epochs=3))
  assert {name for name, _ in genotype.down} & {"down_conv"} == set()
  assert json.loads((workdir / "search" / "config.json").read_text())["settings"]["operation_times"] == kept

  path = workdir / "search" / "config.json"
  path.write_text(path.read_text().replace('"operation_times"', '"operation_thymes"'))
  with pytest.raises(InputError, match=r"config.json does not hold the operation_times of this search; put back"):
    search(dataclasses.replace(config, epochs=4))


@pytest.mark.parametrize(("step", "temperature"), [(0, 10.0), (25, 7.525), (100, 0.1), (300, 0.1)])
def test_the_temperature_falls_to_its_end(monkeypatch, step, temperature):
  seen = []
  monkeypatch.setattr(nas3d_jax.training.search, "sampled_paths", lambda hybrid, key, value: seen.append(float(value)))
  nas3d_jax.training.search.path_sampling(10.0, 101)({}, None, step)
  assert seen == [pytest.approx(temperature, rel=1e-5)]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(seed=1), "seed was 0, is 1"),
    (dict(fold=1, kernels=2), "fold was 0, is 1; kernels was 1, is 2"),
    (dict(operations=("conv", "pool")), r"operations was \[\], is \['conv', 'pool'\]; space was None, is {'normal'"),
    (dict(cost_weight=-1.0), "^cost_weight must be a number of at least 0, got -1.0"),
    (dict(cost="hours"), "^cost must be one of flops, parameters, time, got 'hours'"),
    (dict(temperature=0.05), "^temperature must be a number of at least 0.1, got 0.05"),
    (dict(warmup_epochs=2, epochs=2), r"^warmup_epochs must be below epochs \(2\), got 2; no genotype is counted"),
    (dict(warmup_epochs=-1), "^warmup_epochs must be a whole number of at least 0, got -1"),
    (dict(method="gdas"), "^method must be one of darts, single_path, random, got 'gdas'"),
    (dict(operations=("conv", "sep_conv")), "^operations must be of .* got 'sep_conv'"),
    (dict(operations=("identity",)), "^operations must leave a candidate for each direction, got none of"),
    (dict(fold=2), "^fold must be from 0 to 1, got 2$"),
    (dict(patch_size=12), "^patch_size must be a multiple of 8"),
    (dict(kernel_learning_rate=1e38, overwrite=True), "_loss is nan, on Phantom_.*, patch at .*lower .* --overwrite"),
  ],
)
def test_what_is_refused(workdir, changes, message):
  search(make_config(workdir, epochs=1))
  with pytest.raises(InputError, match=message):
    search(make_config(workdir, **{"epochs": 1, **changes}))


@pytest.mark.usefixtures("toy")
def test_overwriting_starts_anew(workdir):
  search(make_config(workdir, seed=1))
  search(make_config(workdir, overwrite=True))
  other = copy_of(workdir)
  search(make_config(other))
  assert_same_end(workdir / "search", other / "search")


def test_a_search_killed_and_run_again_ends_as_one_left_alone(workdir, searched):
  folder, log = workdir / "search", workdir / "log"
  sizes = ["--patch_size=8", "--kernels=1", "--nodes=1", "--depth=2"]
  often = ["--epochs=100", "--checkpoint_minutes=0.005", f"--platform={jax.default_backend()}"]
  with log.open("w") as file:
    command = [sys.executable, "-m", "launch", "search", f"--workdir={workdir}", *sizes, *often]
    process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
  try:
    deadline = time.monotonic() + 300
    while not (folder / "metrics.jsonl").exists() or not history(folder):
      assert process.poll() is None and time.monotonic() < deadline, log.read_text()
      time.sleep(0.01)
    while max(steps_kept(folder)) < history(folder)[0]["step"]:
      assert process.poll() is None, log.read_text()
      time.sleep(0.01)
  finally:
    process.kill()
    process.wait()
  assert process.returncode == -signal.SIGKILL
  assert len(history(folder)) < 3, "killed too late to show anything"
  # What a log shows, in which no line is drawn anew.
  written = log.read_text()
  assert re.search(
    r"\nepoch 1/100: step 0 of \d+\ncompiling the search step \.\.\. \(takes a minute or more the first time\)\n"
    r"(compiled|ready, .*) in \d+ s\n(epoch 1/100: step .*\n)*"
    r"epoch 1/100 validation: batch 0 of \d+\ncompiling the validation step .*\n(compiled|ready, .*) in \d+ s\n"
    r"(epoch 1/100 validation: .*\n)*epoch 1/100: hybrid loss",
    written,
  ), written
  assert all(line.isprintable() for line in written.split("\n"))
  search(SearchConfig(workdir, patch_size=8, kernels=1, nodes=1, depth=2, epochs=3))
  assert_same_end(folder, searched / "search")
