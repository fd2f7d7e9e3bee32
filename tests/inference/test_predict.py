"""Predicting a folder of cases: from NIfTI files to label volumes, again and again, with one bad case among them."""

import functools
import json

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from launch.__main__ import main
from nas3d_jax.checkpointing.checkpoints import Checkpoints
from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.data.phantom import phantom_case
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.evaluate import evaluate
from nas3d_jax.inference.config import PredictConfig
from nas3d_jax.inference.ensemble import Ensemble, restore_ensemble
from nas3d_jax.inference.predict import predict_cases
from nas3d_jax.inference.prediction_record import stored_schema
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.schema.geometry import Geometry
from tests.support import grids
from tests.support.layouts import LAYOUTS, write_layout
from tests.support.layouts import save as save_volume

CONFIG = NetworkConfig(kernels=2, nodes=1, depth=2)
GENOTYPE = Genotype(down=(("max_pool", 0), ("avg_pool", 1)), up=(("identity", 0), ("up_conv", 1)))
SHAPE = (11, 9, 8)
AFFINE = np.array([[-0.8, 0.3, 0.1, 90.5], [0.2, 1.1, -0.4, -126.25], [0.1, 0.5, 2.5, -72], [0, 0, 0, 1]])
PHANTOM_SHAPE = (20, 18, 16)
PHANTOMS = [phantom_case((0, i), PHANTOM_SHAPE) for i in range(2)]
# What the regions WT, TC, ET give when painted 2, 1, 4 where the confidence is at least one half.
CONFIDENCES = {"0": (0.9, 0.7, 0.1), "1": (0.3, 0.1, 0.05)}


@functools.cache
def drawn_params(down, up):
  net = DerivedNet(CONFIG, Genotype(down, up))
  return net.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 8, 4), jnp.float32))["params"]


def save_run(
  folder, confidences, *, patch_size=8, schema=BRATS2019, genotype=GENOTYPE, geometry=None, fingerprint="ab",
  modality_dropout=0.0,
):
  """A run whose network answers with the same confidences everywhere, or as it was drawn where they are None."""
  params = drawn_params(genotype.down, genotype.up)
  head = params["head"]
  if confidences is not None:
    confidences = np.asarray(confidences, np.float32)
    head = {"project": {"kernel": jnp.zeros((2, 3)), "bias": jnp.log(confidences / (1 - confidences))}}
  said = RunMetadata(
    kind="train", network=CONFIG, genotype=genotype, dropout_rate=0.5, schema=schema, patch_size=patch_size, epoch=1,
    step=1, versions={}, device={}, dataset={"fingerprint": fingerprint}, geometry=geometry,
    modality_dropout=modality_dropout,
  )
  with Checkpoints(folder / "checkpoints") as store:
    items = dict(variables={"params": {**params, "head": head}}, training={"step": np.int32(1)}, iterators={})
    store.save(1, metadata=said.to_dict(), best_metric=0.5, **items)
  return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("workdir")
  for fold, confidences in CONFIDENCES.items():
    save_run(folder / "train" / fold, confidences)
  return folder


def write_case(data, name, seed=0):
  """A brain of 8 x 7 x 6 voxels with a hole, on an oblique grid; returns the brain."""
  rng = np.random.default_rng(seed)
  brain = np.zeros(SHAPE, bool)
  brain[2:10, 1:8, 0:6] = True
  brain[5, 4, 3] = False
  for suffix in ("flair", "t1", "t1ce", "t2"):
    image = nib.Nifti1Image(np.where(brain, rng.integers(1, 900, SHAPE), 0).astype(np.int16), None)
    image.header.set_qform(AFFINE, 1, strip_shears=True)
    image.header.set_sform(AFFINE, 2)
    image.header.set_xyzt_units("mm", "sec")
    path = data / name / f"{name}_{suffix}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
  return brain


@pytest.fixture
def data(tmp_path):
  return tmp_path / "data"


def config(data, workdir, **changes):
  return PredictConfig(**dict(data_dir=data, out=data.parent / "out", workdir=workdir, fold=(0,)) | changes)


def modified(folder):
  return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def labels_of(path):
  return np.asarray(nib.load(path).dataobj)


