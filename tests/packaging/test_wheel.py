"""The installed package: built as a wheel, in an environment of its own, far from the clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import jax
import pytest

from nas3d_jax.version import __version__

ROOT = Path(__file__).parents[2]
_SIZES = ["--patch_size=16", "--epochs=1", "--kernels=1", "--nodes=1", "--depth=2"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """Built from a copy, because setuptools writes beside the sources."""
  pytest.importorskip("setuptools", reason="the wheel is built by setuptools (requirements-test.txt)")
  folder = tmp_path_factory.mktemp("wheel")
  source = folder / "source"
  source.mkdir()
  for name in ("nas3d_jax", "launch"):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
    shutil.copy(ROOT / name, source)
  build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
  subprocess.run(build, check=True)
  return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
  names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
  modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("nas3d_jax/**/*.py")}
  modules |= {f"nas3d_jax/launch/{path.name}" for path in ROOT.glob("launch/*.py")}
  assert names == {*modules, "nas3d_jax/py.typed"}
  assert wheel.name.startswith(f"nas3d_jax-{__version__}-")


@pytest.fixture(scope="module")
def nas3d(wheel, tmp_path_factory):
  """Runs the command of an environment that has the wheel, and what it needs from this one; returns its output."""
  folder = tmp_path_factory.mktemp("installed")
  venv.create(folder / "env", with_pip=False)
  where = sysconfig.get_path("purelib", vars={"base": folder / "env"})
  install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", f"--prefix={folder / 'env'}", wheel]
  subprocess.run([*install, "--ignore-installed"], check=True)
  Path(where, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
  script = folder / "env" / "bin" / "nas3d"
  # Where the installed script points to the Python that installed it.
  lines = script.read_text().splitlines()
  script.write_text("\n".join([f"#!{folder / 'env' / 'bin' / 'python'}", *lines[1:]]))
  own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  own["JAX_COMPILATION_CACHE_DIR"] = str(jax.config.jax_compilation_cache_dir)

  def run(*arguments, code=0):
    done = subprocess.run([script, *arguments], cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr

  run.folder = folder
  return run


def test_the_command_names_itself(nas3d):
  assert nas3d("--version") == f"nas3d_jax {__version__}\n"
  assert nas3d().startswith("nas3d STAGE --flags\n")
  assert "(nas3d search --help)" in nas3d("search", code=2)
  assert "python -m launch" not in nas3d("train", "--help")


def test_all_stages_run_without_the_clone(nas3d):
  shape = "--shape=24,24,24"
  nas3d("phantom", "--out=data", "--cases=4", shape)
  nas3d("phantom", "--out=test", "--cases=1", "--seed=1", shape)
  nas3d("preprocess", "--data_dir=data", "--workdir=run", "--folds=2")
  nas3d("search", "--workdir=run", *_SIZES, "--platform=cpu")
  nas3d("train", "--workdir=run", *_SIZES, "--platform=cpu")
  nas3d("predict", "--workdir=run", "--fold=0", "--data_dir=test", "--out=out", "--platform=cpu")
  nas3d("evaluate", "--predictions=out", "--data_dir=test", "--out=run/scores/searched/test")
  nas3d("report", "--workdir=run", "--test_dir=test")
  page = (nas3d.folder / "run" / "report" / "index.html").read_text("utf-8")
  assert "<code>nas3d experiment" in page and "python -m launch" not in page
  versions = json.loads((nas3d.folder / "run" / "train" / "0" / "config.json").read_text())["sessions"][-1]["versions"]
  assert versions["nas3d_jax"] == __version__


def test_the_version_is_the_same_everywhere():
  assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
  first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
  assert first.removeprefix("## ").split(",")[0] == __version__
