"""Reads one NIfTI volume and checks its header against its data."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import logging
import math
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from nas3d_jax.errors import InputError

_HEADER_BYTES, _HEADER_2_BYTES = 348, 540
"""Of NIfTI-1 and of NIfTI-2."""
_CHUNK_BYTES = 1 << 22
_MOST_VOXELS = 1 << 29
"""Of a file: 60 times a BraTS volume, 4 GiB in double precision."""
_MOST_OFFSET = 1 << 26
"""Bytes before the voxels: header and extensions."""
_MOST_SURPLUS = 1 << 20
"""Bytes after the voxels that are passed over, as padding."""
_MOST_PACKED = 1040
"""Bytes that one byte of gzip can stand for; deflate's bound is 1032."""
_LABEL_TOLERANCE = 1e-3
_GZIP_MAGIC = b"\x1f\x8b"
_AGAIN = "copy or download the file again"
_QUIET = logging.Logger("headers", logging.CRITICAL + 1)


class VolumeError(InputError):
  """A file that is no usable volume.

  Attributes:
    reason: what is wrong, naming the file.
    remedy: what to do about it.
  """

  def __init__(self, reason: str, remedy: str):
    super().__init__(f"{reason}; {remedy}")
    self.reason = reason
    self.remedy = remedy


@dataclasses.dataclass(frozen=True)
class Volume:
  """A volume in file order.

  Attributes:
    data: [D, H, W] or [D, H, W, channel], real numbers with the header's slope and intercept applied; read-only.
    affine: float64 [4, 4], voxel indices to millimetres.
    spacing: edge lengths of a voxel along D, H, W, in mm.
    header: the file's header, without extensions; that of a NIfTI-2 file as one of NIfTI-1.
    checksum: SHA-256 (hex) of the file as it lies on disk.
    notes: what was put right in reading, in words.
  """

  data: np.ndarray
  affine: np.ndarray
  spacing: tuple[float, float, float]
  header: nib.Nifti1Header
  checksum: str
  notes: tuple[str, ...] = ()


def read_volume(path: str | Path, axes: Literal[3, 4] = 3) -> Volume:
  """Reads a .nii or .nii.gz file whole, up to the checksum at the end of a compressed one.

  Memory grows with what the file holds, never with what its header claims. Further axes of length 1 are left out.

  Args:
    path: the file, NIfTI-1 or NIfTI-2.
    axes: 3 for one volume, 4 for one with several channels; a file of three axes is one channel then.

  Raises:
    VolumeError: the file cannot be read, is truncated or damaged, or is no volume of so many axes,
      of real numbers, with an invertible affine.
  """
  path = Path(path)
  try:
    raw = path.read_bytes()
  except OSError as error:
    reason = f"{path.name} cannot be read ({error.strerror})"
    raise VolumeError(reason, "check that it is there and its permissions") from error
  compressed = raw[:2] == _GZIP_MAGIC
  if raw and compressed != path.name.lower().endswith(".gz"):
    is_, rest = ("", ".nii.gz") if compressed else ("not ", ".nii")
    reason = f"{path.name} is {is_}compressed with gzip, against its name"
    raise VolumeError(reason, f"let its name end in {rest}, if it is whole")
  stream = gzip.GzipFile(fileobj=io.BytesIO(raw)) if compressed else io.BytesIO(raw)
  try:
    header, read, repairs = _header(stream, path)
    shape, dtype, offset, notes = _layout(header, path, axes, read)
    size = offset + math.prod(shape) * dtype.itemsize
    if size > (most := len(raw) * (_MOST_PACKED if compressed else 1)):
      raise EOFError(f"at most {most} bytes where its header takes {size}")
    content = _read(stream, size - read)
    surplus = 0
    while piece := stream.read(_MOST_SURPLUS):  # only the end of a gzip stream has its checksum
      surplus += len(piece)
      if surplus > _MOST_SURPLUS:
        raise VolumeError(f"{path.name} holds far more than the {size} bytes that its header takes", _AGAIN)
  except EOFError as error:
    raise VolumeError(f"{path.name} is truncated ({error})", _AGAIN) from error
  except (OSError, zlib.error) as error:
    raise VolumeError(f"{path.name} is damaged ({error})", _AGAIN) from error
  data = np.frombuffer(content, dtype, math.prod(shape), offset - read)
  affine, (slope, intercept) = _geometry(header, path)
  if (slope, intercept) != (1.0, 0.0):
    data = data * slope + intercept
  data = data.astype(data.dtype.newbyteorder("="), copy=False).reshape(shape, order="F")
  data.flags.writeable = False
  spacing = tuple(float(s) for s in voxel_sizes(affine))
  return Volume(data, affine, spacing, _as_nifti1(header), hashlib.sha256(raw).hexdigest(), repairs + notes)