def test_labels_in_the_brain_in_the_inputs_own_geometry(data, workdir):
  brain = write_case(data, "a")
  summary = predict_cases(config(data, workdir))
  assert (summary.predicted, summary.reused) == (("a",), ())
  got, given = nib.load(summary.out / "a.nii.gz"), nib.load(data / "a" / "a_flair.nii.gz")
  # WT and TC hold with 0.9 and 0.7, and TC is painted last.
  np.testing.assert_array_equal(labels_of(summary.out / "a.nii.gz"), np.where(brain, 1, 0))
  assert got.get_data_dtype() == np.uint8
  np.testing.assert_array_equal(got.affine, given.affine)
  assert got.header.get_zooms() == given.header.get_zooms()
  assert [int(got.header[code]) for code in ("qform_code", "sform_code")] == [1, 2]
  assert sorted(path.name for path in summary.out.iterdir()) == ["a.nii.gz", "predictions.json"]


def test_checkpoints_are_averaged_and_probabilities_written(data, workdir):
  brain = write_case(data, "a")
  summary = predict_cases(config(data, workdir, fold=(0, 1), probabilities=True))
  got = nib.load(summary.out / "probabilities" / "a.nii.gz")
  assert (got.shape, got.get_data_dtype()) == ((*SHAPE, 3), np.float32)
  np.testing.assert_allclose(got.get_fdata()[brain], np.broadcast_to([0.6, 0.4, 0.075], (brain.sum(), 3)), rtol=1e-5)
  np.testing.assert_array_equal(got.get_fdata()[~brain], 0)
  # The mean of the two is at least one half for WT alone.
  np.testing.assert_array_equal(labels_of(summary.out / "a.nii.gz"), np.where(brain, 2, 0))


def test_a_second_run_predicts_what_is_new_and_no_more(data, workdir):
  write_case(data, "a")
  first = predict_cases(config(data, workdir))
  before = modified(first.out)
  write_case(data, "b")
  second = predict_cases(config(data, workdir))
  assert (second.predicted, second.reused) == (("b",), ("a",))
  assert modified(second.out)["a.nii.gz"] == before["a.nii.gz"]
  with pytest.raises(InputError, match=r"was predicted with checkpoints=.*give --overwrite"):
    predict_cases(config(data, workdir, fold=(1,)))
  third = predict_cases(config(data, workdir, fold=(1,), overwrite=True))
  assert (third.predicted, third.reused) == (("a", "b"), ())
  assert not labels_of(third.out / "a.nii.gz").any()  # no region reaches one half


def test_a_bad_case_is_named_after_the_others_are_done(capsys, data, workdir):
  for name in "abcd":
    write_case(data, name)
  (data / "a" / "a_t1.nii.gz").unlink()
  broken = data / "b" / "b_t2.nii.gz"
  broken.write_bytes(broken.read_bytes()[:-20])
  out = data.parent / "out"
  arguments = [f"--workdir={workdir}", "--fold=0", f"--data_dir={data}", f"--out={out}", "--platform=cpu"]
  assert main(["predict", *arguments]) == 2
  said = capsys.readouterr().err
  assert "error: 2 of the cases cannot be predicted; 2 cases predicted, in" in said
  assert f"  a: no t1 image a_t1.nii.gz or .nii in {data / 'a'}" in said
  assert "  b: b_t2.nii.gz is truncated" in said
  assert sorted(path.name for path in out.glob("*.nii.gz")) == ["c.nii.gz", "d.nii.gz"]


def test_a_patient_is_predicted_alike_whichever_way_the_files_run(data, tmp_path):
  """From the same checkpoint, bit for bit, and in the files' own geometry."""
  run = save_run(tmp_path / "run", None, geometry=Geometry("LPS", (1, 1, 1)))
  image, _ = phantom_case(3, (20, 18, 16))
  for codes in ("LPS", "RAS", "ASL"):
    grids.write_case(data, codes, image, codes=codes)
  predict_cases(config(data, None, fold=(), checkpoint=(run,)))
  expected = labels_of(tmp_path / "out" / "LPS.nii.gz")
  assert len(np.unique(expected[image.any(-1)])) > 1
  for codes in ("RAS", "ASL"):
    got, given = nib.load(tmp_path / "out" / f"{codes}.nii.gz"), nib.load(data / codes / f"{codes}_t1.nii.gz")
    np.testing.assert_array_equal(got.affine, given.affine)
    np.testing.assert_array_equal(grids.turned(np.asarray(got.dataobj), got.affine, "LPS")[0], expected)
  record = json.loads((tmp_path / "out" / "predictions.json").read_text())
  assert record["settings"]["geometry"] == {"orientation": "LPS", "spacing": [1.0, 1.0, 1.0]}


