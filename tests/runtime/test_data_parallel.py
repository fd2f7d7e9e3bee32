"""Data parallel: the tests of `on_four_devices.py`, in a process that has four; one device is nothing special."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from nas3d_jax.runtime.data_parallel import SPLIT, WHOLE, Replicas

ROOT = Path(__file__).parents[2]


def test_on_four_devices():
  flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
  command = [sys.executable, "-m", "pytest", str(ROOT / "tests" / "end_to_end" / "on_four_devices.py")]
  environment = {**os.environ, "XLA_FLAGS": flags}
  done = subprocess.run(
    command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
  )
  assert done.returncode == 0, done.stdout[-8000:]
  assert re.search(r"\d+ passed in", done.stdout), "some were skipped"


def test_one_device_is_a_plain_program():
  one = Replicas()
  program = one.jit(lambda a, b: one.mean((a + one.sum(b), a)), (WHOLE, SPLIT), WHOLE)
  text = program.lower(np.ones(3, np.float32), np.ones(3, np.float32)).as_text()
  assert "all_reduce" not in text
  assert "shard_map" not in text
  key = jax.random.key(0)
  assert one.own_key(key) is key
  tree = {"a": np.ones(2)}
  assert one.replicate(tree) is tree
  assert one.split(tree) is tree
