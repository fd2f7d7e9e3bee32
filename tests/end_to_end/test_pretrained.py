"""The network that comes with the library opens, is small, and finds the hippocampus in real cases."""

import shutil
from pathlib import Path

import jax
import nibabel as nib
import numpy as np

import nas3d_jax
from launch.__main__ import main

FOLDER = Path(nas3d_jax.__file__).parents[1] / "pretrained" / "task04_hippocampus"


def test_it_opens_and_is_small():
  _, variables, metadata = nas3d_jax.restore(FOLDER)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 602_342
  assert metadata.schema.region_names == ("Anterior", "Posterior")
  assert metadata.genotype == nas3d_jax.Genotype.from_json((FOLDER / "genotype.json").read_text())
  files = [path for path in FOLDER.rglob("*") if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 4e6
  # No path of where it was made.
  assert all(b"/tmp" not in path.read_bytes() for path in files if path.stat().st_size < 1e4)


def test_it_finds_the_hippocampus(shared, tmp_path):
  source = shared / "real" / "Task04_Hippocampus"
  names = ["hippocampus_001.nii.gz", "hippocampus_033.nii.gz"]
  for kind in ("imagesTr", "labelsTr"):
    (tmp_path / "data" / kind).mkdir(parents=True)
    for name in names:
      shutil.copy(source / kind / name, tmp_path / "data" / kind)
  shutil.copy(source / "dataset.json", tmp_path / "data")
  where = [f"--checkpoint={FOLDER}", f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path / 'out'}"]
  assert main(["predict", *where]) == 0
  for name in names:
    truth, got = (np.asarray(nib.load(f / name).dataobj) for f in (tmp_path / "data" / "labelsTr", tmp_path / "out"))
    for label in (1, 2):
      both = np.count_nonzero((truth == label) & (got == label))
      assert 2 * both / (np.count_nonzero(truth == label) + np.count_nonzero(got == label)) > 0.85