def read_labels(path: str | Path) -> Volume:
  """Reads a label volume, as `read_volume`; labels that scaling left within 1e-3 of whole numbers become these.

  Raises:
    VolumeError: as `read_volume`.
  """
  volume = read_volume(path)
  if volume.data.dtype.kind != "f":
    return volume
  with np.errstate(invalid="ignore"):
    whole = np.rint(volume.data)
    near = np.abs(volume.data - whole) <= _LABEL_TOLERANCE
  if not near.all() or np.array_equal(whole, volume.data):
    return volume
  note = f"the labels of {Path(path).name} are whole numbers but for rounding, and taken as such"
  return dataclasses.replace(volume, data=whole, notes=(*volume.notes, note))


def exact(value: float) -> str:
  """A value of a voxel for messages, with as many digits as tell it from others: 2.9999998, not 3."""
  return np.format_float_positional(value, trim="-")


def read_affine(path: str | Path) -> np.ndarray:
  """The affine of a .nii or .nii.gz file, float64 [4, 4], from its header alone.

  Raises:
    VolumeError: the header cannot be read, or the affine not inverted.
  """
  path = Path(path)
  try:
    with path.open("rb") as file:
      compressed = file.read(2) == _GZIP_MAGIC
      file.seek(0)
      header, *_ = _header(gzip.GzipFile(fileobj=file) if compressed else file, path)
  except (OSError, EOFError, zlib.error) as error:
    raise VolumeError(f"the header of {path.name} cannot be read ({error})", _AGAIN) from error
  return _geometry(header, path)[0]


def _read(stream: BinaryIO, count: int) -> bytes:
  """Exactly so many bytes, in pieces: a claim alone allocates nothing."""
  pieces, left = [], count
  while left:
    piece = stream.read(min(left, _CHUNK_BYTES))
    if not piece:
      raise EOFError(f"{count - left} bytes where its header takes {count}")
    pieces.append(piece)
    left -= len(piece)
  return b"".join(pieces)


def _header(stream: BinaryIO, path: Path) -> tuple[nib.Nifti1Header, int, tuple[str, ...]]:
  """The header, how many bytes it took, and what was put right in it."""
  block = _read(stream, _HEADER_BYTES)
  second = any(int.from_bytes(block[:4], order) == _HEADER_2_BYTES for order in ("little", "big"))
  if second:
    block += _read(stream, _HEADER_2_BYTES - _HEADER_BYTES)
  magic = block[4:7] if second else block[344:347]
  if magic in (b"ni1", b"ni2"):
    reason = f"{path.name} is the header of a pair, whose voxels lie in another file (.img)"
    raise VolumeError(reason, "convert the pair to one file, .nii.gz")
  try:
    given = (nib.Nifti2Header if second else nib.Nifti1Header)(block, check=False)
    header = given.copy()
    header.check_fix(logger=_QUIET)  # which would print what it changes without the file's name
  except (HeaderDataError, WrapStructError) as error:
    if magic in (b"n+1", b"n+2") and "data code" in str(error):
      reason = f"{path.name} holds voxels of the type {int(given['datatype'])} of NIfTI, which is not read"
      raise VolumeError(reason, "store them as whole numbers of 16 bits or real ones of 32") from error
    raise VolumeError(f"{path.name} has no NIfTI header ({error})", _AGAIN) from error
  return header, len(block), _repairs(given, header, path)


