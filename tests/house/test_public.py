"""The names that nas3d_jax exports, and what importing them costs."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import nas3d_jax
from nas3d_jax.lazy import modules_of

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


def test_what_is_inside_packages_comes_by_itself():
  script = "import nas3d_jax; print(nas3d_jax.data.patches.grid.patch_starts.__module__, nas3d_jax.packing.__name__)"
  assert run(script) == "nas3d_jax.data.patches.grid nas3d_jax.models.packing\n"
  # Whatever was imported before.
  script = "import nas3d_jax.data.cases; print(nas3d_jax.data.brain.__name__, nas3d_jax.schema.schema.__name__)"
  assert run(script) == "nas3d_jax.data.brain nas3d_jax.schema.schema\n"


@pytest.mark.parametrize("package", ["data", "data.patches", "schema"])
def test_unknown_module(package):
  found = importlib.import_module(f"nas3d_jax.{package}")
  with pytest.raises(AttributeError, match=f"module 'nas3d_jax.{package}' has no attribute 'unet'"):
    found.unet  # noqa: B018
  assert not hasattr(found, "__wrapped__")


def test_a_module_that_lacks_another_says_which(monkeypatch, tmp_path):
  (tmp_path / "some_package").mkdir()
  (tmp_path / "some_package" / "__init__.py").write_text("")
  (tmp_path / "some_package" / "module.py").write_text("import no_such_library")
  monkeypatch.syspath_prepend(tmp_path)
  get = modules_of("some_package")
  with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_library'"):
    get("module")
  with pytest.raises(AttributeError, match="module 'some_package' has no attribute 'other'"):
    get("other")


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
