"""The choice of a device, and the cache of compiled programs."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.runtime import devices

ROOT = Path(devices.__file__).parents[2]
OPTIONS = (
  "jax_platforms", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
)


@pytest.fixture(autouse=True)
def options():
  """Every test starts with no platform and no cache asked for, and leaves JAX as it found it."""
  before = {name: getattr(jax.config, name) for name in OPTIONS}
  jax.config.update("jax_platforms", None)
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def on_cpu():
  if jax.default_backend() != "cpu":
    pytest.skip("JAX has an accelerator here")


def fresh(script, **env):
  """The JSON that a script prints as its last line, in a process whose JAX has not started."""
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script)],
    capture_output=True, text=True, timeout=60, check=True, cwd=ROOT,
    env={**{k: v for k, v in os.environ.items() if not k.startswith("JAX_")}, **env},
  )
  assert "NVIDIA" not in done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def test_driver_without_a_gpu_in_jax_stops():
  on_cpu()
  with pytest.raises(InputError, match=r"an NVIDIA driver is present, but JAX has no GPU") as error:
    devices.select(driver_present=lambda: True)
  assert 'pip install "jax[cuda13]"' in str(error.value)
  assert "--platform=cpu goes on without it" in str(error.value)


@pytest.mark.parametrize(("platform", "driver"), [("cpu", True), ("cpu", False), (None, False)])
def test_cpu_goes_on(platform, driver):
  on_cpu()
  report = devices.select(platform, driver_present=lambda: driver)
  assert (report.platform, report.count) == ("cpu", jax.device_count())


def test_platform_of_the_environment_is_a_choice_as_well():
  on_cpu()
  jax.config.update("jax_platforms", "cpu")
  assert devices.select(driver_present=lambda: True).platform == "cpu"


def test_choosing_too_late_is_said():
  on_cpu()
  jax.devices()
  with pytest.raises(InputError, match=r"platform=gpu came too late, JAX already runs on cpu"):
    devices.select("gpu")


def test_what_a_fresh_process_gets():
  got = fresh("""
    import json
    from nas3d_jax.runtime import devices
    from nas3d_jax.errors import InputError
    said = {}
    for platform in ("nonsense", "cpu"):
      try:
        said[platform] = devices.select(platform, driver_present=lambda: True).to_dict()
      except InputError as error:
        said[platform] = str(error)
    print(json.dumps(said))
  """)
  assert got["nonsense"].startswith("platform=nonsense is not offered by JAX here")
  assert got["nonsense"].endswith("--platform=cpu goes on without it")
  assert got["cpu"]["platform"] == "cpu"
  names = {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "nas3d_jax"}
  assert names <= got["cpu"]["versions"].keys()
  assert got["cpu"]["versions"]["jax"] == jax.__version__


def test_memory_of_a_cpu_is_the_machines():
  on_cpu()
  info = Path("/proc/meminfo")
  if not info.exists():
    pytest.skip("only Linux tells its memory this way")
  total = 1024 * int(info.read_text().split("MemTotal:")[1].split()[0])
  assert devices.select("cpu").memory == pytest.approx(total, rel=0.01)


def test_report_is_one_line():
  report = devices.DeviceReport(
    "gpu", "NVIDIA H200", 2, 150 * 2**30, {"python": "3.12.1", "jax": "0.12.0"}
  )
  line = "device: 2 x NVIDIA H200 (gpu, 150.0 GiB); python 3.12.1, jax 0.12.0"
  assert str(report) == line
  assert devices.DeviceReport(**json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize("version", ["9.8.0.87", "9.10.2.21", "9.15.1.9"])
def test_wrong_cudnn_is_refused(version):
  with pytest.raises(InputError, match=rf"cuDNN {version} .* install a version above 9\.15"):
    devices.check_cudnn(version)


@pytest.mark.parametrize("version", [None, "9.7.1.26", "9.16.0.29", "10.0.0"])
def test_right_or_unknown_cudnn_passes(version):
  devices.check_cudnn(version)


def test_cache_is_the_users_and_this_machines(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  folder = devices.enable_compilation_cache()
  assert folder.parent == tmp_path / "nas3d_jax" / "xla"
  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert devices.enable_compilation_cache() == tmp_path / ".cache" / folder.relative_to(tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_a_cache_in_the_home_is_expanded_and_needs_one(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("XDG_CACHE_HOME", "~/mine")
  assert devices.enable_compilation_cache().is_relative_to(tmp_path / "mine")
  jax.config.update("jax_compilation_cache_dir", "~/other")
  assert devices.enable_compilation_cache() == tmp_path / "other"
  jax.config.update("jax_compilation_cache_dir", None)
  monkeypatch.setenv("XDG_CACHE_HOME", "~nobody.known/mine")
  with pytest.raises(InputError, match=r"no home is known for the cache .*; set XDG_CACHE_HOME"):
    devices.enable_compilation_cache()


@pytest.mark.parametrize("known", [True, False])
def test_without_a_home_to_write_to_programs_are_compiled_anew(monkeypatch, tmp_path, capsys, known):
  """As in containers that run as a user of whom the system knows nothing."""
  def unknown(number):
    raise KeyError(number)

  (tmp_path / "file").touch()
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  if known:
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
  else:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
  assert devices.enable_compilation_cache() is None
  assert jax.config.jax_compilation_cache_dir is None
  (line,) = capsys.readouterr().err.splitlines()
  place = tmp_path / "file" if known else "~"
  assert line.startswith(f"programs are compiled anew each time: {place}/.cache/nas3d_jax/xla/jaxlib-")
  assert line.endswith("cannot be written to; JAX_COMPILATION_CACHE_DIR names another folder for them")


def test_processors_differ_by_model_and_instructions_alone():
  text = "cpu MHz\t\t: {}\nmodel name\t: {}\nflags\t\t: {}\n"
  kind = devices.processor_kind(text.format(2100.5, "A", "sse2 avx"))
  assert kind == devices.processor_kind(text.format(3300.0, "A", "sse2 avx") * 8)
  assert kind != devices.processor_kind(text.format(2100.5, "A", "sse2"))
  assert kind != devices.processor_kind(text.format(2100.5, "B", "sse2 avx"))
  assert devices.processor_kind("arm") != devices.processor_kind("i386")


@pytest.mark.parametrize("given", [None, "mine"])
def test_cache_folder_of_the_environment_or_the_caller(tmp_path, given):
  got = fresh(
    f"""
    import json, jax
    from nas3d_jax.runtime import devices
    folder = devices.enable_compilation_cache({given!r})
    print(json.dumps([str(folder), jax.config.jax_compilation_cache_dir]))
    """,
    JAX_COMPILATION_CACHE_DIR=str(tmp_path),
  )
  assert got == [given or str(tmp_path)] * 2


@pytest.mark.parametrize(
  ("before", "platform", "driver", "after"),
  [
    ("", None, False, "--xla_backend_optimization_level=2"),
    ("--xla_x=1", "cpu", True, "--xla_x=1 --xla_backend_optimization_level=2"),
    ("--xla_backend_optimization_level=0", "cpu", False, "--xla_backend_optimization_level=0"),
    ("", None, True, "--xla_gpu_enable_triton_gemm=false --xla_gpu_enable_dynamic_slice_fusion=false"),
    (
      "--xla_gpu_enable_triton_gemm=true", "gpu", False,
      "--xla_gpu_enable_triton_gemm=true --xla_gpu_enable_dynamic_slice_fusion=false",
    ),
  ],
)
def test_options_of_xla_are_chosen_where_nobody_chose(monkeypatch, before, platform, driver, after):
  monkeypatch.setenv("XLA_FLAGS", before)
  monkeypatch.setattr(devices, "has_nvidia_driver", lambda: driver)
  devices.set_xla_flags(platform)
  assert os.environ["XLA_FLAGS"] == after


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_this_version_of_xla_knows_the_options(platform):
  """It ends the process at one that it does not know; a CPU reads those of a GPU as well."""
  script = f"""
    import json
    from nas3d_jax.runtime import devices
    devices.set_xla_flags({platform!r})
    import jax
    print(json.dumps(float(jax.numpy.ones(3).sum())))
    """
  assert fresh(script, JAX_PLATFORMS="cpu", XLA_FLAGS="") == 3.0