def test_checkpoints_of_one_geometry(tmp_path):
  """One that does not say its geometry has that of another from the same data set; else it takes cases as they are."""
  brats, thick = Geometry("LPS", (1, 1, 1)), Geometry("LPS", (1, 1, 3))
  runs = {
    "old": save_run(tmp_path / "old", (0.5, 0.5, 0.5)),
    "new": save_run(tmp_path / "new", (0.6, 0.5, 0.5), geometry=brats),
    "thick": save_run(tmp_path / "thick", (0.7, 0.5, 0.5), geometry=thick, fingerprint="cd"),
    "other": save_run(tmp_path / "other", (0.8, 0.5, 0.5), fingerprint="ef"),
  }
  assert restore_ensemble([runs["old"]]).geometry is None
  assert "geometry" not in restore_ensemble([runs["old"]]).settings
  assert restore_ensemble([runs["new"]]).alone(0).geometry == brats
  assert restore_ensemble([runs["old"], runs["new"]]).geometry == brats
  message = r"one geometry, but .*new is of cases in LPS, 1 x 1 x 1 mm and .*{} of {}; predict with each alone"
  with pytest.raises(InputError, match=message.format("thick", "cases in LPS, 1 x 1 x 3 mm")):
    restore_ensemble([runs["new"], runs["thick"]])
  with pytest.raises(InputError, match=message.format("other", "cases as they are")):
    restore_ensemble([runs["new"], runs["other"]])


def test_a_damaged_segmentation_does_not_matter(data, workdir):
  write_case(data, "a")
  (data / "a" / "a_seg.nii.gz").write_bytes(b"no volume")
  assert predict_cases(config(data, workdir)).predicted == ("a",)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"checkpoint": ("x",)}, "give either fold .* or checkpoint, .* got both"),
    ({"fold": (), "workdir": None}, "give either fold .* or checkpoint, .* got neither"),
    ({"fold": ()}, "got neither"),
    ({"workdir": None}, "workdir and fold go together, got workdir=None"),
    ({"fold": (), "checkpoint": ("x",)}, "workdir and fold go together"),
    ({"fold": (-1,)}, "fold must be the number of a fold, from 0, or \"all\", got -1"),
    ({"fold": ("some",)}, "fold must be the number of a fold"),
    ({"fold": (), "checkpoint": "x"}, "checkpoint must be a tuple, got 'x'"),
    ({"patch_size": 0}, "patch_size must be a whole number of at least 1, or None, got 0"),
    ({"out": ""}, "out must be a path that can be used, got '': it is empty"),
  ],
)
def test_a_config_that_cannot_be_is_refused_when_made(changes, message):
  with pytest.raises(InputError, match=message):
    PredictConfig(**dict(data_dir="data", out="out", workdir="w", fold=(0,)) | changes)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"fold": ("all",)}, "no checkpoint in .*train/all: no such folder"),
    ({"fold": (0, 0)}, "train/0/checkpoints/1 is the same as .*train/0/checkpoints/1; give each once"),
    ({"patch_size": 12}, "patch_size must be a multiple of 8 .* got 12; use 8 or 16"),
    ({"data_dir": "missing"}, "data_dir must be a folder of cases, got 'missing'"),
  ],
)
def test_nothing_is_written_where_it_cannot_begin(data, workdir, changes, message):
  write_case(data, "a")
  with pytest.raises(InputError, match=message):
    predict_cases(config(data, workdir, **changes))
  assert not (data.parent / "out").exists()


def test_networks_that_are_alike_are_compiled_once(tmp_path, workdir):
  swapped = Genotype(down=GENOTYPE.down[::-1], up=GENOTYPE.up[::-1])
  assert swapped == GENOTYPE
  other = save_run(tmp_path / "swapped", (0.5, 0.5, 0.5), genotype=swapped)
  ensemble = restore_ensemble([workdir / "train" / "0", workdir / "train" / "1", other])
  one, two, three = (step for step, _ in ensemble.members)
  # Equal but for the order of their rows, genotypes hold their parameters in another order.
  assert one is two
  assert three is not one
  assert len(ensemble.sources) == 3


