"""Cases that lack modalities: predicted where the networks were trained for it, and said; else an error as ever."""

import json

import numpy as np
import pytest

from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.data.cases.find_and_read import find_cases, read_case
from nas3d_jax.errors import InputError
from nas3d_jax.inference.predict import predict_cases
from nas3d_jax.inference.volume import predict_volume
from tests.inference.test_predict import config, labels_of, save_run, write_case


@pytest.fixture
def data(tmp_path):
  for seed, name in enumerate("abc"):
    write_case(tmp_path / "data", name, seed)
  (tmp_path / "data" / "b" / "b_t1ce.nii.gz").unlink()
  return tmp_path / "data"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run directory whose fold 0 was trained to stand it, and whose fold 1 was not."""
  folder = tmp_path_factory.mktemp("run")
  save_run(folder / "train" / "0", None, modality_dropout=0.3)
  save_run(folder / "train" / "1", (0.9, 0.7, 0.1))
  return folder


def test_a_case_without_a_modality_is_predicted_with_zeros_in_its_place(data, run):
  summary = predict_cases(config(data, run, probabilities=True))
  assert summary.predicted == ("a", "b", "c")
  assert str(summary).endswith("; 1 of them without a modality: b (t1ce)")
  record = json.loads((summary.out / "predictions.json").read_text())
  assert record["missing"] == {"b": ["t1ce"]}
  assert list(record["cases"]["b"]) == ["b_flair.nii.gz", "b_t1.nii.gz", "b_t2.nii.gz"]
  # As the same network is applied in Python to a volume whose third modality is anything.
  net, variables, metadata = restore(run / "train" / "0")
  assert metadata.modality_dropout == 0.3
  files, _ = find_cases(data, metadata.schema, labels=False, incomplete=True)
  volume = read_case(files[1], metadata.schema).image.astype(np.float32)
  np.testing.assert_array_equal(volume[..., 2], 0)
  volume[..., 2] = np.nan
  expected = predict_volume(net, variables, volume, patch_size=8, missing=[2])
  got = labels_of(summary.out / "probabilities" / "b.nii.gz")
  np.testing.assert_allclose(got, expected, atol=1e-6)
  # A second run finds all done, and the record still says what was missing.
  assert predict_cases(config(data, run, probabilities=True)).reused == ("a", "b", "c")
  assert json.loads((summary.out / "predictions.json").read_text())["missing"] == {"b": ["t1ce"]}
  with pytest.raises(InputError, match=r"missing must be some of the modalities 0 to 3, not all, got \[0, 1, 2, 3\]"):
    predict_volume(net, variables, volume, patch_size=8, missing=range(4))


@pytest.mark.parametrize("fold", [(1,), (0, 1)])
def test_a_network_that_was_not_trained_for_it_wants_all(data, run, fold):
  with pytest.raises(InputError, match=r"b: no t1ce image b_t1ce\.nii\.gz or .nii in .*; add the file"):
    predict_cases(config(data, run, fold=fold))
  assert not (data.parent / "out" / "b.nii.gz").exists()


def test_a_case_without_any_modality_is_an_error(data, run):
  for path in (data / "b").glob("b_*"):
    path.rename(path.with_name(path.name.replace("b_", "b_other_")))
  with pytest.raises(InputError, match="1 of the cases cannot be predicted") as error:
    predict_cases(config(data, run))
  assert str(error.value).count("b: no ") == 4
