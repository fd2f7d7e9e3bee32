"""The installed package: built as a wheel, in an environment of its own, far from the clone; all stages there."""

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
import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.phantom import phantom_case
from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.version import __version__
from tests.support.layouts import PHANTOM, save

ROOT = Path(__file__).parents[2]
YAML = """
name: stroke
modalities: {dwi: .dwi, adc: [.adc, .ADC]}
segmentation: .mask
labels: {1: lesion}
regions: {lesion: [1]}
"""


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


def write_cases(folder, cases, seed):
  """FLAIR and T1 of phantoms, called otherwise; the whole tumour is the lesion."""
  for i in range(cases):
    image, truth = phantom_case((seed, i), (16, 16, 16))
    for suffix, modality in ((".dwi", "flair"), (".ADC" if i else ".adc", "t1")):
      save(folder / f"s{i}" / f"s{i}{suffix}.nii.gz", image[..., PHANTOM.index(modality)])
    save(folder / f"s{i}" / f"s{i}.mask.nii.gz", (truth != 0).astype(np.uint8))


def test_all_stages_run_without_the_clone(nas3d):
  """On cases of a schema of the user's own: two modalities, one region."""
  (nas3d.folder / "stroke.yaml").write_text(YAML)
  write_cases(nas3d.folder / "data", 4, 0)
  write_cases(nas3d.folder / "test", 1, 1)
  small = ["--workdir=run", "--platform=cpu", "--patch_size=8", "--kernels=1", "--nodes=1", "--depth=2", "--epochs=1"]
  predictions, scores = "run/predictions/searched/test", "run/scores/searched/test"
  for command in (
    ["preprocess", "--data_dir=data", "--workdir=run", "--folds=2", "--schema=stroke.yaml"],
    ["search", *small],
    ["train", *small],
    # From here on the checkpoint, and then the predictions, say what the cases are.
    ["predict", "--workdir=run", "--fold=0", "--data_dir=test", f"--out={predictions}", "--platform=cpu"],
    ["evaluate", f"--predictions={predictions}", "--data_dir=test", f"--out={scores}"],
    ["report", "--workdir=run", "--test_dir=test"],
  ):
    said = [line for line in nas3d(*command).splitlines() if line.startswith("schema ")]
    if command[0] not in ("search", "train", "report"):
      assert len(said) == 1
      assert said[0].startswith("schema stroke (")
      assert said[0].endswith(": dwi, adc; labels of lesion 1")
  run = nas3d.folder / "run"
  dataset = Dataset.open(run / "dataset")
  _, variables, metadata = restore(run / "train" / "0")
  record = json.loads((nas3d.folder / predictions / "predictions.json").read_text())
  scored = Scores.load(nas3d.folder / scores)
  assert dataset.schema == metadata.schema == scored.schema
  assert record["settings"]["schema"] == dataset.schema.to_dict()
  assert metadata.versions["nas3d_jax"] == __version__
  assert variables["params"]["stem0"]["project"]["kernel"].shape[0] == 2
  assert variables["params"]["head"]["project"]["kernel"].shape[-1] == 1
  assert list(scored.cases["s0"]) == ["lesion"]
  assert set(np.unique(nib.load(nas3d.folder / predictions / "s0.nii.gz").dataobj)) <= {0, 1}
  page = (run / "report" / "index.html").read_text("utf-8")
  assert "stroke; dwi, adc" in page
  assert "<code>nas3d experiment" in page and "python -m launch" not in page


def test_the_version_is_the_same_everywhere():
  assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
  first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
  assert first.removeprefix("## ").split(",")[0] == __version__
