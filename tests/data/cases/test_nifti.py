"""Reading one volume: as nibabel does, and every kind of damage refused with its message."""

import gzip
import hashlib

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.cases.nifti import VolumeError, read_affine, read_labels, read_volume

SHAPE = (4, 5, 6)
RAMP = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def save(path, data):
  nib.save(nib.Nifti1Image(data, np.diag([-1.0, 2.0, 3.0, 1.0])), path)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_a_sound_file(tmp_path, name):
  save(tmp_path / name, RAMP)
  volume = read_volume(tmp_path / name)
  np.testing.assert_array_equal(volume.data, RAMP)
  assert volume.data.dtype == np.int16
  np.testing.assert_array_equal(volume.affine, np.diag([-1, 2, 3, 1]))
  assert volume.spacing == (1, 2, 3)
  assert volume.header.get_data_shape() == SHAPE
  assert volume.checksum == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_a_volume_with_channels(tmp_path):
  data = np.stack([RAMP, RAMP + 1], -1)
  save(tmp_path / "v.nii.gz", data)
  volume = read_volume(tmp_path / "v.nii.gz", axes=4)
  np.testing.assert_array_equal(volume.data, data)
  assert volume.spacing == (1, 2, 3)
  save(tmp_path / "v.nii.gz", RAMP)
  np.testing.assert_array_equal(read_volume(tmp_path / "v.nii.gz", axes=4).data, RAMP[..., None])
  save(tmp_path / "v.nii.gz", RAMP[0])
  with pytest.raises(VolumeError, match=r"four axes of at least one voxel, got shape \(5, 6\)"):
    read_volume(tmp_path / "v.nii.gz", axes=4)


@pytest.mark.parametrize("axes", [3, 4])
def test_further_axes_of_length_1_are_left_out(tmp_path, axes):
  data = RAMP if axes == 3 else np.stack([RAMP, RAMP], -1)
  save(tmp_path / "v.nii.gz", data[..., None, None])
  volume = read_volume(tmp_path / "v.nii.gz", axes)
  np.testing.assert_array_equal(volume.data, data)
  assert volume.notes == (f"v.nii.gz has shape {(*data.shape, 1, 1)}; further axes of length 1 are left out",)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_nifti_2(tmp_path, name):
  affine = np.array([[0, 0, 1.5, -3], [-2, 0, 0, 4], [0, 1, 0, 5], [0, 0, 0, 1]])
  image = nib.Nifti2Image(RAMP, affine)
  image.header.set_xyzt_units("mm")
  image.header.set_slope_inter(2, 1)
  nib.save(image, tmp_path / name)
  expected, volume = nib.load(tmp_path / name), read_volume(tmp_path / name)
  np.testing.assert_array_equal(volume.data, expected.get_fdata())
  np.testing.assert_array_equal(volume.affine, affine)
  np.testing.assert_array_equal(read_affine(tmp_path / name), affine)
  assert type(volume.header) is nib.Nifti1Header
  np.testing.assert_allclose(volume.header.get_best_affine(), affine, atol=1e-6)
  assert volume.header.get_data_shape() == SHAPE
  assert volume.header.get_xyzt_units()[0] == "mm"
  # It goes into a file that others read.
  nib.save(nib.Nifti1Image(RAMP, None, volume.header), tmp_path / "out.nii.gz")
  np.testing.assert_allclose(nib.load(tmp_path / "out.nii.gz").affine, affine, atol=1e-6)


def test_a_pair_of_files(tmp_path):
  nib.save(nib.Nifti1Pair(RAMP, np.eye(4)), tmp_path / "v.hdr")
  (tmp_path / "v.hdr").rename(tmp_path / "v.nii")
  with pytest.raises(VolumeError, match=r"v\.nii is the header of a pair, whose .* \(\.img\); convert the pair"):
    read_volume(tmp_path / "v.nii")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_within_rounding_are_whole(tmp_path, dtype):
  labels = np.array([0, 1, 2.9999998, 3.00005, 4.0009], dtype).reshape(5, 1, 1)
  save(tmp_path / "v.nii.gz", labels)
  volume = read_labels(tmp_path / "v.nii.gz")
  assert volume.data.ravel().tolist() == [0, 1, 3, 3, 4]
  assert volume.notes == ("the labels of v.nii.gz are whole numbers but for rounding, and taken as such",)
  labels[4] = 4.01
  save(tmp_path / "v.nii.gz", labels)
  np.testing.assert_array_equal(read_labels(tmp_path / "v.nii.gz").data, labels)
  save(tmp_path / "v.nii.gz", np.rint(labels))
  assert read_labels(tmp_path / "v.nii.gz").notes == ()


