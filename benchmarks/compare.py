"""Times our step and another program's in turn, and prints both and their ratio.

    python -m benchmarks.compare --peer=path/to/torch_peer.py --peer_python=python --job=search --patch=64

The other program takes --job, --patch, --batch, --steps and --warmup, and prints one line of JSON with "ms_median". It
runs with its own Python. Ours and the other's run in turn, A B A B, each in a process of its own, because a machine
drifts: the ratio of neighbours counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any


def last_json(command: list[str]) -> dict[str, Any]:
  """Runs a command and reads its last line; what it writes to stderr is shown."""
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
  lines = done.stdout.strip().splitlines()
  if done.returncode or not lines:
    raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}")
  return json.loads(lines[-1])


def main() -> None:
  """Parses the flags, measures and prints."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument("--peer", required=True, type=os.path.expanduser, help="the other program")
  flags.add_argument("--peer_python", type=os.path.expanduser, default=sys.executable)
  flags.add_argument("--peer_flags", default="", help="more of its flags, as in one string")
  flags.add_argument("--our_flags", default="", help="more of ours, such as --precision=tf32")
  flags.add_argument("--job", default="search")
  flags.add_argument("--patch", type=int, default=64)
  flags.add_argument("--batch", type=int, default=1)
  flags.add_argument("--steps", type=int, default=20)
  flags.add_argument("--warmup", type=int, default=2)
  flags.add_argument("--rounds", type=int, default=2)
  given = flags.parse_args()
  shared = [f"--{name}={getattr(given, name)}" for name in ("job", "patch", "batch", "steps", "warmup")]
  ours = [sys.executable, "-m", "benchmarks.step", *shared, *given.our_flags.split()]
  theirs = [given.peer_python, given.peer, *shared, *given.peer_flags.split()]
  results: list[tuple[dict[str, Any], dict[str, Any]]] = []
  for number in range(given.rounds):
    results.append((last_json(ours), last_json(theirs)))
    print(f"round {number + 1}: {results[-1][0]['ms_median']} ms, {results[-1][1]['ms_median']} ms", file=sys.stderr)
  ratio = statistics.median(own["ms_median"] / other["ms_median"] for own, other in results)
  pairs = [[own["ms_median"], other["ms_median"]] for own, other in results]
  print(json.dumps({"ratio": round(ratio, 3), "ms": pairs, "ours": results[-1][0], "peer": results[-1][1]}))


if __name__ == "__main__":
  main()
