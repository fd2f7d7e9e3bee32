"""The devices of a stage: the flags that choose them, and the line at the start of a run."""

from __future__ import annotations

from absl import flags

from nas3d_jax.runtime.stopping import Stop

# They count as flags of the stage that has them defined, whose help then lists them.
flags.disclaim_key_flags()

PLATFORM_HELP = "cpu, gpu or another of JAX's platforms; not given: an accelerator if there is one"
_HOSTS = ("coordinator", "processes", "process")


def define_devices(values: flags.FlagValues, *, hosts: bool = False) -> None:
  """Defines the flags of the devices on `values`, for the module that calls.

  Args:
    values: where.
    hosts: whether several processes may share the run.
  """
  own = dict(flag_values=values)
  flags.DEFINE_string("platform", None, PLATFORM_HELP, **own)
  flags.DEFINE_integer("devices", None, "devices that share the work; not given: all there are", lower_bound=1, **own)
  if hosts:
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process; not given: found out", **own)
    flags.DEFINE_integer("processes", None, "processes of the run; 1: this one alone", lower_bound=1, **own)
    flags.DEFINE_integer("process", None, "number of this process, from 0", lower_bound=0, **own)


def start(values: flags.FlagValues, stop: Stop | None = None) -> Stop:
  """Joins the other processes, chooses the device, turns on the cache of compiled programs; the first process says so.

  Args:
    values: the flags.
    stop: what may ask this process to stop.

  Returns:
    The same, or what may ask all processes of the run to stop where there are several.

  Raises:
    InputError: the device is not to be had, or the other processes did not come.
  """
  import jax

  from nas3d_jax.runtime import devices

  platform, stop = values["platform"].value, stop or Stop()
  devices.compile_faster(platform)
  processes = 1
  if "coordinator" in values:
    from nas3d_jax.runtime.distributed import StopTogether, join

    devices.choose_platform(platform)
    processes = join(**{name: values[name].value for name in _HOSTS})
    stop = StopTogether(stop) if processes > 1 else stop
  report = devices.select(platform)
  devices.enable_compilation_cache()
  if report.platform == "cpu":
    devices.keep_freed_memory()
  if jax.process_index() == 0:
    print(report, *[f"({processes} processes)"] * (processes > 1), flush=True)
  return stop


def settings(values: flags.FlagValues) -> dict:
  """The flags of a stage by name, as its configuration takes them; platform and processes are none of it."""
  return {name: value for name, value in values.flag_values_dict().items() if name not in ("platform", *_HOSTS)}
