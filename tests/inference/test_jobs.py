"""Many cases: bad ones, other grids, a full disk, and memory that does not grow with them; the network is a formula."""

import dataclasses
import errno
import gc
import os
import tracemalloc
import weakref

import jax
import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.cases.find_and_read import find_cases
from nas3d_jax.data.phantom import phantom_case
from nas3d_jax.errors import InputError
from nas3d_jax.inference import jobs
from nas3d_jax.inference.config import PAPER, InferenceChoices
from nas3d_jax.inference.ensemble import Ensemble
from nas3d_jax.inference.jobs import Job, predict_jobs
from nas3d_jax.inference.prediction_folder import DiskError, PredictionFolder
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.schema.geometry import Geometry
from tests.support.grids import HALVED, LPS, halved, turned, write_case

BRATS = Geometry("LPS", (1, 1, 1))


def bright(variables, patch, low, high):
  """WT where FLAIR is nearer to that of oedema, 760, than to that of grey matter, 430; no other region."""
  wt = 1 / (1 + np.exp((595 - patch[..., :1]) / 40))
  return np.concatenate([wt, np.zeros_like(wt), np.zeros_like(wt)], -1).astype(np.float32)


def crooked(variables, patch, low, high):
  """Depends on where a voxel lies and on what is beside it, and differs along each axis."""
  x = (patch - low) / (high - low)
  first, second, third = (np.roll(x[..., :3], axis + 1, axis) for axis in range(3))
  return (1 / (1 + np.exp(-6 * (x[..., 1:] - 0.6 * first + 0.9 * second - 0.9 * third)))).astype(np.float32)


def ensemble(step=bright, geometry=BRATS, patch_size=16):
  return Ensemble(((step, None),), BRATS2019, patch_size, {"f": "run/train/0"}, geometry=geometry)


def predict(data, out, model=None, *, choices=PAPER, probabilities=False, overwrite=False):
  model = model or ensemble()
  found, faults = find_cases(data)
  jobs = [Job(dataclasses.replace(files, segmentation=None), model) for files in found]
  settings = {**model.settings, "inference": choices.to_dict(), "probabilities": probabilities}
  names = [job.files.name for job in jobs]
  folder = PredictionFolder(out, settings=settings, cases=names, overwrite=overwrite)
  return predict_jobs(jobs, folder, choices=choices, probabilities=probabilities, faults=faults)


def stored(out, name):
  return np.asarray(nib.load(out / f"{name}.nii.gz").dataobj)


def dice(one, other):
  return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.fixture(scope="module")
def patient():
  return phantom_case(1, (40, 36, 32))


def test_one_patient_in_many_orientations_is_one_prediction(tmp_path, patient):
  image, labels = patient
  orientations = ("LPS", "RAS", "ASL", "PIR", "SLA", "IRP", "LAI", "RSA")
  for codes in orientations:
    write_case(tmp_path / "data", codes, image, labels, codes=codes, ending=".nii" if codes == "ASL" else ".nii.gz")
  summary = predict(tmp_path / "data", tmp_path / "out", ensemble(crooked), probabilities=True)
  assert set(summary.conformed) == {*orientations} - {"LPS"}
  assert "7 of them on another grid than the training data's" in str(summary)
  expected, chances = stored(tmp_path / "out", "LPS"), stored(tmp_path / "out" / "probabilities", "LPS")
  assert min(np.bincount(expected.ravel(), minlength=5)[[0, 1, 2, 4]]) > 200  # of 46,080; that is no empty answer
  for codes in orientations:
    np.testing.assert_array_equal(stored(tmp_path / "out", codes), turned(expected, LPS, codes)[0])
    np.testing.assert_array_equal(stored(tmp_path / "out" / "probabilities", codes), turned(chances, LPS, codes)[0])
  # As it is, the network sees another patient.
  as_it_is = predict(tmp_path / "data", tmp_path / "raw", ensemble(crooked, None))
  assert as_it_is.conformed == ()
  np.testing.assert_array_equal(stored(tmp_path / "raw", "LPS"), expected)
  assert (stored(tmp_path / "raw", "RAS") != turned(expected, LPS, "RAS")[0]).any()


