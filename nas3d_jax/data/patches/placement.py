"""Where the cases of a run lie while it takes patches of them: on the device or on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from nas3d_jax.errors import InputError

Placement = Literal["auto", "device", "host"]
PLACEMENTS: tuple[Placement, ...] = ("auto", "device", "host")


def place(streams: Sequence[Any], placement: Placement, memory: int | None, *, accelerated: bool) -> bool:
  """Copies cases to the device where that is asked for, or pays.

  Args:
    streams: `PatchStream`s, whose cases lie all on the device or all on the host.
    placement: "device", "host", or "auto": on an accelerator, where they take half of its memory at most.
    memory: bytes of the device, None if unknown.
    accelerated: whether the device is an accelerator.

  Returns:
    Whether they are on the device now.

  Raises:
    InputError: no such placement, or "device" and more data than memory.
  """
  if placement not in PLACEMENTS:
    raise InputError(f"data_placement must be one of {', '.join(PLACEMENTS)}, got {placement!r}")
  if placement == "host" or (placement == "auto" and not (accelerated and memory)):
    return False
  size = sum(stream.bytes for stream in streams)
  if placement == "device" and memory is not None and size > memory:
    raise InputError(
      f"data_placement=device needs {size / 2**30:.1f} GiB on the device, which has {memory / 2**30:.1f}; use host"
    )
  if placement == "auto" and size > memory / 2:
    return False
  for stream in streams:
    stream.to_device()
  return True