def truncated(raw, path):
  path.write_bytes(gzip.compress(raw)[:-40])


def without_trailer(raw, path):
  path.write_bytes(gzip.compress(raw)[:-8])


def flipped_checksum(raw, path):
  packed = bytearray(gzip.compress(raw))
  packed[-8] ^= 1
  path.write_bytes(bytes(packed))


def short(raw, path):
  path.write_bytes(gzip.compress(raw[:-1]))


def huge_claim(raw, path):
  raw = bytearray(raw)
  raw[42:48] = np.asarray([800] * 3, "<i2").tobytes()
  path.write_bytes(gzip.compress(bytes(raw)))


def four_axes(raw, path):
  save(path, np.zeros((4, 5, 6, 2), np.int16))


def complex_voxels(raw, path):
  save(path, np.zeros(SHAPE, np.complex64))


def no_header(raw, path):
  path.write_bytes(gzip.compress(b"x" * 1000))


def plain(raw, path):
  path.write_bytes(raw)


def far_voxels(raw, path):
  raw = bytearray(raw)
  raw[108:112] = np.asarray(np.nan, "<f4").tobytes()
  path.write_bytes(gzip.compress(bytes(raw)))


def flat_affine(raw, path):
  affine = np.diag([1.0, 1.0, 0.0, 1.0])
  image = nib.Nifti1Image(RAMP, np.eye(4))
  image.header.set_sform(affine, code=1)
  nib.save(nib.Nifti1Image(image.dataobj, None, image.header), path)


def unknown_type(raw, path):
  """Numbers of 128 bits, of which processors have several forms."""
  header = nib.Nifti1Header(raw[:348])
  header["datatype"] = 1536
  path.write_bytes(gzip.compress(header.binaryblock + raw[348:] + bytes(1920)))


def without_length(raw, path, **codes):
  header = nib.Nifti1Header(raw[:348])
  header["pixdim"][2] = 0
  for name, code in ({"sform_code": 0, "qform_code": 1} | codes).items():
    header[name] = code
  path.write_bytes(gzip.compress(header.binaryblock + raw[348:]))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (truncated, "truncated"),
    (without_trailer, "truncated"),
    (flipped_checksum, "damaged"),
    (short, "truncated"),
    (huge_claim, "truncated"),
    (four_axes, r"three axes of at least one voxel, got shape \(4, 5, 6, 2\)"),
    (complex_voxels, "holds complex64 voxels"),
    (no_header, "no NIfTI header"),
    (unknown_type, "holds voxels of the type 1536 of NIfTI, which is not read"),
    (without_length, r"the header of v.nii.gz has voxels of 1 x 0 x 3 mm"),
    (plain, "not compressed with gzip, against its name"),
    (far_voxels, "header of v.nii.gz puts its voxels at byte nan"),
    (flat_affine, "affine of v.nii.gz cannot be inverted"),
  ],
)
def test_damaged_files(tmp_path, damage, message):
  path = tmp_path / "v.nii.gz"
  save(path, RAMP)
  damage(gzip.decompress(path.read_bytes()), path)
  with pytest.raises(VolumeError, match=message) as caught:
    read_volume(path)
  assert "v.nii.gz" in caught.value.reason
  assert caught.value.remedy


def test_a_length_of_0_does_not_matter_where_the_sform_has_one(tmp_path, capfd):
  path = tmp_path / "v.nii.gz"
  save(path, RAMP)
  without_length(gzip.decompress(path.read_bytes()), path, sform_code=2)
  volume = read_volume(path)
  assert (volume.spacing, volume.notes) == ((1, 2, 3), ())
  assert capfd.readouterr().err == ""


def test_an_unknown_code_of_a_form_is_said(tmp_path):
  path = tmp_path / "v.nii.gz"
  image = nib.Nifti1Image(RAMP, np.diag([-1.0, 2.0, 3.0, 1.0]))
  image.header.set_qform(np.diag([1.5, 1.5, 1.5, 1.0]), 1)
  nib.save(image, path)
  raw = bytearray(gzip.decompress(path.read_bytes()))
  raw[254:256] = np.int16(77).tobytes()
  path.write_bytes(gzip.compress(bytes(raw)))
  assert read_volume(path).notes == ("v.nii.gz has sform_code 77, which is none; its sform is not taken",)


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(VolumeError, match=r"v\.nii cannot be read"):
    read_volume(tmp_path / "v.nii")