def test_thick_slices_are_predicted_on_their_own_grid(tmp_path, patient):
  image, labels = patient
  write_case(tmp_path / "data", "thick", halved(image), affine=HALVED, codes="RIP")
  predict(tmp_path / "data", tmp_path / "out", probabilities=True)
  truth, brain = halved(labels) > 0, halved(image).any(-1)
  got, chances = stored(tmp_path / "out", "thick"), stored(tmp_path / "out" / "probabilities", "thick")
  given = nib.load(tmp_path / "data" / "thick" / "thick_flair.nii.gz")
  assert got.shape == given.shape == turned(truth, HALVED, "RIP")[0].shape
  np.testing.assert_array_equal(nib.load(tmp_path / "out" / "thick.nii.gz").affine, given.affine)
  got, chances = (np.asarray(turned(array, given.affine, "LPS")[0]) for array in (got, chances))
  assert not got[~brain].any()
  assert not chances[~brain].any()
  np.testing.assert_array_equal(got, np.where(chances[..., 0] >= 0.5, 2, 0))
  # About as near to the truth as the same formula is on thick slices, which needs no other grid.
  direct = (bright(None, halved(image).astype(np.float32), 0, 0)[..., 0] >= 0.5) & brain
  assert dice(direct, truth) > 0.84
  assert dice(got > 0, truth) > 0.84


# Turned by 25 degrees about the first axis, nearest to P, S, R; 1 x 1.5 x 1 mm.
OBLIQUE = np.array([
  [0.0, 0, 1, -30], [-0.9063078, 0.6339274, 0, 40], [0.4226183, 1.3594617, 0, -20], [0, 0, 0, 1]
])  # fmt: skip
HEADERS = {
  "sform": dict(codes=(0, 2)),
  "qform": dict(codes=(1, 0)),
  "both": dict(codes=(1, 4)),
  "neither": dict(codes=(0, 0)),
  "scaled": dict(codes=(1, 1), scale=(0.5, 0)),
  "bigendian": dict(codes=(1, 1), endian=">"),
  "extended": dict(codes=(1, 1), comment=b"where it was made"),
  "meters": dict(codes=(2, 2), units=("meter", "msec")),
  "nii": dict(codes=(1, 1), ending=".nii"),
}


def test_the_grid_of_a_prediction_is_that_of_the_file_whatever_its_header(tmp_path, patient):
  """Read with nibabel alone; of all of these the voxels are brought to LPS and 1 mm, and back."""
  image = patient[0][:20, :18, :16]
  for name, given in HEADERS.items():
    for index, kind in enumerate(("flair", "t1", "t1ce", "t2")):
      header = nib.Nifti1Header(endianness=given.get("endian", "<"))
      header.set_data_dtype(np.int16)
      header.set_data_shape(image.shape[:3])
      header.set_qform(OBLIQUE, given["codes"][0], strip_shears=True)
      header.set_sform(OBLIQUE, given["codes"][1])
      header.set_xyzt_units(*given.get("units", ("mm", "sec")))
      header["descrip"], header["cal_max"] = b"scanner", 700
      volume = nib.Nifti1Image(image[..., index].astype(np.int16), None, header)
      volume.header.set_slope_inter(*given.get("scale", (None, None)))
      if "comment" in given:
        volume.header.extensions.append(nib.nifti1.Nifti1Extension("comment", given["comment"]))
      path = tmp_path / "data" / name / f"{name}_{kind}{given.get('ending', '.nii.gz')}"
      path.parent.mkdir(parents=True, exist_ok=True)
      nib.save(volume, path)
  summary = predict(tmp_path / "data", tmp_path / "out", ensemble(crooked), probabilities=True)
  assert set(summary.conformed) == {*HEADERS}
  for name in HEADERS:
    like = nib.load(next((tmp_path / "data" / name).glob("*_t1.*")))
    for folder, dtype, more in (("", np.uint8, ()), ("probabilities", np.float32, (3,))):
      got = nib.load(tmp_path / "out" / folder / f"{name}.nii.gz")
      assert (got.shape, got.get_data_dtype().newbyteorder("=")) == (like.shape + more, dtype)
      assert (got.dataobj.slope, got.dataobj.inter) == (1, 0)
      np.testing.assert_array_equal(got.affine, like.affine)
      for form in ("qform", "sform"):
        (one, code), (other, expected) = (
          getattr(volume.header, f"get_{form}")(coded=True) for volume in (got, like)
        )
        assert code == expected
        assert (one is None) == (other is None)
        assert one is None or (one == other).all()
      names = [name for name in like.header if name.startswith(("quatern", "qoffset", "srow"))]
      for field in ("pixdim", "xyzt_units", "descrip", *names):
        assert got.header[field].tobytes() == like.header[field].tobytes(), field
      assert not len(got.header.extensions)
  expected = stored(tmp_path / "out", "both")
  assert min(np.bincount(expected.ravel(), minlength=5)[[0, 1, 2, 4]]) > 20
  # With one affine, be it of the sform or of the qform, one prediction.
  for name in ("scaled", "bigendian", "extended", "meters", "nii", "sform"):
    assert (stored(tmp_path / "out", name) == expected).all()


