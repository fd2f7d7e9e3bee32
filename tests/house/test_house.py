"""The house: imports point down only, few files know the big libraries, files stay small."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the foundation up. A package imports from those on the floors before its own; on the first, errors, lazy,
# validation and options lie below the rest.
FLOORS = (
  "errors version lazy validation options files runtime schema",
  "models data",
  "checkpointing",
  "training inference",
  "evaluation export convert",
  "report",
  "experiment",
  "launch",
)
WITHOUT_JAX = (
  "errors", "lazy", "validation", "options", "files", "runtime.stopping", "runtime.parallel", "runtime.progress_bar",
  "runtime.standard_streams", "schema",
  "models.config", "models.search_space", "models.genotype", "data.cases", "data.dataset", "data.inspection",
  "data.brain", "data.conform", "data.phantom", "data.patches.grid", "data.patches.placement",
  "checkpointing.step_folders", "checkpointing.integrity", "checkpointing.metadata", "training.config",
  "training.genotype_counts", "inference.config", "evaluation", "report.watch", "experiment.config",
)
ACCELERATED = {"jax", "jaxlib", "flax", "optax", "orbax", "grain"}


def module_name(path):
  """nas3d_jax/data/brain.py -> data.brain; launch/train.py -> launch.train."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  parts = parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts
  return ".".join(parts[1:] if parts[0] == "nas3d_jax" else parts)


FILES = sorted([*ROOT.glob("nas3d_jax/**/*.py"), *ROOT.glob("launch/*.py")])
TREES = {module_name(path): ast.parse(path.read_text("utf-8")) for path in FILES}


def imports(tree):
  """Absolute names of all that a file imports, wherever the import stands."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      # Only `launch` has relative ones: it is a part of the package where it is installed.
      module = f"launch.{node.module}" if node.level else node.module
      yield from (f"{module}.{alias.name}" for alias in node.names)


def inside(name):
  """The module of ours that an imported name belongs to, None if it is another's."""
  top, *parts = name.split(".")
  if top == "launch":
    parts = [top, *parts]
  elif top != "nas3d_jax":
    return None
  while parts and ".".join(parts) not in TREES:
    parts.pop()
  return ".".join(parts) or "__init__"


OURS = {name: {inside(i) for i in imports(tree)} - {None} for name, tree in TREES.items()}
THEIRS = {
  name: {i.split(".")[0] for i in imports(tree) if inside(i) is None}
  for name, tree in TREES.items()
}


def floor(package):
  found = [place for place, names in enumerate(FLOORS) if package in names.split()]
  assert found, f"{package} has no place in FLOORS yet"
  return found[0]


@pytest.mark.parametrize("name", sorted(TREES.keys() - {"__init__"}))
def test_imports_point_down(name):
  own = name.split(".")[0]
  others = {other.split(".")[0] for other in OURS[name]} - {own, "errors", "lazy", "validation", "options"}
  assert "__init__" not in others, f"{name} imports the face of the library, which knows all of it"
  assert not {other for other in others if floor(other) >= floor(own)}, f"{name} imports from above or beside"


def test_the_library_stands_in_its_packages():
  flat = {path.stem for path in ROOT.glob("nas3d_jax/*.py")}
  assert flat == {"__init__", "errors", "lazy", "options", "validation", "version"}
  for path in ROOT.glob("nas3d_jax/**/*.py"):
    assert (path.parent / "__init__.py").exists(), path
    assert path.name != "__init__.py" or ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


def test_imports_make_no_circle():
  left = {name: set(others) - {name} for name, others in OURS.items()}
  while ready := {name for name, others in left.items() if not others & left.keys()}:
    left = {name: others for name, others in left.items() if name not in ready}
  assert not {name: others & left.keys() for name, others in left.items()}


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_what_needs_no_jax(name):
  reached, new = set(), {other for other in TREES if other == name or other.startswith(f"{name}.")}
  assert new
  while new:
    reached |= new
    new = set().union(*(OURS[other] for other in new)) - reached
  assert not {other: THEIRS[other] & ACCELERATED for other in reached if THEIRS[other] & ACCELERATED}


@pytest.mark.parametrize(
  ("library", "module"), [("orbax", "checkpointing.orbax_items"), ("grain", "data.patches.host_batches")]
)
def test_one_file_knows(library, module):
  assert {name for name, names in THEIRS.items() if library in names} == {module}


@pytest.mark.parametrize("library", ["matplotlib", "PIL"])
def test_only_the_report_draws(library):
  assert {name.split(".")[0] for name, names in THEIRS.items() if library in names} == {"report"}


def test_only_the_commands_import_relatively():
  levels = {
    (name.split(".")[0] == "launch", node.level)
    for name, tree in TREES.items() for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("launch"))
  }  # fmt: skip
  assert levels == {(True, 1)}


def test_nothing_uses_the_state_of_pyplot():
  assert not [name for name, tree in TREES.items() if any("pyplot" in i for i in imports(tree))]


@pytest.mark.parametrize("library", ["pickle", "torch", "tensorflow"])
def test_nothing_imports(library):
  assert not {name for name, names in THEIRS.items() if library in names}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_is_short_and_does_not_assert_or_evaluate(path):
  assert len(path.read_text("utf-8").splitlines()) < 300
  for node in ast.walk(TREES[module_name(path)]):
    assert not isinstance(node, ast.Assert), f"line {node.lineno} asserts: raise InputError"
    assert not (isinstance(node, ast.Name) and node.id in ("eval", "exec")), node.lineno


def test_no_file_names_a_folder_of_some_machine():
  folder = re.compile(r"(?<![\w.:/>}])/(?:home|root|work|Users|mnt|scratch|private)/")
  text = {".py", ".md", ".toml", ".txt", ".cfg", ".yml", ".yaml", ".json", ".sh", ""}
  places = [ROOT / name for name in ("nas3d_jax", "launch", "tests", "benchmarks", ".ci")]
  files = [path for place in places for path in place.rglob("*")] + list(ROOT.iterdir())
  # A worktree's `.git` is a file that names the repository.
  files = [path for path in files if path.is_file() and path.suffix in text and path.name != ".git"]
  assert len(files) > len(FILES)
  assert not [path for path in files if folder.search(path.read_text("utf-8", errors="replace"))]


def test_pip_installs_the_library_and_nothing_else():
  listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
  packages = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("nas3d_jax/**/__init__.py")}
  assert sorted(listed) == sorted({*packages, "nas3d_jax.launch"})


def test_no_public_name_is_that_of_a_module():
  """Importing a module sets its name on the package, which would hide the function of the same name."""
  import nas3d_jax

  assert not set(nas3d_jax.__all__) & {name.split(".")[0] for name in TREES}
