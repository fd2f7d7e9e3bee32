"""All stages on cases of a schema of the user's own: two modalities, one region."""

import json

import nibabel as nib
import numpy as np

from launch.__main__ import main
from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.phantom import phantom_case
from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.report import gallery
from tests.support.layouts import PHANTOM, save

SHAPE = (16, 16, 16)
YAML = """
name: stroke
modalities: {dwi: .dwi, adc: [.adc, .ADC]}
segmentation: .mask
labels: {1: lesion}
regions: {lesion: [1]}
"""


def write_cases(folder, cases, seed):
  """FLAIR and T1 of phantoms, called otherwise; the whole tumour is the lesion."""
  for i in range(cases):
    image, truth = phantom_case((seed, i), SHAPE)
    for suffix, modality in ((".dwi", "flair"), (".ADC" if i else ".adc", "t1")):
      save(folder / f"s{i}" / f"s{i}{suffix}.nii.gz", image[..., PHANTOM.index(modality)])
    save(folder / f"s{i}" / f"s{i}.mask.nii.gz", (truth != 0).astype(np.uint8))


def test_two_modalities_and_one_region_run_through_all_stages(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(gallery, "DPI", 20)  # drawing takes longer than all else
  (tmp_path / "stroke.yaml").write_text(YAML)
  write_cases(tmp_path / "data", 4, 0)
  write_cases(tmp_path / "test", 1, 1)
  run, data, unseen = tmp_path / "run", f"--data_dir={tmp_path / 'data'}", f"--data_dir={tmp_path / 'test'}"
  schema, workdir = f"--schema={tmp_path / 'stroke.yaml'}", f"--workdir={run}"
  predictions, scores = (run / name / "searched" / "test" for name in ("predictions", "scores"))
  small = ["--platform=cpu", "--patch_size=8", "--kernels=1", "--nodes=1", "--depth=2", "--epochs=1"]
  for command in (
    ["preprocess", data, workdir, "--folds=2", schema],
    ["search", workdir, *small],
    ["train", workdir, *small],
    # From here on the checkpoint, and then the predictions, say what the cases are.
    ["predict", workdir, "--fold=0", unseen, f"--out={predictions}", "--platform=cpu"],
    ["evaluate", f"--predictions={predictions}", unseen, f"--out={scores}"],
    ["report", workdir, f"--test_dir={tmp_path / 'test'}"],
  ):
    assert main(command) == 0, command
    if command[0] not in ("search", "train", "report"):
      said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("schema ")]
      assert len(said) == 1
      assert said[0].startswith("schema stroke (")
      assert said[0].endswith(": dwi, adc; labels of lesion 1")
  dataset = Dataset.open(run / "dataset")
  _, variables, metadata = restore(run / "train" / "0")
  record = json.loads((predictions / "predictions.json").read_text())
  assert dataset.schema == metadata.schema == Scores.load(scores).schema
  assert record["settings"]["schema"] == dataset.schema.to_dict()
  assert variables["params"]["stem0"]["project"]["kernel"].shape[0] == 2
  assert variables["params"]["head"]["project"]["kernel"].shape[-1] == 1
  assert list(Scores.load(scores).cases["s0"]) == ["lesion"]
  assert set(np.unique(nib.load(predictions / "s0.nii.gz").dataobj)) <= {0, 1}
  assert "stroke; dwi, adc" in (run / "report" / "index.html").read_text("utf-8")
