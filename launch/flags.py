"""The flags that several stages share, and the line on the device at the start of a run."""

from __future__ import annotations

from typing import Literal

from absl import flags

from nas3d_jax.runtime.stopping import Stop

# They count as flags of the stage that has them defined, whose help then lists them.
flags.disclaim_key_flags()

PLATFORM_HELP = "cpu, gpu or another of JAX's platforms; not given: an accelerator if there is one"
_HOSTS = ("coordinator", "processes", "process")


def define_common(values: flags.FlagValues) -> None:
  """Defines the flags of the searched network, its input and its steps on `values`, for the module that calls."""
  own = dict(flag_values=values)
  count = dict(lower_bound=1, **own)
  flags.DEFINE_integer("batch_size", 1, "patches a step, on each device", **count)
  flags.DEFINE_integer("kernels", None, "kernels a node; not given: the modalities", **count)
  flags.DEFINE_integer("nodes", 3, "nodes of a cell", **count)
  flags.DEFINE_integer("depth", 4, "downward cells", **count)
  flags.DEFINE_enum(
    "variant", "paper", ["paper", "released"], "squeeze-and-excitation convolution as in the paper "
    "or as in its released program", **own,
  )
  flags.DEFINE_bool("skip_empty", True, "leave out patches without tumour", **own)
  flags.DEFINE_bool("augment", True, "scale, flip and rotate patches", **own)
  flags.DEFINE_enum(
    "data_placement", "auto", ["auto", "device", "host"], "where the data lies; auto: on an accelerator where it fits",
    **own,
  )
  flags.DEFINE_enum(
    "precision", "float32", ["float32", "tf32", "bfloat16"], "of convolutions; all else is float32", **own
  )
  flags.DEFINE_integer(
    "skip_nonfinite", 0, "steps that may be left out because a loss or gradient was not finite", lower_bound=0, **own
  )
  flags.DEFINE_float("checkpoint_minutes", 10.0, "minutes between checkpoints", lower_bound=0.0, **own)


def define_choices(values: flags.FlagValues) -> None:
  """Defines the flags on `values`, for the module that calls."""
  flags.DEFINE_bool("tta", False, "average over the 8 mirrored inputs", flag_values=values)
  flags.DEFINE_float(
    "overlap", 0.0, "least part of a patch that neighbours share; 0: auto-fitted patches",
    lower_bound=0.0, upper_bound=1.0, flag_values=values,
  )
  flags.DEFINE_bool(
    "gaussian", False, "weigh overlapping patches about their centres", flag_values=values
  )
  flags.DEFINE_bool(
    "whole_volume", False, "the whole brain in one pass, no patches", flag_values=values
  )
  flags.DEFINE_integer(
    "patch_batch", 1, "patches in one pass", lower_bound=1, flag_values=values
  )
  flags.DEFINE_float(
    "min_component_ml", 0.0, "take smaller components out of the innermost region, in ml",
    lower_bound=0.0, flag_values=values,
  )


def define_schema(
  values: flags.FlagValues, name: str = "schema", of: str = "", *, otherwise: str = "found out"
) -> None:
  """Defines the flag on `values`, for the module that calls."""
  flags.DEFINE_string(
    name, None, f"what files, labels and regions{of} are called: brats2019 (2017 to 2021), brats2023, brats2024, "
    f"decathlon, nnunet or a YAML file; not given: {otherwise}", flag_values=values,
  )


def parse_fold(text: str) -> int | Literal["all"]:
  """`"2"` -> 2, `"all"` -> "all".

  Raises:
    InputError: it is neither.
  """
  from nas3d_jax.errors import InputError

  if text == "all":
    return "all"
  if not text.isdecimal():
    raise InputError(f"--fold must be the number of a fold, from 0, or all, got {text!r}")
  return int(text)


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