def test_small_components_are_measured_in_the_outputs_voxels(tmp_path):
  """One voxel of 1 x 1 x 2 mm holds 0.002 ml, though it is two voxels for the network."""
  image = np.full((12, 12, 8, 4), 400, np.int16)
  image[:, :, :, 1] += np.arange(8, dtype=np.int16)  # contrast, without which a modality is refused
  image[6, 6, 4] = 900
  write_case(tmp_path / "data", "a", image, affine=np.diag([-1.0, -1, 2, 1]))

  def enhancing(variables, patch, low, high):
    return np.repeat(patch[..., :1] > 600, 3, -1).astype(np.float32)

  for least, paint in ((0.0019, 4), (0.0021, 1)):
    choices = InferenceChoices(min_component_ml=least)
    predict(tmp_path / "data", tmp_path / "out", ensemble(enhancing, patch_size=8), choices=choices, overwrite=True)
    got = stored(tmp_path / "out", "a")
    assert (np.unique(got).tolist(), (got > 0).sum()) == ([0, paint], 1)


@pytest.fixture
def small():
  return phantom_case(2, (16, 16, 16))[0]


def test_bad_cases_of_every_kind_are_named_at_the_end_and_the_others_done(tmp_path, small):
  data, out = tmp_path / "data", tmp_path / "out"
  for name in ("good1", "cut", "shape", "nan", "missing", "huge", "diverged", "memory", "blocked", "good2"):
    write_case(data, name, small)

  def rewrite(name, change, affine=LPS):
    for path in sorted((data / name).iterdir())[:1 if name != "huge" else 9]:
      nib.save(nib.Nifti1Image(change(np.asarray(nib.load(path).dataobj)), affine), path)

  whole = (data / "cut" / "cut_t1.nii.gz").read_bytes()
  (data / "cut" / "cut_t1.nii.gz").write_bytes(whole[:-9])
  rewrite("shape", lambda a: a[:-1])
  rewrite("nan", lambda a: np.where(a == a.max(), np.nan, a).astype(np.float32))
  (data / "missing" / "missing_t2.nii.gz").unlink()
  rewrite("huge", lambda a: a, np.diag([-1.0, -1, 900, 1]))
  rewrite("diverged", lambda a: np.where(a > 0, a + 20000, 0).astype(np.int16))
  rewrite("memory", lambda a: np.where(a > 0, a + 25000, 0).astype(np.int16))
  (out / ".blocked.nii.gz.partial").mkdir(parents=True)

  def step(variables, patch, low, high):
    if high[0] > 25000:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")
    return bright(variables, patch, low, high) * (np.nan if high[0] > 20000 else 1)

  with pytest.raises(InputError) as caught:
    predict(data, out, ensemble(step))
  first, *lines = str(caught.value).splitlines()
  assert first.startswith("8 of the cases cannot be predicted; 2 cases predicted, in ")
  expected = {
    "blocked": ".blocked.nii.gz.partial (Is a directory); move away what is there",
    "cut": "cut_t1.nii.gz is truncated",
    "diverged": "the network's probabilities are not finite: its training diverged; use another checkpoint",
    "huge": "cannot be brought to LPS, 1 x 1 x 1 mm, it would have 16 x 16 x 14400; check the voxel size in its header",
    "memory": "memory does not suffice for it; predict it with smaller patches",
    "missing": "no t2 image missing_t2.nii.gz",
    "nan": "flair has 1 voxel that is NaN",
    "shape": "t1 has shape (16, 16, 16), flair (15, 16, 16)",
  }
  said = {name: [line for line in lines if line.startswith(f"  {name}: ")] for name in expected}
  for name, reason in expected.items():
    assert reason in said[name][0]
  assert sum(map(len, said.values())) == len(lines)
  assert sorted(path.name for path in out.glob("*.nii.gz") if path.is_file()) == ["good1.nii.gz", "good2.nii.gz"]
  # Mended, only they are predicted.
  (data / "cut" / "cut_t1.nii.gz").write_bytes(whole)
  (out / ".blocked.nii.gz.partial").rmdir()
  with pytest.raises(InputError, match="6 of the cases cannot be predicted; 2 cases predicted, 2 reused, in "):
    predict(data, out, ensemble(step))