def test_checkpoints_that_do_not_go_together(tmp_path, workdir):
  large = save_run(tmp_path / "large", (0.5, 0.5, 0.5), patch_size=16)
  fields = BRATS2019.to_dict() | {"name": "other"}
  other = save_run(tmp_path / "other", (0.5, 0.5, 0.5), schema=type(BRATS2019).from_dict(fields))
  own = workdir / "train" / "0"
  with pytest.raises(InputError, match=r"one patch size, but .*train/0 .*=8 and .*large with 16; give --patch_size"):
    restore_ensemble([own, large])
  assert restore_ensemble([own, large], patch_size=24).patch_size == 24
  with pytest.raises(InputError, match=r"one schema, but .*train/0 has 'brats2019' and .*other another, 'other'"):
    restore_ensemble([own, other])


def truthful(monkeypatch, images):
  """Makes every network see through: it answers with the regions of the phantom whose image it gets and keeps."""

  def predict(self, image, **_):
    images.append(image)
    ((_, truth),) = [case for case in PHANTOMS if np.array_equal(case[0], image)]
    return BRATS2019.region_masks(truth).astype(np.float32)

  monkeypatch.setattr(Ensemble, "predict", predict)


@pytest.mark.parametrize("name", LAYOUTS)
def test_cases_of_any_layout_are_predicted_and_scored(tmp_path, workdir, monkeypatch, name):
  truthful(monkeypatch, [])
  cases = write_layout(name, tmp_path / "data", 2, PHANTOM_SHAPE)
  summary = predict_cases(config(tmp_path / "data", workdir))
  assert summary.predicted == tuple(cases)
  assert predict_cases(config(tmp_path / "data", workdir)).reused == tuple(cases)
  for case, (_, truth) in zip(cases, PHANTOMS, strict=True):
    got = nib.load(summary.out / f"{case}.nii.gz")
    np.testing.assert_array_equal(got.dataobj, truth)  # in the labels of the network, whatever those of the cases
    assert got.shape == PHANTOM_SHAPE
  assert stored_schema(summary.out) == BRATS2019
  schema = "brats2023" if name == "brats2023" else None
  if name == "brats2024":
    with pytest.raises(InputError, match=r"matched by name, but 'brats2019' lacks RC"):
      evaluate(summary.out, tmp_path / "data", tmp_path / "scores")
    return
  scores = evaluate(summary.out, tmp_path / "data", tmp_path / "scores", schema=schema)
  assert scores.schema.name == name
  assert {values["dice"] for case in cases for values in scores.cases[case].values()} == {1}


@pytest.mark.parametrize("name", ["decathlon", "nnunet"])
def test_channels_that_are_called_otherwise_than_before(tmp_path, workdir, monkeypatch, name):
  images = []
  truthful(monkeypatch, images)
  write_layout(name, tmp_path / "data", 1, PHANTOM_SHAPE)
  predict_cases(config(tmp_path / "data", workdir))
  path = tmp_path / "data" / "dataset.json"
  one, other = {"decathlon": ("FLAIR", "T2w"), "nnunet": ("Flair", "T2")}[name]
  path.write_text(path.read_text().replace(f'"{one}"', '"?"').replace(f'"{other}"', f'"{one}"').replace("?", other))
  with pytest.raises(InputError, match=r"predicted in .*out from other images; give --overwrite"):
    predict_cases(config(tmp_path / "data", workdir))
  assert len(images) == 1


def test_a_model_that_needs_what_the_cases_lack(data, workdir):
  for modality in ("t1", "t2"):
    save_volume(data / "a" / f"a_{modality}.nii.gz", np.ones(PHANTOM_SHAPE))
  own = data.parent / "own.yaml"
  own.write_text("{name: own, modalities: {t1: _t1, t2: _t2}, labels: {1: x}, regions: {x: [1]}}")
  with pytest.raises(InputError, match=r"the model needs flair, t1, t1ce, t2 .* but the cases have t1, t2 .*own"):
    predict_cases(config(data, workdir, schema=own))
  with pytest.raises(InputError, match="cross_validation reads the cases by the schema of the data set"):
    config(data, workdir, fold=(), cross_validation=True, schema="brats2019")
