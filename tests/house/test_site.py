"""The documentation site builds without a warning, and a broken link is one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nas3d_jax

ROOT = Path(nas3d_jax.__file__).parents[1]
OUTSIDE = ("nas3d_jax", "launch", "examples", "benchmarks", "pretrained", "tests")


@pytest.fixture
def copy(tmp_path):
  """A copy of what the site is made of, which a test may spoil; the code beside it is the repository's own."""
  pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -r requirements-docs.txt")
  shutil.copytree(ROOT / "docs", tmp_path / "docs")
  for path in ROOT.iterdir():
    if path.name in OUTSIDE:
      (tmp_path / path.name).symlink_to(path)
    elif path.is_file() and path.name != ".git":
      shutil.copy(path, tmp_path)
  return tmp_path


def build(folder):
  environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
  command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")]
  done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
  return done.returncode, done.stdout + done.stderr


def test_the_site_is_built_and_has_every_public_name(copy):
  code, output = build(copy)
  assert code == 0, output
  text = (copy / "site" / "reference" / "names" / "index.html").read_text("utf-8")
  assert {name for name in nas3d_jax.__all__ if f'id="nas3d_jax.{name}"' in text} == set(nas3d_jax.__all__)
  pages = list((copy / "site").rglob("*.html"))
  # Sources of the repository are no pages of the site.
  assert not [page for page in pages if re.search(r'href="[^":]*\.(py|md)[#"]', page.read_text("utf-8"))]


def test_broken_links_fail(copy):
  with (copy / "docs" / "paper.md").open("a") as file:
    file.write("\n[a](nothing.md) [b](../nas3d_jax/nothing.py) [c](data.md#nothing)\n")
  code, output = build(copy)
  assert code != 0
  for link in ("nothing.md", "nothing.py", "data.md#nothing"):
    assert re.search(f"WARNING.*{re.escape(link)}", output), output
