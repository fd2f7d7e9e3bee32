"""Where the cases of a run lie while it takes patches of them: on the device or on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from nas3d_jax.errors import InputError

Placement = Literal["auto", "device", "host"]
PLACEMENTS: tuple[Placement, ...] = ("auto", "device", "host")

# Voxels are counted in int32, one past the last among them.
_MOST_VOXELS = 2**31 - 1


def place(streams: Sequence[Any], placement: Placement, memory: int | None, *, accelerated: bool) -> bool:
  """Copies cases to the device where that is asked for, or pays.

  Args:
    streams: `PatchStream`s, whose cases lie all on the device or all on the host.
    placement: "device", "host", or "auto": on an accelerator, where they take half of its memory at most and can be
      counted by int32.
    memory: bytes of the device, None if unknown.
    accelerated: whether the device is an accelerator.

  Returns:
    Whether they are on the device now.

  Raises:
    InputError: no such placement, or "device" and more data than memory, or more voxels than can be counted.
  """
  if placement not in PLACEMENTS:
    raise InputError(f"data_placement must be one of {', '.join(PLACEMENTS)}, got {placement!r}")
  if placement == "host" or (placement == "auto" and not (accelerated and memory)):
    return False
  sizes = [stream.size for stream in streams]
  voxels, size = max(voxels for voxels, _ in sizes), sum(size for _, size in sizes)
  if placement == "device" and voxels > _MOST_VOXELS:
    raise InputError(
      f"data_placement=device holds {_MOST_VOXELS:,} voxels of a part at most, these cases have {voxels:,}; use host"
    )
  if placement == "device" and memory is not None and size > memory:
    raise InputError(
      f"data_placement=device needs {size / 2**30:.1f} GiB on the device, which has {memory / 2**30:.1f}; use host"
    )
  if placement == "auto" and (size > memory / 2 or voxels > _MOST_VOXELS):
    return False
  for stream in streams:
    stream.to_device()
  return True
