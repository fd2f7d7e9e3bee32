"""The device of a stage: the flag that chooses it, and the line at the start of a run."""

from __future__ import annotations

from absl import flags

PLATFORM_HELP = "cpu, gpu or another of JAX's platforms; not given: an accelerator if there is one"


def start(values: flags.FlagValues) -> None:
  """Chooses the device by `--platform`, turns on the cache of compiled programs, says so.

  Raises:
    InputError: the device is not to be had.
  """
  from nas3d_jax import devices

  devices.compile_faster(values["platform"].value)
  report = devices.select(values["platform"].value)
  devices.enable_compilation_cache()
  if report.platform == "cpu":
    devices.keep_freed_memory()
  print(report, flush=True)


def settings(values: flags.FlagValues) -> dict:
  """The flags of a stage by name, as its configuration takes them; the platform is none of it."""
  return {name: value for name, value in values.flag_values_dict().items() if name != "platform"}
