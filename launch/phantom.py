"""Makes up BraTS-like cases, for trying things out without data.

Four modalities and the segmentation of each case, in the layout of BraTS 2019. They look like heads
with tumours and are no substitute for patients.
"""

from __future__ import annotations

from absl import flags

from .flags import define_list, define_path

REQUIRED = ("out",)


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  define_path(values, "out", "folder to write the cases to")
  flags.DEFINE_integer("cases", 4, "number of cases", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("seed", 0, "the same seed makes the same cases", flag_values=values)
  define_list("shape", ["240", "240", "155"], "voxels along the three axes", values)


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code."""
  from nas3d_jax.data.phantom import write_phantoms

  folders = write_phantoms(
    values["out"].value,
    cases=values["cases"].value,
    seed=values["seed"].value,
    shape=_shape(values["shape"].value),
  )
  print(f"{len(folders)} cases in {values['out'].value}")
  return 0


def _shape(lengths: list[str]) -> tuple[int, ...]:
  from nas3d_jax.errors import InputError

  if len(lengths) != 3 or not all(length.strip().isdecimal() for length in lengths):
    raise InputError(f"--shape must be three whole numbers, D,H,W, got {','.join(lengths)!r}")
  return tuple(int(length) for length in lengths)
