"""Two processes of two devices each, as one run: search and training, killed and gone on with, stopped together."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.runtime import distributed
from tests.support.runs import arrays, assert_same_end, history, steps_kept

ROOT = Path(__file__).parents[2]
SEVERAL = ROOT / "tests" / "end_to_end" / "several.py"
SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "1"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
  ("environ", "expected"),
  [
    ({}, None),
    (SLURM, ("SLURM", 4)),
    ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),
    # A batch script is one process of a job of four tasks.
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, ("Open MPI", 2)),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
    (KUBERNETES, ("Kubernetes", None)),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
  ],
)
def test_what_started_the_processes(environ, expected):
  assert distributed.launcher(environ) == expected


@pytest.mark.parametrize(
  ("given", "environ", "message"),
  [
    (dict(processes=2), {}, "coordinator, process is missing; give --coordinator=HOST:PORT"),
    (dict(coordinator="a:1", process=0), {}, "processes is missing"),
    (dict(coordinator="host", processes=2, process=0), {}, "coordinator must be HOST:PORT .* got 'host'"),
    (dict(coordinator="host:99999", processes=2, process=0), {}, "coordinator must be HOST:PORT"),
    (dict(coordinator="host:1", processes=2, process=2), {}, "process must be from 0 .* got process=2 of 2"),
    ({}, {"OMPI_COMM_WORLD_SIZE": "2"}, "this Open MPI does not say where the first process is; give --coordinator"),
    ({}, KUBERNETES, "needs the package kubernetes: pip install it, or give"),
  ],
)
def test_what_is_refused(given, environ, message):
  with pytest.raises(InputError, match=message):
    distributed.join(**given, environ=environ)


def test_one_process_is_alone_whatever_started_it():
  assert distributed.join(environ={}) == 1
  assert distributed.join(processes=1, environ=SLURM) == 1
  assert distributed.first_says(True) is True
  assert distributed.first_says(False) is False


class Pair:
  """Two processes that run the same commands with toy networks, see `several.py`."""

  def __init__(self, folder, tmp_path, *flags):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    self._logs = [tmp_path / f"{folder.name}_{process}.log" for process in range(2)]
    self.processes = []
    for process, log in enumerate(self._logs):
      command = [sys.executable, SEVERAL, folder, "2", *flags]
      command += [f"--coordinator=localhost:{port}", "--processes=2", f"--process={process}"]
      with open(log, "wb") as file:
        self.processes.append(subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT))

  def wait(self):
    """Exit codes of both."""
    return [process.wait(timeout=300) for process in self.processes]

  @property
  def said(self):
    return [log.read_text(errors="replace") for log in self._logs]


def alone(folder, devices, *flags):
  command = [sys.executable, SEVERAL, folder, str(devices), *flags]
  done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=300)
  assert done.returncode == 0, done.stderr[-4000:]


def wait_for(condition, pair):
  end = time.monotonic() + 240
  while not condition():
    assert time.monotonic() < end, pair.said
    assert None in [process.poll() for process in pair.processes], pair.said
    time.sleep(0.02)


RUNS = ("search", "train/0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, phantom_dataset):
  """A search and a training that two processes made undisturbed, and what they said."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  shutil.copytree(phantom_dataset.folder, folder / "dataset")
  pair = Pair(folder, folder.parent)
  assert pair.wait() == [0, 0], pair.said
  return folder, pair.said


def test_two_processes_of_two_devices_are_one_process_of_four(whole, copies):
  folder, (first, second) = whole
  assert "epoch 2/2" in first
  assert "epoch" not in second, "the first process reports"
  other = copies("other")
  alone(other, 4)
  for run in RUNS:
    for got, expected in zip(history(folder / run), history(other / run), strict=True):
      for name in (name for name in expected if name.endswith("loss")):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5)
    ends = [arrays(base / run / "checkpoints" / str(max(steps_kept(base / run)))) for base in (folder, other)]
    assert ends[0].keys() == ends[1].keys()
    for name, array in ends[0].items():
      if name.startswith("params"):
        np.testing.assert_allclose(array, ends[1][name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_killed_and_run_again_they_end_in_the_same_bits(whole, copies, tmp_path):
  folder = copies("killed")
  pair = Pair(folder, tmp_path, "--checkpoint_minutes=1e-9", "--agree=1")
  wait_for(lambda: (folder / "search" / "checkpoints").exists() and 2 in steps_kept(folder / "search"), pair)
  pair.processes[1].kill()
  # Whoever is left notices, or would wait for the killed one at the next reduction.
  pair.processes[0].kill()
  pair.wait()
  again = Pair(folder, tmp_path)
  assert again.wait() == [0, 0], again.said
  for run in RUNS:
    assert_same_end(folder / run, whole[0] / run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_stops_both_after_the_same_step_and_one_process_goes_on(copies, tmp_path, number):
  folder = copies("stopped")
  pair = Pair(folder, tmp_path, "--epochs=200")
  wait_for((folder / "search" / "metrics.jsonl").exists, pair)
  pair.processes[1].send_signal(number)
  assert pair.wait() == [143, 143], pair.said
  step = max(steps_kept(folder / "search"))
  # One epoch more than that under way, of which only the validation may be left.
  alone(folder, 1, f"--epochs={len(history(folder / 'search')) + 2}")
  records = history(folder / "search")
  assert records[-1]["step"] > step
  # All epochs took each of the 8 patches of the kernel part once, be it on four devices or on one.
  assert [record["epoch"] for record in records] == list(range(1, len(records) + 1))


def test_what_the_first_process_refuses_ends_all(whole, copies, tmp_path):
  folder = copies("other")
  (folder / "search").mkdir()
  (folder / "search" / "notes.txt").write_text("mine")
  pair = Pair(folder, tmp_path)
  assert pair.wait() == [2, 2], pair.said
  assert "search must be new or hold a run" in pair.said[0]
  assert "the first process could not begin" in pair.said[1]
  assert os.listdir(folder / "search") == ["notes.txt"]
