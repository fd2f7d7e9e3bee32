"""All stages from the command line on data of every kind: real ones of one, two and four modalities, CT, flat ones."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from launch.__main__ import main
from nas3d_jax.checkpointing.restore import restore

SIZES = ["--kernels=1", "--nodes=1", "--depth=2"]
OPERATIONS = "--operations=conv,pool,identity"
BASELINE = ["--baseline=plain_unet", "--filters=1", "--levels=2", "--search_epochs=1", OPERATIONS]


def save(path, array, spacing=(1, 1, 1), dtype=np.int16):
  path.parent.mkdir(parents=True, exist_ok=True)
  nib.save(nib.Nifti1Image(array.astype(dtype), np.diag([*spacing, 1.0])), path)


def decathlon(folder, name, modality, labels, cases, **how):
  """A Decathlon task from (image, labels) by case."""
  for case, (image, truth) in cases.items():
    save(folder / "imagesTr" / f"{case}.nii.gz", image, **how)
    save(folder / "labelsTr" / f"{case}.nii.gz", truth, **how | {"dtype": np.uint8})
  said = {"name": name, "modality": {"0": modality}, "labels": {"0": "background", **labels}}
  (folder / "dataset.json").write_text(json.dumps(said))


def organs(seed, shape, *, air=-1000, scale=1):
  """Two balls in a body, on a table, in air; Hounsfield units."""
  random = np.random.default_rng(seed)
  grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
  body = np.linalg.norm(grid, axis=0) < 1.1
  image = np.where(body, 0, air) + random.normal(0, 30, shape)
  image[:, -1] = 400  # the table
  truth = np.zeros(shape, np.uint8)
  for label, centre, value in ((1, (-0.3, 0, 0), 60), (2, (0.4, 0.1, 0), 150)):
    ball = np.linalg.norm(grid - np.reshape(centre, (3, 1, 1, 1)), axis=0) < 0.3
    image[ball], truth[ball] = value + random.normal(0, 10, ball.sum()), label
  return np.rint(image * scale), truth


def task04(shared, folder):
  source = shared / "real" / "Task04_Hippocampus"
  for kind in ("imagesTr", "labelsTr"):
    (folder / kind).mkdir(parents=True)
    for path in sorted((source / kind).glob("*.nii.gz"))[:2]:
      shutil.copy(path, folder / kind)
  shutil.copy(source / "dataset.json", folder)
  return ["--normalization=zscore"]


def ct(_, folder):
  cases = {f"ct_{i}": organs(i, (24, 20, 10)) for i in range(2)}
  decathlon(folder, "Abdomen CT", "CT", {"1": "liver", "2": "kidney"}, cases, spacing=(0.8, 0.8, 3))
  return ["--normalization=window"]


def flat(_, folder):
  cases = {f"flat_{i}": organs(i, (16, 24, 24), air=0, scale=2) for i in range(2)}
  decathlon(folder, "Heart", "MRI", {"1": "ventricle", "2": "wall"}, cases)
  return ["--normalization=percentile"]


@pytest.fixture
def launched(capfd):
  """Runs a stage that must succeed; returns what it wrote."""

  def run(*arguments):
    code = main([*map(str, arguments)])
    out, err = capfd.readouterr()
    assert code == 0, err
    return out + err

  return run


@pytest.mark.parametrize(
  ("make", "said", "regions"),
  [
    (task04, "foreground: all voxels; normalization: zscore", ("Anterior", "Posterior")),
    (ct, "foreground: all voxels; normalization: CT window from", ("liver", "kidney")),
    (flat, "normalization: percentile", ("ventricle", "wall")),
  ],
)
def test_every_stage_on_one_modality_and_two_regions(request, tmp_path, launched, make, said, regions):
  shared = request.getfixturevalue("shared") if make is task04 else None
  data, run = tmp_path / "data", str(tmp_path / "run")
  flags = make(shared, data)

  assert said in launched("preprocess", f"--data_dir={data}", f"--workdir={run}", "--folds=2", *flags)
  common = [f"--workdir={run}", "--patch_size=16,16,8", "--recipe=modern", "--mirror=D", *SIZES]
  # As many steps for each kind of data, so that the schedule and with it the programs are the same.
  common += ["--output=softmax", "--epochs=1", "--sampling=random", "--steps_per_epoch=2"]
  launched("search", *common, OPERATIONS)
  genotype = json.loads((tmp_path / "run" / "search" / "genotype.json").read_text())
  assert genotype["space"] == {
    "down": ["avg_pool", "max_pool", "down_conv"], "up": ["up_conv"], "normal": ["identity", "conv"]
  }
  launched("train", *common)
  launched("predict", f"--workdir={run}", "--fold=0", f"--data_dir={data}", f"--out={tmp_path}/predicted")
  launched("evaluate", f"--predictions={tmp_path}/predicted", f"--data_dir={data}", f"--out={tmp_path}/scores")
  for path in sorted((data / "imagesTr").iterdir()):
    truth, got = nib.load(data / "labelsTr" / path.name), nib.load(tmp_path / "predicted" / path.name)
    assert got.shape == truth.shape
    np.testing.assert_allclose(got.affine, truth.affine)
    assert set(np.unique(np.asarray(got.dataobj))) <= {0, 1, 2}
  scores = (tmp_path / "scores" / "scores.csv").read_text()
  assert all(region in scores for region in regions)
  _, _, metadata = restore(tmp_path / "run" / "train" / "0")
  assert metadata.network.output == "softmax"
  assert metadata.schema.region_names == regions
  assert metadata.intensities.said(metadata.schema.modality_names).startswith("foreground")
  # Search and fold 0 are done; the rest of it trains, predicts and scores both networks.
  data_flags = [f"--data_dir={data}", "--search_patch_size=16,16,8"]
  printed = launched("experiment", *data_flags, *common, *BASELINE)
  assert "search, seed 0 (" not in printed
  assert "train searched, fold 0 (" not in printed
  assert_compared(tmp_path / "run")


def assert_compared(run):
  """Both networks have scores of both cases, and stand in the report."""
  for network in ("searched", "plain_unet"):
    found = json.loads((run / "scores" / network / "cross_validation" / "scores.json").read_text())
    assert len(found["cases"]) == 2
  assert "plain U-Net" in (run / "report" / "index.html").read_text()


@pytest.mark.parametrize(
  ("cases", "schema"),
  [("cases", None), ("brats2013/cases", "brats2013/schema.yaml")],
  ids=["four modalities", "two modalities"],
)
def test_every_stage_on_real_brains(shared, tmp_path, launched, cases, schema):
  """With voxels of 5 mm, to be quick; labels come out in the patients' own geometry."""
  source, run = shared / "real" / cases, str(tmp_path / "run")
  files = sorted(source.rglob("*_seg.nii.gz"))[:2]
  for path in files:
    shutil.copytree(path.parent, tmp_path / "data" / path.parent.name)
  data = [f"--data_dir={tmp_path}/data", *([f"--schema={shared}/real/{schema}"] if schema else [])]

  launched("preprocess", *data, f"--workdir={run}", "--folds=2", "--spacing=5,5,5")
  common = [f"--workdir={run}", "--patch_size=16", *SIZES, "--epochs=1", "--sampling=random", "--steps_per_epoch=2"]
  launched("search", *common, OPERATIONS)
  launched("train", *common)
  launched("predict", f"--workdir={run}", "--fold=0", *data, f"--out={tmp_path}/predicted")
  launched("evaluate", f"--predictions={tmp_path}/predicted", *data, f"--out={tmp_path}/scores")
  for path in files:
    truth, got = nib.load(path), nib.load(tmp_path / "predicted" / f"{path.parent.name}.nii.gz")
    assert got.shape == truth.shape
    np.testing.assert_allclose(got.affine, truth.affine)
    assert path.parent.name in (tmp_path / "scores" / "scores.csv").read_text()
  launched("experiment", *data, "--search_patch_size=16", *common, *BASELINE)
  assert_compared(tmp_path / "run")


