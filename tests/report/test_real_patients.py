"""The report of two real patients, one without enhancing tumour."""

import csv
import shutil

import numpy as np
from PIL import Image

from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.evaluation.evaluate import evaluate
from nas3d_jax.report.build import write_report

LOW, HIGH = "BraTS19_TCGA_DU7294_1", "BraTS19_TCGA_FG6692_1"


def test_real_patients_one_without_enhancing_tumour(shared, real_cases, tmp_path):
  """Two published algorithms in the place of the networks: one saw no enhancing tumour in LOW, as is right, one did."""
  run, split = tmp_path / "run", "cross_validation"
  preprocess(real_cases, run / "dataset", folds=2)
  for network, method in (("searched", "isen-20"), ("unet3d", "hnfnetv1-20")):
    out = run / "predictions" / network / split
    out.mkdir(parents=True)
    shutil.copy(shared / "real" / "segmentations" / "TCGA-DU-7294" / f"{method}.nii.gz", out / f"{LOW}.nii.gz")
    shutil.copy(real_cases / "HGG" / HIGH / f"{HIGH}_seg.nii.gz", out / f"{HIGH}.nii.gz")
    evaluate(out, real_cases, run / "scores" / network / split)
  page = write_report(run)
  with open(page.parent / "tables" / f"cases_{split}.csv", newline="") as file:
    rows = {row["case"]: row for row in csv.DictReader(file)}
  assert (rows[LOW]["truth ET (ml)"], rows[LOW]["grade"], rows[HIGH]["grade"]) == ("none", "LGG", "HGG")
  assert rows[LOW]["searched network, dice"].endswith(" / 1.000")
  assert rows[LOW]["3D U-Net, dice"].endswith(" / 0.000")
  assert rows[LOW]["searched network, hausdorff95 (mm)"].endswith(" / 0.00")
  assert rows[LOW]["3D U-Net, hausdorff95 (mm)"].endswith(" / 373.13")
  assert rows[HIGH]["3D U-Net, dice"] == "1.000 / 1.000 / 1.000"
  with open(page.parent / "tables" / f"{split}.csv", newline="") as file:
    means = {(row["metric"], row["network"]): row["ET, mean ± std"] for row in csv.DictReader(file)}
  assert means["lesion_hausdorff95 (mm)", "3D U-Net"] == "187.00 ± 187.00"  # of 374 and 0
  assert means["lesion_hausdorff95 (mm)", "searched network"] == "0.00 ± 0.00"
  assert means["surface_dice", "3D U-Net"] == "0.500 ± 0.500"
  assert means["prediction_ml (ml)", "searched network"] == means["truth_ml (ml)", "searched network"]
  # The truth of LOW has no yellow voxel, and neither has what the first algorithm said; the second one's has.
  with Image.open(page.parent / "figures" / "cases" / split / f"{LOW}.png") as picture:
    red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB"))[60:690].astype(int), -1, 0)
  yellow = (green > blue + 60) & (red > blue + 60)
  quarter = yellow.shape[1] // 4
  assert not yellow[:, : 3 * quarter].any()
  assert yellow[:, 3 * quarter :].any()
