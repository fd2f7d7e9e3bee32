"""Reading one volume: as nibabel does, and every kind of damage refused with its message."""

import gzip
import hashlib

import nibabel as nib
import numpy as np
import pytest

from nas3d_jax.data.cases.nifti import VolumeError, read_volume

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
  with pytest.raises(VolumeError, match=r"four axes of at least one voxel, got shape \(4, 5, 6\)"):
    read_volume(tmp_path / "v.nii.gz", axes=4)


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
    (no_header, "no NIfTI-1 header"),
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


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(VolumeError, match=r"v\.nii cannot be read"):
    read_volume(tmp_path / "v.nii")
