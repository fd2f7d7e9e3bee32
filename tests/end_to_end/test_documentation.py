"""README and docs: their code runs, their commands, links and modules exist."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import nas3d_jax
from launch.__main__ import STAGES, main
from nas3d_jax.report import gallery

ROOT = Path(nas3d_jax.__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "BUILD.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in PAGES}

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A command may go on in a next line that begins with a flag: after a backslash, or in YAML.
GOES_ON = re.compile(r"\s*\\?\n +(?=--)")
# `nas3d` is an installed `python -m launch`; that of BUILD.md is the latter.
CALL = r"(?:\bnas3d|python -m launch) (?=\w)"
COMMAND = re.compile(rf"{CALL}(\w+)([^\n'#`]*)")
# Flags that stand in prose and are those of absl, of benchmarks.scaling, of sbatch.
OTHERS = {"help", "flagfile", "infer", "signal"}

NETWORK = ["--kernels=1", "--nodes=1", "--depth=2", "--patch_size=8", "--epochs=1", "--platform=cpu"]
SHRINK = {"phantom": ["--shape=16,16,16"], "search": NETWORK, "train": NETWORK, "predict": ["--platform=cpu"]}


def blocks(page, language):
  return [code for kind, code in FENCE.findall(TEXTS[page]) if kind == language]


def commands(text):
  """(stage, arguments) of each command of the launchers; a variable of the shell stands for a number."""
  found = COMMAND.findall(GOES_ON.sub(" ", text))
  return [(stage, shlex.split(re.sub(r"\$\w+", "0", rest))) for stage, rest in found]


def defined(stage):
  module, values = importlib.import_module(f"launch.{stage}"), flags.FlagValues()
  module.define(values)
  return module, values


def resolve(name):
  """A module, or what stands in one, by its dotted name below nas3d_jax."""
  found = nas3d_jax
  for part in name.split("."):
    try:
      found = getattr(found, part)
    except AttributeError:
      found = importlib.import_module(f"{found.__name__}.{part}")
  return found


def anchors(text):
  """Of its headings, as GitHub makes them."""
  headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
  return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
  """The folder in which README's real run was done, with its names and the sizes of `SHRINK`."""
  folder = tmp_path_factory.mktemp("readme")
  text = TEXTS["README.md"]
  block = FENCE.findall(text[text.index("## A real run"):])[0][1]
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(gallery, "DPI", 20)  # drawing takes longer than all else
    codes = [(stage, main([stage, *rest, *SHRINK.get(stage, [])])) for stage, rest in commands(block)]
  return folder, codes


def test_the_real_run_of_readme(real_run):
  folder, codes = real_run
  stages = ["phantom", "phantom", "inspect", "preprocess", "search", "train", "train", "predict", "evaluate", "report"]
  assert [stage for stage, _ in codes] == stages
  # Cases so small are strange to inspect.
  assert all(code == 0 or (stage, code) == ("inspect", 1) for stage, code in codes), codes
  assert (folder / "run" / "search" / "genotype.json").exists()
  assert (folder / "run" / "report" / "index.html").exists()


