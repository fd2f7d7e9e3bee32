"""What the tests share: one tiny network, one cache of compiled programs, the golden and the real data."""

import gc
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas3d_jax.models.config import NetworkConfig


def pytest_addoption(parser):
  parser.addoption("--soak", type=int, default=0, metavar="N", help="kill and resume N times, of every kind of run")


def xla_flags():
  """Those that compile fast: most of these tests' time is spent on compiling loops that run for milliseconds."""
  flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
  flags += " --xla_cpu_parallel_codegen_split_count=1"
  # The older way to compile fused operations takes half as long; later versions do not know it, and stop at the flag.
  if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    flags += " --xla_cpu_use_fusion_emitters=false"
  return flags


def platforms():
  """The CPU, on which tests compute, and a GPU that JAX can use, for the tests that ask for it."""
  plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin")
  return "cpu,cuda" if shutil.which("nvidia-smi") and any(map(importlib.util.find_spec, plugins)) else "cpu"


def pytest_configure(config):
  """Settings of JAX, made before it is imported; they are inherited by the processes that tests start."""
  settings = {
    "JAX_COMPILATION_CACHE_DIR": str(config.cache.mkdir("xla")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "XLA_FLAGS": xla_flags(),
    "JAX_PLATFORMS": platforms(),
    # Several processes share a GPU.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    # A program that was read from the cache is reported as an error, which it is not.
    "TF_CPP_MIN_LOG_LEVEL": "3",
  }
  for name, value in settings.items():
    os.environ.setdefault(name, value)
  # Tracing makes millions of objects and little garbage; by default a fifth of its time goes into looking for it.
  gc.set_threshold(200_000, 50, 100)
  # Shells ignore Ctrl-C in what they run in the background, and what is ignored stays so in the processes of tests.
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_through():
  """What JAX keeps of the programs so far is millions of objects, among which every search for garbage would look."""
  gc.collect()
  gc.freeze()


@pytest.fixture(scope="session")
def shared():
  """The folder of golden and real data; not part of the repository."""
  folder = os.environ.get("NAS3D_SHARED")
  if not folder:
    pytest.skip("NAS3D_SHARED is not set: it names the folder of the golden arrays and the real patients")
  return Path(folder)


@pytest.fixture(scope="session")
def golden(shared):
  """name -> path of a file of golden arrays."""
  return (shared / "golden").joinpath


@pytest.fixture(scope="session")
def real_cases(shared):
  """The folder of two real patients."""
  return shared / "real" / "cases"


@dataclass(frozen=True)
class Tiny:
  """A supernet of 1 node and depth 2, its variables, an image [1, 16, 16, 16, 4] and a target [1, 16, 16, 16, 3]."""

  config: NetworkConfig
  net: Any
  variables: dict[str, Any]
  image: np.ndarray
  target: np.ndarray


@pytest.fixture(scope="session")
def tiny():
  """The one network that tests share, so that it is drawn and compiled once."""
  import jax

  from nas3d_jax.models.networks import Supernet

  random = np.random.default_rng(0)
  config = NetworkConfig(kernels=2, nodes=1, depth=2)
  net = Supernet(config)
  image = random.uniform(10, 110, (1, 16, 16, 16, 4)).astype(np.float32)
  target = (random.random((1, 16, 16, 16, 3)) < 0.3).astype(np.float32)
  return Tiny(config, net, net.init(jax.random.key(0), image), image, target)


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory):
  """A data set of four made-up cases of 24^3 in two folds; to be copied, not written to."""
  from nas3d_jax.data.dataset.preprocess import preprocess
  from nas3d_jax.data.phantom import write_phantoms

  folder = tmp_path_factory.mktemp("phantoms")
  write_phantoms(folder / "data", cases=4, seed=0, shape=(24, 24, 24))
  return preprocess(folder / "data", folder / "dataset", folds=2)


@pytest.fixture
def workdir(tmp_path, phantom_dataset):
  """A run directory with that data set and nothing else."""
  shutil.copytree(phantom_dataset.folder, tmp_path / "run" / "dataset")
  return tmp_path / "run"


@pytest.fixture
def copies(tmp_path, phantom_dataset):
  """Run directories by name, each with that data set."""

  def make(name):
    shutil.copytree(phantom_dataset.folder, tmp_path / name / "dataset")
    return tmp_path / name

  return make


@pytest.fixture(scope="session")
def searched(tmp_path_factory, phantom_dataset):
  """A run directory with a finished search of three epochs, with a supernet of 1 kernel, 1 node and depth 2 on 8^3."""
  from nas3d_jax.training.config import SearchConfig
  from nas3d_jax.training.search import search

  folder = tmp_path_factory.mktemp("searched") / "run"
  shutil.copytree(phantom_dataset.folder, folder / "dataset")
  search(SearchConfig(folder, patch_size=8, kernels=1, nodes=1, depth=2, epochs=3))
  return folder


@pytest.fixture
def make_disk(tmp_path):
  """Makes folders on file systems of their own, by what limits them, where the system lets us."""
  made = []

  def make(limit):
    folder = tmp_path / f"disk{len(made) or ''}"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", limit, "tmpfs", str(folder)]
    try:
      mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
      mounted = False
    if not mounted:
      pytest.skip("mounting a file system is not permitted here")
    made.append(folder)
    return folder

  yield make
  for folder in made:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(make_disk):
  """A folder on a file system of its own that holds 400 KB, where the system lets us make one."""
  return make_disk("size=400k")