def test_a_disk_that_is_full_ends_it_and_what_is_done_counts(tmp_path, small, monkeypatch):
  data, out = tmp_path / "data", tmp_path / "out"
  for name in "abcde":
    write_case(data, name, small)
  written, replace = [], os.replace

  def until_full(source, target):
    written.append(target) if str(target).endswith(".nii.gz") else None
    if len(written) > 2:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return replace(source, target)

  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", until_full)
    with pytest.raises(DiskError, match=r"^the prediction of c cannot be written to .*\(No space left on dev"):
      predict(data, out)
  assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "b.nii.gz", "predictions.json"]
  summary = predict(data, out)
  assert (summary.reused, summary.predicted) == (("a", "b"), ("c", "d", "e"))


def test_memory_holds_three_cases_however_many_there_are(tmp_path, small, monkeypatch):
  """One computed, one read, one written: of 50, and of bad ones and of other grids among them, too."""
  data, cases = tmp_path / "data", 50
  for index in range(cases):
    codes = {1: "RAS", 2: "ASL"}.get(index % 5)
    affine = np.diag([-1.0, -1, 1.5, 1]) if index % 5 == 3 else LPS
    folder = write_case(data, f"c{index:02}", small, affine=affine, codes=codes)
    if index % 10 == 9:
      path = folder / f"c{index:02}_t2.nii.gz"
      path.write_bytes(path.read_bytes()[:-9])
  alive, most, traced = set(), [], []
  read, write, predicted = jobs.read_case, PredictionFolder.write, Ensemble.predict

  def watch(array):
    assert array.base is None  # or else something else would be what holds the voxels
    alive.add(id(array))
    weakref.finalize(array, alive.discard, id(array))

  def reading(files, schema):
    case = read(files, schema)
    watch(case.image)
    most.append(len(alive))
    return case

  def computing(self, image, **more):
    answer = predicted(self, image, **more)
    watch(answer)
    return answer

  def writing(self, raw, labels, probabilities):
    write(self, raw, labels, probabilities)
    if len(most) % 3 == 0:
      gc.collect()
      traced.append(tracemalloc.get_traced_memory()[0])

  monkeypatch.setattr(jobs, "read_case", reading)
  monkeypatch.setattr(Ensemble, "predict", computing)
  monkeypatch.setattr(PredictionFolder, "write", writing)
  tracemalloc.start()
  try:
    with pytest.raises(InputError, match="5 of the cases cannot be predicted; 45 cases predicted, in "):
      predict(data, tmp_path / "out", probabilities=True)
  finally:
    tracemalloc.stop()
  assert len(most) == 45
  # The one read just now, the one computed with its answer, the one written with its image and answer; for a moment the
  # writing thread still holds the one before.
  assert sorted(most)[-5] <= 5
  assert max(most) <= 7
  assert not alive
  size = small.nbytes
  assert max(traced) > size  # that is, it sees them
  # Of each of 30 cases between these, the labels alone would be 4 KiB; names and checksums are less than one.
  assert np.median(traced[-6:-1]) < np.median(traced[1:6]) + 4 * size
