"""A search and a training that are killed over and over, at random moments, end as ones that were left alone."""

import json
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).with_name("soak.py")


def test_killed_runs_end_in_the_same_bits_and_lose_no_step(request, tmp_path):
  kills = request.config.getoption("--soak")
  runs = [] if kills else ["--runs=search,train", "--most=5"]
  command = [sys.executable, str(SOAK), f"--folder={tmp_path}", f"--kills={kills or 10}", *runs]
  process = subprocess.run(command, capture_output=True, text=True, check=False)
  assert process.returncode == 0, process.stdout + process.stderr
  seen = json.loads(process.stdout.splitlines()[-1])
  print(seen)
  assert seen["kills"] == (kills or 10)
  assert seen["inside a checkpoint write"] > 0
  assert (seen["lost"], seen["different"], seen["failed"]) == (0, 0, 0)