def _repairs(given: nib.Nifti1Header, header: nib.Nifti1Header, path: Path) -> tuple[str, ...]:
  """What nibabel put right in a header that says where voxels lie, in words; raises VolumeError where it made it up."""
  if not header["sform_code"] and not np.all(given["pixdim"][1:4]):
    lengths = " x ".join(f"{length:g}" for length in given["pixdim"][1:4])
    raise VolumeError(f"the header of {path.name} has voxels of {lengths} mm", "write the file again with their size")
  return tuple(
    f"{path.name} has {form}_code {int(given[f'{form}_code'])}, which is none; its {form} is not taken"
    for form in ("sform", "qform") if given[f"{form}_code"] != header[f"{form}_code"]
  )


def _as_nifti1(header: nib.Nifti1Header) -> nib.Nifti1Header:
  """The header itself, or what NIfTI-1 can say of a NIfTI-2 one: all but extents above 32,767 voxels."""
  if not isinstance(header, nib.Nifti2Header):
    return header
  first = nib.Nifti1Header(endianness=header.endianness)
  first.set_data_dtype(header.get_data_dtype())
  first.set_data_shape(header.get_data_shape())
  first.set_zooms(header.get_zooms())
  first.set_qform(header.get_qform(), int(header["qform_code"]))
  first.set_sform(header.get_sform(), int(header["sform_code"]))
  first.set_slope_inter(*header.get_slope_inter())
  for field in ("xyzt_units", "descrip", "aux_file"):
    first[field] = header[field]
  return first


def _layout(
  header: nib.Nifti1Header, path: Path, axes: int, read: int
) -> tuple[tuple[int, ...], np.dtype, int, tuple[str, ...]]:
  """Shape, type and place of the voxels, as the header claims them, and what was put right in the shape."""
  whole = shape = tuple(int(n) for n in header.get_data_shape())
  while len(shape) > axes and shape[-1] == 1:
    shape = shape[:-1]
  notes = (f"{path.name} has shape {whole}; further axes of length 1 are left out",) if shape != whole else ()
  if axes == 4 and len(shape) == 3:
    shape = (*shape, 1)
  if len(shape) != axes or min(shape) < 1:
    number, remedy = {
      3: ("three", "store one three-dimensional volume a file"),
      4: ("four", "store the channels of a case in one file, along the fourth axis"),
    }[axes]
    raise VolumeError(f"{path.name} must have {number} axes of at least one voxel, got shape {shape}", remedy)
  if math.prod(shape) > _MOST_VOXELS:
    raise VolumeError(f"{path.name} has {math.prod(shape)} voxels, {_MOST_VOXELS} are read at most", "crop it")
  dtype = header.get_data_dtype()
  if dtype.kind not in "iuf":
    raise VolumeError(f"{path.name} holds {dtype} voxels", "store them as real numbers")
  offset = float(header["vox_offset"])
  if not offset.is_integer() or not read <= offset <= _MOST_OFFSET:
    raise VolumeError(f"the header of {path.name} puts its voxels at byte {offset}", _AGAIN)
  return shape, dtype, int(offset), notes


def _geometry(header: nib.Nifti1Header, path: Path) -> tuple[np.ndarray, tuple[float, float]]:
  """Affine, and slope and intercept of the intensities."""
  remedy = "write the file again with a valid header"
  try:
    affine = np.asarray(header.get_best_affine(), np.float64)
    slope, intercept = header.get_slope_inter()
  except (HeaderDataError, ValueError) as error:
    raise VolumeError(f"the header of {path.name} is damaged ({error})", remedy) from error
  if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
    reason = f"the affine of {path.name} cannot be inverted: {affine[:3].tolist()}"
    raise VolumeError(reason, remedy)
  return affine, (1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
