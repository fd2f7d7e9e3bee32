"""Hooks of MkDocs: pages that lie outside docs/, links that read on the site as in the repository, the reference.

A page is written for the repository: its links are relative to its own file. On the site docs/ is the root, README.md
the first page, and other Markdown files keep their paths. Links to files that are no page lead to `repo_url`, and are
text where that is not set. The reference is made of `nas3d_jax.__all__` and the table of modules in docs/library.md.
"""

import ast
import logging
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"(!\[[^\]]*\]\()([^)\s]+)(\))")
log = logging.getLogger("mkdocs.hooks.nas3d_jax")


def on_files(files, config):
  """Adds the pages outside docs/ and the reference."""
  for pattern in ("*.md", "benchmarks/*.md", "pretrained/*/*.md"):
    for path in sorted(ROOT.glob(pattern)):
      place = path.relative_to(ROOT).as_posix()
      files.append(File.generated(config, site_path(place), content=path.read_text("utf-8")))
  for name, text in reference().items():
    files.append(File.generated(config, name, content=text))
  return files


def on_page_markdown(markdown, page, config, files):
  """Rewrites links from the repository's paths to the site's."""
  here = page.file.src_uri

  def target_of(link):
    if re.match(r"[a-z]+:|#", link):
      return link
    path, hash_sign, anchor = link.partition("#")
    place = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository(here)), path))
    if not (ROOT / place).exists():
      log.warning("%s links to %s, which is not there", in_repository(here), link)
    site = site_path(place)
    if files.get_file_from_path(site):
      return posixpath.relpath(site, posixpath.dirname(here) or ".") + hash_sign + anchor
    return f"{config.repo_url.rstrip('/')}/blob/main/{place}" if config.repo_url else None

  def link(match):
    text, found = match[1], target_of(match[2])
    return f"[{text}]({found})" if found else text

  def picture(match):
    return match[1] + (target_of(match[2]) or match[2]) + match[3]

  parts = CODE.split(markdown)
  parts[::2] = [LINK.sub(link, PICTURE.sub(picture, part)) for part in parts[::2]]
  return "".join(parts)


def site_path(place):
  """Path in the repository -> path on the site."""
  return "index.md" if place == "README.md" else place.removeprefix("docs/")


def in_repository(place):
  """Path of a page on the site -> in the repository."""
  if place == "index.md":
    return "README.md"
  return place if (ROOT / place).exists() else f"docs/{place}"


def reference():
  """Pages of the reference by their path on the site."""
  tree = ast.parse((ROOT / "nas3d_jax" / "__init__.py").read_text("utf-8"))
  assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
  names = ast.literal_eval(assigned["__all__"])
  imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
  homes = {alias.name: node.module for node in imports for alias in node.names}
  text = (ROOT / "docs" / "library.md").read_text("utf-8")
  rows = re.findall(r"^\| ((?:`nas3d_jax\.[\w.]+`(?:, )?)+) \|", text, re.MULTILINE)
  modules = sorted({name for row in rows for name in re.findall(r"`([\w.]+)`", row)})
  return {
    "reference/names.md": "# Public names\n\nAll of `nas3d_jax`, with signatures, shapes and errors.\n\n"
    + "\n\n".join(f"::: nas3d_jax.{name}" for name in names),
    "reference/modules.md": "# Modules\n\nParts that are importable too; what is a public name stands there.\n\n"
    + "\n\n".join(_module(name, [public for public in names if homes[public] == name]) for name in modules),
  }


def _module(name, elsewhere):
  """The entry of a module, without the public names that have entries of their own."""
  filters = ["!^_", *(f"!^{public}$" for public in elsewhere)]
  return f"::: {name}\n    options:\n      filters: {filters}\n"
