"""Chooses and describes the device of a run; sets up XLA and its cache of compiled programs."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.metadata
import logging
import os
import platform as host
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from nas3d_jax.errors import InputError

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# The wheel's name carries the CUDA version; the first that is installed counts.
_CUDNN = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")

_CPU_FLAGS = {"xla_backend_optimization_level": "2"}
_GPU_FLAGS = {"xla_gpu_enable_triton_gemm": "false", "xla_gpu_enable_dynamic_slice_fusion": "false"}

# Names of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@dataclasses.dataclass(frozen=True)
class DeviceReport:
  """Where a run computes, and with which versions.

  Attributes:
    platform: as JAX names it: "cpu", "gpu", "tpu".
    kind: the device's own name.
    count: number of such devices, of all processes that share the run.
    memory: bytes that JAX may use on the device, of the whole machine for a CPU; None if unknown.
    versions: package -> version, "python" and "nas3d_jax" among them.
  """

  platform: str
  kind: str
  count: int
  memory: int | None
  versions: dict[str, str]

  def to_dict(self) -> dict[str, Any]:
    """All fields as plain values, for JSON."""
    return dataclasses.asdict(self)

  def __str__(self) -> str:
    memory = "memory unknown" if self.memory is None else f"{self.memory / 2**30:.1f} GiB"
    versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
    return f"device: {self.count} x {self.kind} ({self.platform}, {memory}); {versions}"


def has_nvidia_driver() -> bool:
  """Whether an NVIDIA driver is present on this machine, whether or not JAX can use it."""
  files = ("/proc/driver/nvidia/version", "/dev/nvidia0")
  return any(Path(file).exists() for file in files) or shutil.which("nvidia-smi") is not None


def select(
  platform: str | None = None, *, driver_present: Callable[[], bool] = has_nvidia_driver
) -> DeviceReport:
  """Chooses the platform of this process; call it before JAX computes anything.

  Args:
    platform: "cpu", "gpu" or another of JAX's names; None leaves the choice to JAX, which takes an
      accelerator where it finds one.
    driver_present: returns whether the machine has an NVIDIA driver.

  Returns:
    The device that JAX runs on.

  Raises:
    InputError: JAX does not offer the platform, or already runs on another; none was asked for,
      an NVIDIA driver is present, and JAX has no GPU; or cuDNN computes 3D convolutions wrongly.
  """
  choose_platform(platform)
  with _jax_warnings() as warnings:
    try:
      device = jax.local_devices()[0]
    except (RuntimeError, AssertionError) as error:
      raise InputError(_missing(platform, warnings or str(error).splitlines()[:1])) from error
  asked = {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)
  if asked is not None and device.platform != asked:
    raise InputError(
      f"platform={platform} came too late, JAX already runs on {device.platform}; choose it first"
    )
  chosen = jax.config.jax_platforms
  if device.platform == "cpu" and not chosen and driver_present():
    raise InputError(_missing(platform, warnings))
  report = DeviceReport(
    platform=device.platform,
    kind=device.device_kind,
    count=jax.device_count(),
    memory=_memory(device),
    versions=_versions(),
  )
  if device.platform == "gpu":
    check_cudnn(report.versions.get("cudnn"))
  return report


def choose_platform(platform: str | None) -> None:
  """Sets the platform of this process, see `select`, without asking for a device; None leaves it to JAX."""
  if platform is not None:
    # "gpu" as JAX's own alias tries every maker's in turn and fails on the last.
    jax.config.update("jax_platforms", {"gpu": "cuda"}.get(platform, platform))


def check_cudnn(version: str | None) -> None:
  """Raises InputError for the versions 9.8 to 9.15, whose 3D convolutions were wrong in TF32."""
  if version is None:
    return
  if (9, 8) <= tuple(int(part) for part in version.split(".")[:2]) <= (9, 15):
    raise InputError(
      f"cuDNN {version} computes 3D convolutions wrongly in TF32 and bfloat16; install a version "
      "above 9.15 (pip install -U nvidia-cudnn-cu13), or go on with --platform=cpu"
    )


def enable_compilation_cache(folder: str | Path | None = None) -> Path | None:
  """Keeps compiled programs on disk, so that a second run starts at once.

  Call it before JAX compiles anything. Where nothing is asked for and the user has no home to write to, as in many
  containers, programs are compiled anew each time, and a line on stderr says so.

  Args:
    folder: where; None means JAX_COMPILATION_CACHE_DIR where that is set, else a folder of this
      jaxlib and this kind of processor in the user's cache directory.

  Returns:
    The folder, or None; JAX makes it with the first program that took longer than a second to compile.

  Raises:
    InputError: one is asked for in the home of a user who has none.
  """
  asked = folder or (jax.config.jax_compilation_cache_dir and os.path.expanduser(jax.config.jax_compilation_cache_dir))
  folder = Path(asked or _cache_folder())
  if not asked and not os.environ.get("XDG_CACHE_HOME") and not _can_be_made(folder):
    print(
      f"programs are compiled anew each time: {folder} cannot be written to; JAX_COMPILATION_CACHE_DIR names another "
      "folder for them", file=sys.stderr, flush=True,
    )
    return None
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
  return folder


def set_xla_flags(platform: str | None = None) -> None:
  """Chooses the options of XLA that these networks need; call it before JAX is first asked for a device.

  On a CPU it optimises at level 2: the last level takes a fifth more of the processor's time to compile a step, and its
  programs are no faster. On a GPU its own products of matrices (Triton) are left out, of which it compiles and times
  many forms for each product of a step, which takes minutes; what a step would gain by them was not measured. And
  products are not given slices of larger arrays in place: a slice of the packed parameters begins at any number, and in
  tf32 and bfloat16 cuBLAS refuses such products, presumably for their alignment. What XLA_FLAGS says of one of them
  takes precedence.

  Args:
    platform: see `select`.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  on_cpu = platform == "cpu" or (platform is None and not has_nvidia_driver())
  for name, value in (_CPU_FLAGS if on_cpu else _GPU_FLAGS).items():
    if name not in flags:
      flags = f"{flags} --{name}={value}".strip()
  os.environ["XLA_FLAGS"] = flags


