"""The names that nas3d_jax exports, and what importing them costs."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import nas3d_jax

ROOT = Path(nas3d_jax.__file__).parents[1]
# Import names of jax, flax, optax, orbax-checkpoint, nibabel, numpy and absl-py, the documented needs of the library.
OPTIONAL = ("grain", "matplotlib", "isal", "torch", "tensorflow")

PACKAGES = sorted(path.parent.name for path in ROOT.glob("nas3d_jax/*/__init__.py"))


@pytest.mark.parametrize("name", nas3d_jax.__all__)
def test_public_name(name):
  value = getattr(nas3d_jax, name)
  assert value.__name__ == name
  assert value.__module__.startswith("nas3d_jax.")
  assert inspect.getdoc(value)
  assert name in dir(nas3d_jax)


def test_type_checkers_see_the_same_names():
  tree = ast.parse(Path(nas3d_jax.__file__).read_text("utf-8"))
  imported = {
    alias.name: node.module
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom) and node.module.startswith("nas3d_jax.")
    for alias in node.names
  }
  assert sorted(imported) == sorted(nas3d_jax.__all__)
  for name, module in imported.items():
    assert getattr(nas3d_jax, name) is getattr(importlib.import_module(module), name)


def test_unknown_name():
  with pytest.raises(AttributeError, match="module 'nas3d_jax' has no attribute 'unet'"):
    nas3d_jax.unet  # noqa: B018


@pytest.mark.parametrize(("name", "module"), nas3d_jax._MODULES.items())
def test_former_module(name, module):
  assert getattr(nas3d_jax, name).__name__ == f"nas3d_jax.{module}"
  assert name not in nas3d_jax.__all__


def test_packages_come_by_themselves():
  script = f"import nas3d_jax; print([getattr(nas3d_jax, name).__name__[10:] for name in {PACKAGES}])"
  assert ast.literal_eval(run(script)) == PACKAGES
  assert run("import nas3d_jax; print(nas3d_jax.schema.BRATS2019.name)") == "brats2019\n"


def run(script):
  return subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_import_waits_for_nothing():
  assert run("import sys, nas3d_jax; print([m for m in ('jax', 'numpy', 'flax') if m in sys.modules])") == "[]\n"


def test_every_name_comes_without_optional_packages():
  """And without starting a backend of JAX: no work at import."""
  script = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL})); from nas3d_jax import *; "
  script += "from jax._src import xla_bridge; print(sorted(n for n in dir() if n in __import__('nas3d_jax').__all__))"
  script += "; sys.exit(xla_bridge.backends_are_initialized())"
  assert ast.literal_eval(run(script)) == sorted(nas3d_jax.__all__)
