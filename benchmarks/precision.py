"""What each precision costs in accuracy: losses after 50 search steps from one start, and their difference to float32.

    python -m benchmarks.precision --patch=32 --steps=50
"""

from __future__ import annotations

import argparse
import json

import jax

from benchmarks.step import losses_after
from nas3d_jax.models.config import PRECISIONS


def main() -> None:
  """Parses the flags, measures and prints one line of JSON a precision."""
  flags = argparse.ArgumentParser(description=__doc__)
  flags.add_argument("--patch", type=int, default=64)
  flags.add_argument("--steps", type=int, default=50)
  flags.add_argument("--variant", choices=("paper", "released"), default="paper")
  given = flags.parse_args()
  exact = None
  for precision in PRECISIONS:
    losses = losses_after(given.steps, patch=given.patch, precision=precision, variant=given.variant)
    exact = exact or losses
    off = {name: round(value - exact[name], 6) for name, value in losses.items()}
    device = jax.devices()[0].device_kind
    print(json.dumps({"precision": precision, "device": device, **vars(given), **losses, "difference": off}))


if __name__ == "__main__":
  main()