@pytest.mark.parametrize("page", [page for page in TEXTS if blocks(page, "python")])
def test_python_runs_as_it_stands(page, real_run, monkeypatch):
  folder, _ = real_run
  checkpoints = folder / "run" / "train" / "0" / "checkpoints"
  for named in re.findall(r"run/train/0/checkpoints/(\d+)", TEXTS[page]):
    step = max((path for path in checkpoints.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    shutil.copytree(step, folder / "run" / "train" / "0" / "checkpoints" / named, dirs_exist_ok=True)
  monkeypatch.chdir(folder)
  namespace = {"__name__": page}
  for number, code in enumerate(blocks(page, "python"), 1):
    exec(compile(code, f"{page}, Python block {number}", "exec"), namespace)
  if "own" in namespace:
    assert "depthwise5" in str(namespace["genotype"])
  if "labels" in namespace:
    assert namespace["labels"].shape == namespace["probabilities"].shape[:3]
    assert namespace["labels"].dtype == "uint8"


@pytest.mark.parametrize("page", TEXTS)
def test_commands_parse(page):
  for language, code in FENCE.findall(TEXTS[page]):
    assert len(re.findall(CALL, code)) == len(commands(code)), (language, code)
  prose = FENCE.sub("", TEXTS[page])
  assert not re.search(rf"^    {CALL}", prose, re.MULTILINE), "commands stand in fences, where they are tested"
  for stage, arguments in commands(TEXTS[page]):
    if stage == "STAGE":
      continue
    assert stage in STAGES
    module, values = defined(stage)
    assert values([stage, *arguments])[1:] == []
    if arguments:
      assert not [name for name in module.REQUIRED if values[name].value in (None, [])], (stage, arguments)


@pytest.mark.parametrize("page", [page for page in TEXTS if page.startswith(("README", "docs/"))])
def test_flags_in_prose_exist(page):
  known = {name for stage in STAGES for name in defined(stage)[1]}
  known |= {f"no{name}" for name in known} | OTHERS
  code = " ".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", TEXTS[page])))
  assert set(re.findall(r"(?<![\w-])--([a-z]\w*)", code)) - known == set()


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
  for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[page])):
    if link.startswith("https://"):
      continue
    path, _, anchor = link.partition("#")
    target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    assert target.exists(), link
    assert target.is_relative_to(ROOT), link
    if anchor:
      assert anchor in anchors(target.read_text("utf-8")), link


def names_of(text):
  """Every dotted name of ours that a page writes, and what its tables say to be in a module."""
  found = set(re.findall(r"\bnas3d_jax\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", text))
  heads = "|".join(nas3d_jax.__all__)
  found |= set(re.findall(rf"`((?:{heads})\.\w+)[`(]", text))
  for module, what in re.findall(r"^\| `nas3d_jax\.([\w.]+)` \|(.*)\|$", text, re.MULTILINE):
    found |= {f"{module}.{name}" for name in re.findall(r"`(\w+)`", what)}
  return found


def test_names_in_the_documentation_are_there_after_one_import():
  """Each in a state in which nothing else was used before, as the first line that somebody writes."""
  names = sorted(set().union(*map(names_of, TEXTS.values())))
  assert {"schema.BRATS2019", "models.packing.PackedNet", "Genotype.from_hybrid", "models.cells.SearchCell"} <= {*names}
  script = f"""
import functools, sys
for name in {names}:
  for module in [module for module in sys.modules if module.split(".")[0] == "nas3d_jax"]:
    del sys.modules[module]
  import nas3d_jax
  try:
    functools.reduce(getattr, name.split("."), nas3d_jax)
  except AttributeError as error:
    print(name, error)
"""
  done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
  assert done.stdout == ""


@pytest.mark.parametrize("page", TEXTS)
def test_modules_exist(page):
  for name in set(re.findall(r"\bnas3d_jax\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", TEXTS[page])):
    resolve(name)
  for path in re.findall(r"\b(?:nas3d_jax|launch|tests|benchmarks)/[\w/]+\.(?:py|sh)\b", TEXTS[page]):
    assert (ROOT / path).exists(), path
  for name in re.findall(r"python -m (benchmarks\.\w+)", TEXTS[page]):
    assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name


def test_readme_leads_and_is_short():
  assert len(TEXTS["README.md"].splitlines()) <= 150
  pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
  assert pages == {page for page in pages if f"({page})" in TEXTS["README.md"]}
  for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXTS["README.md"]):
    assert (ROOT / picture).stat().st_size <= 250_000


def test_the_house_names_every_room():
  rooms = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("nas3d_jax/**/__init__.py")} - {"nas3d_jax"}
  assert rooms == {room for room in rooms if f"(../{room}/__init__.py)" in TEXTS["docs/house.md"]}
