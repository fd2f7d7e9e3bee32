"""Cases on other grids: the same patient as files of another orientation or voxel size."""

import nibabel as nib
import numpy as np

NAMES = ("flair", "t1", "t1ce", "t2", "seg")
LPS = np.diag([-1.0, -1, 1, 1])


def turned(array, affine, codes):
  """An array as a file whose axes run to `codes` has it, and that file's affine."""
  affine = np.asarray(affine, float)
  turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
  new = affine @ nib.orientations.inv_ornt_aff(turn, array.shape[:3])
  return nib.orientations.apply_orientation(array, turn), new


def write_case(data, name, image, labels=None, *, affine=LPS, codes=None, ending=".nii.gz"):
  """Writes [D, H, W, 4] intensities and labels on the grid of `affine`, turned to `codes`; returns the folder."""
  folder = data / name
  folder.mkdir(parents=True)
  for index, kind in enumerate(NAMES):
    array = image[..., index] if index < 4 else labels
    if array is None:
      continue
    stored, new = turned(array, affine, codes) if codes else (array, affine)
    volume = nib.Nifti1Image(np.ascontiguousarray(stored), new)
    volume.header.set_xyzt_units("mm")
    nib.save(volume, folder / f"{name}_{kind}{ending}")
  return folder


def halved(array):
  """Every second plane along the last spatial axis: voxels of 2 mm, from 0.5 mm above the first, as means of two.

  Brain is where both are, so that no background is mixed in; labels are the lower voxel's.
  """
  lower, upper = array[:, :, 0::2], array[:, :, 1::2]
  if array.ndim == 3:
    return lower.copy()
  both = lower.any(-1, keepdims=True) & upper.any(-1, keepdims=True)
  return np.where(both, (lower.astype(np.int32) + upper) // 2, 0).astype(array.dtype)


HALVED = LPS @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0.5], [0, 0, 0, 1]])
"""The affine of a halved volume."""