def test_a_background_that_is_not_zero_is_found_in_real_patients(shared, tmp_path, capfd):
  source = shared / "real" / "brats2013"
  arguments = [f"--data_dir={source / 'cases'}", f"--schema={source / 'schema.yaml'}", f"--workdir={tmp_path}/run"]
  assert main(["preprocess", *arguments, "--folds=2"]) == 0
  err = capfd.readouterr().err
  assert "foreground: what differs from the value at the borders of its volume; normalization: range" in err
  assert "warning: the background is not 0" not in err
  manifest = json.loads((tmp_path / "run" / "dataset" / "manifest.json").read_text())
  for case in manifest["cases"]:
    lengths = np.diff(case["cube"]).ravel()
    assert (lengths < case["shape"]).all()
    image = np.load(tmp_path / "run" / "dataset" / "cases" / case["name"] / "image.npy", mmap_mode="r")
    inside = image[image != 0]
    assert (inside.min(), inside.max()) == pytest.approx((10, 110))


def test_zero_is_no_background_of_a_ct(tmp_path, capfd):
  ct(None, tmp_path / "data")
  arguments = [f"--data_dir={tmp_path}/data", f"--workdir={tmp_path}/run", "--folds=2"]
  assert main(["preprocess", *arguments, "--foreground=nonzero"]) == 2
  assert "foreground=nonzero takes 0 for background, but these images have negative" in capfd.readouterr().err
  for wrong, message in (
    ("--normalization=zscore,range", "normalization must be one name, or one for each of CT, got zscore,range"),
    ("--normalization=window:5:1", "normalization must be one of range, .*got 'window:5:1'"),
  ):
    assert main(["preprocess", *arguments, wrong]) == 2
    assert re.search(message, capfd.readouterr().err)
  assert not (tmp_path / "run" / "dataset").exists()