def keep_freed_memory() -> None:
  """Lets the C library keep memory that XLA frees on a CPU, for the next step; without glibc nothing happens.

  A step asks for its gigabytes anew each time. By default they go back to the system and are mapped in page by page
  again, which takes several times as long as the arithmetic of a group norm: 60 ms against 5 for a copy of 38 MB on two
  virtual cores.
  """
  set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
  if set_option is not None:
    for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
      set_option(option, 2**31 - 1)


def processor_kind(cpuinfo: str) -> str:
  """A short name for the model and the instructions of a processor.

  Args:
    cpuinfo: the text of /proc/cpuinfo, or another text that differs between kinds of processors.

  Returns:
    Eight hexadecimal digits.
  """
  lines = cpuinfo.splitlines()
  telling = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
  return hashlib.sha256("\n".join(sorted(telling or lines)).encode()).hexdigest()[:8]


def _cache_folder() -> Path:
  # JAX's key holds no features of the processor: one cache of two machines that share a home would
  # hand one of them programs with instructions that it does not have.
  info = Path("/proc/cpuinfo")
  processor = processor_kind(info.read_text() if info.exists() else host.processor())
  # Values of variables are not expanded by every shell.
  base = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
  if base.parts[0].startswith("~") and os.environ.get("XDG_CACHE_HOME"):
    raise InputError(f"no home is known for the cache of compiled programs, got {str(base)!r}; set XDG_CACHE_HOME")
  jaxlib = importlib.metadata.version("jaxlib")
  return base / "nas3d_jax" / "xla" / f"jaxlib-{jaxlib}-{host.machine()}-{processor}"


def _can_be_made(folder: Path) -> bool:
  """Whether a folder is there, or this process may make it."""
  above = next(place for place in (folder, *folder.parents) if place.exists())
  return folder.parts[0] != "~" and above.is_dir() and (above == folder or os.access(above, os.W_OK))


@contextlib.contextmanager
def _jax_warnings() -> Iterator[list[str]]:
  """Collects what JAX would print on the choice of a backend."""
  lines: list[str] = []

  def collect(record: logging.LogRecord) -> bool:
    lines.append(record.getMessage())
    return False

  logger = logging.getLogger("jax._src.xla_bridge")
  logger.addFilter(collect)
  try:
    yield lines
  finally:
    logger.removeFilter(collect)


def _missing(platform: str | None, said: list[str]) -> str:
  said = [line.strip() for line in said if line.strip()]
  reason = f" (JAX says: {' '.join(said)})" if said else ""
  remedy = "--platform=cpu goes on without it"
  if platform is None:
    return (
      f"an NVIDIA driver is present, but JAX has no GPU{reason}; install JAX for it with "
      f'pip install "jax[cuda13]", or {remedy}'
    )
  nvidia = platform in ("gpu", "cuda")
  install = 'for an NVIDIA GPU pip install "jax[cuda13]", or ' if nvidia else ""
  return f"platform={platform} is not offered by JAX here{reason}; {install}{remedy}"


def _memory(device: jax.Device) -> int | None:
  """Bytes; a CPU device has no figures of its own, its memory is the machine's."""
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return stats["bytes_limit"]
  if device.platform == "cpu" and hasattr(os, "sysconf"):
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return None


def _versions() -> dict[str, str]:
  versions = {"python": host.python_version()}
  versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
  cudnn = [version for name in _CUDNN if (version := _installed(name))]
  if cudnn:
    versions["cudnn"] = cudnn[0]
  return versions | {"nas3d_jax": _installed("nas3d_jax") or "source"}


def _installed(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None
