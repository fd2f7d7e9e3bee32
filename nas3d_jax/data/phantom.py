"""Made-up cases that look like BraTS: a head, its tissues, a tumour.

They let the whole program run where there is no data, and serve the tests and the demo. They are no
substitute for patients.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from nas3d_jax.errors import InputError
from nas3d_jax.files.own_files import remove
from nas3d_jax.files.strict_json import read_json, write_json
from nas3d_jax.runtime.memory import check_fits
from nas3d_jax.runtime.progress_bar import ProgressBar
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.validation import check_whole, is_whole

SHAPE = (240, 240, 155)
"""Voxels of a BraTS volume."""
_SMALLEST, _LARGEST = 16, 2**15 - 1
_MOST_CASES = 9999
# Of memory a voxel: four modalities, their labels, and what it takes to draw one of them.
_BYTES = 16
_WITHOUT_ET = 0.2
# What each modality (flair, t1, t1ce, t2) shows of each tissue, as BraTS volumes do on the average.
_CONTRAST = np.asarray(
  [
    (330, 620, 640, 330),  # white matter
    (430, 470, 490, 470),  # grey matter
    (150, 240, 250, 950),  # cerebrospinal fluid
    (360, 270, 290, 800),  # necrotic core
    (760, 400, 420, 760),  # oedema
    (640, 430, 1150, 620),  # enhancing rim
  ],
  np.float32,
)
_WHITE, _GREY, _FLUID, _NECROSIS, _OEDEMA, _RIM = range(6)


def phantom_case(
  seed: int | Sequence[int], shape: tuple[int, int, int] = SHAPE
) -> tuple[np.ndarray, np.ndarray]:
  """One made-up patient, skull-stripped, with a tumour of nested regions; now and then without ET.

  Args:
    seed: whole numbers of at least 0 that determine everything.
    shape: (D, H, W) in voxels, from right to left, front to back and bottom to top; 16 at least.

  Returns:
    int16 [D, H, W, 4] intensities of flair, t1, t1ce, t2, exactly 0 outside the brain and positive
    in it; uint8 [D, H, W] labels 0, 1, 2, 4.

  Raises:
    InputError: the seed is negative or the shape too small.
  """
  _check_shape(shape)
  if np.ndim(seed) > 1 or any(not is_whole(s, 0) for s in np.atleast_1d(seed).tolist()):
    raise InputError(f"seed must be whole numbers of at least 0, got {seed!r}")
  rng = np.random.default_rng(seed)
  enhancing = rng.random() >= _WITHOUT_ET
  lengths = np.asarray(shape)
  radii = lengths * np.asarray([0.30, 0.37, 0.42]) * rng.uniform(0.93, 1.05, 3)
  centre = (lengths - 1) / 2 + rng.uniform(-0.02, 0.02, 3) * lengths
  low = np.maximum(np.floor(centre - 1.15 * radii), 0).astype(int)
  high = np.minimum(np.ceil(centre + 1.15 * radii) + 1, lengths).astype(int)
  # Everything happens in the box of the brain, in units of its radii.
  axes = [
    ((np.arange(low[a], high[a]) - centre[a]) / radii[a]).astype(np.float32) for a in range(3)
  ]
  grid = np.meshgrid(*axes, indexing="ij", sparse=True)
  box = tuple(len(axis) for axis in axes)
  depth = 1 + 0.035 * _smooth(rng, box, 5) - _distance(grid, (0, 0, 0), (1, 1, 1))
  brain = depth > 0
  tissue = _tissues(rng, grid, depth, box)
  labels = _tumour(rng, grid, box, float(radii.min()))
  labels[~brain] = 0
  if not enhancing:
    labels[labels == 4] = 1
  for value, kind in ((1, _NECROSIS), (2, _OEDEMA), (4, _RIM)):
    tissue[labels == value] = kind
  image = np.zeros((*shape, 4), np.int16)
  inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
  for channel in range(4):
    values = _scan(rng, _CONTRAST[:, channel][tissue], box)
    image[(*inside, channel)] = np.where(brain, values, 0)
  truth = np.zeros(shape, np.uint8)
  truth[inside] = labels
  return image, truth


def write_phantoms(
  out: str | Path, *, cases: int, seed: int, shape: tuple[int, int, int] = SHAPE
) -> list[Path]:
  """Writes made-up patients in the BraTS 2019 layout; case i depends on seed, shape and i alone.

  Cases without ET go to LGG, the others to HGG. A folder that an earlier call with the same seed
  and shape began or ended is completed. Progress goes to stderr.

  Args:
    out: the folder to write: <out>/HGG/Phantom_0001/Phantom_0001_flair.nii.gz and so on.
    cases: number of patients, at least 1.
    seed: a whole number of at least 0.
    shape: (D, H, W) in voxels, 16 at least.

  Returns:
    The folders of the cases, in order.

  Raises:
    InputError: a value is out of range, or `out` holds something else.
  """
  _check_shape(shape)
  check_whole("cases", cases, 1)
  if cases > _MOST_CASES:
    raise InputError(f"cases must be at most {_MOST_CASES}, which their names can count, got {cases!r}")
  check_whole("seed", seed, 0)
  out = Path(out)
  flags = {"format": "nas3d_jax.phantoms", "version": 1, "seed": seed, "shape": [*shape]}
  mark = out / "phantoms.json"
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    if not mark.exists() or read_json(mark, "give another folder") != flags:
      raise InputError(f"out must be new or hold phantoms of this seed and shape, got {str(out)!r}")
  else:
    out.mkdir(parents=True, exist_ok=True)
    write_json(mark, flags)
  names = [f"Phantom_{i + 1:04d}" for i in range(cases)]
  there = {path.name: path for path in out.glob("[HL]GG/Phantom_*")}
  if surplus := sorted(there.keys() - set(names)):
    raise InputError(f"out holds more than cases={cases} phantoms ({surplus[-1]}); give another")
  with ProgressBar("phantom", cases) as bar:
    return [there.get(names[i]) or _write_case(out, names[i], (seed, i), shape) for i in bar.track(range(cases))]


def _write_case(
  out: Path, name: str, seed: tuple[int, int], shape: tuple[int, int, int]
) -> Path:
  """The five files of a case; its folder appears once they are whole."""
  image, labels = phantom_case(seed, shape)
  partial = out / f".{name}.partial"
  remove(partial)
  partial.mkdir()
  # BraTS lies on a grid that runs left and backward, with the far corner at 239 mm.
  affine = np.diag([-1.0, -1.0, 1.0, 1.0])
  affine[1, 3] = shape[1] - 1
  volumes = [(m.suffixes[0], image[..., i]) for i, m in enumerate(BRATS2019.modalities)]
  for suffix, data in [*volumes, (BRATS2019.segmentation[0], labels)]:
    volume = nib.Nifti1Image(np.asfortranarray(data), affine)
    volume.set_qform(affine, code=1)
    volume.set_sform(affine, code=1)
    volume.header.set_xyzt_units("mm")
    nib.save(volume, partial / f"{name}{suffix}.nii.gz")
  folder = out / ("HGG" if (labels == 4).any() else "LGG") / name
  folder.parent.mkdir(exist_ok=True)
  os.replace(partial, folder)
  return folder


def _tissues(
  rng: np.random.Generator, grid: list[np.ndarray], depth: np.ndarray, box: tuple[int, ...]
) -> np.ndarray:
  """White matter within a folded rim of grey; fluid in the ventricles, sulci and middle fissure."""
  folds = _smooth(rng, box, 26)
  tissue = np.full(box, _WHITE, np.uint8)
  tissue[depth < 0.16 + 0.11 * folds] = _GREY
  for side in (-1, 1):
    tissue[_distance(grid, (0.40 * side, 0.0, -0.05), (0.15, 0.24, 0.16)) < 1] = _GREY
    tissue[_distance(grid, (0.14 * side, 0.05, 0.15), (0.10, 0.42, 0.22)) < 1] = _FLUID
  fissure = (np.abs(grid[0] + 0.02 * folds) < 0.025) & (grid[2] > 0.1)
  tissue[((depth < 0.30) & fissure) | (depth < 0.07 * folds - 0.03)] = _FLUID
  return tissue


def _tumour(
  rng: np.random.Generator, grid: list[np.ndarray], box: tuple[int, ...], radius: float
) -> np.ndarray:
  """Labels of a tumour: necrosis within an enhancing rim within oedema, all with uneven borders."""
  direction = rng.normal(size=3)
  direction /= np.linalg.norm(direction)
  centre = direction * rng.uniform(0.25, 0.5)
  # At least 3 voxels, so that the regions show in the smallest volumes too.
  size = max(rng.uniform(0.28, 0.5), 3.2 / radius) * rng.uniform(0.85, 1.15, 3)
  core, necrosis = rng.uniform(0.50, 0.65), rng.uniform(0.52, 0.68)
  distance = _distance(grid, centre, size)
  # One coarse field shapes all borders, so that the rim goes round; finer ones fray each.
  form = 1 + 0.18 * _smooth(rng, box, 8)
  whole = distance < form + 0.16 * _smooth(rng, box, 24)
  inner = distance < core * (form + 0.12 * _smooth(rng, box, 24))
  dead = distance < core * necrosis * (form + 0.12 * _smooth(rng, box, 24))
  labels = np.zeros(box, np.uint8)
  labels[whole] = 2
  labels[whole & inner] = 4
  labels[whole & inner & dead] = 1
  return labels


def _scan(rng: np.random.Generator, ideal: np.ndarray, box: tuple[int, ...]) -> np.ndarray:
  """What a scanner makes of the tissues: blur, gain, bias field, texture, noise; never below 1."""
  gain = rng.uniform(0.8, 1.2)
  field = np.exp(0.10 * _smooth(rng, box, 3) + 0.03 * _smooth(rng, box, 30))
  noise = rng.standard_normal(box, np.float32)
  for axis in range(3):
    ideal = _blur(ideal, axis)
  return np.clip(np.rint(gain * ideal * field + 18 * noise), 1, 32767)


def _blur(values: np.ndarray, axis: int) -> np.ndarray:
  """A quarter, a half, a quarter along an axis: voxels on a border hold both tissues."""
  values = np.moveaxis(values, axis, 0)
  blurred = values / 2
  blurred[1:] += values[:-1] / 4
  blurred[:-1] += values[1:] / 4
  blurred[[0, -1]] += values[[0, -1]] / 4
  return np.moveaxis(blurred, 0, axis)


def _smooth(rng: np.random.Generator, box: tuple[int, ...], cells: int) -> np.ndarray:
  """A smooth random field of mean 0 and deviation about 1: cubic B-splines on a grid of cells.

  Args:
    rng: where the knots come from.
    box: voxels along each axis.
    cells: knots along the longest axis; one a voxel at the most.

  Returns:
    float32 `box`.
  """
  edge = max(max(box) / cells, 1.0)
  field = rng.standard_normal([int(np.ceil(length / edge)) + 3 for length in box], np.float32)
  # No matrix product: its last bits, and with them some voxels, would differ between machines.
  for axis in (2, 1, 0):
    place = np.arange(box[axis]) / edge
    knot = np.floor(place).astype(int)
    offsets = np.abs(place - knot + 1 - np.arange(4)[:, None])
    weights = np.where(
      offsets < 1, 2 / 3 - offsets**2 + offsets**3 / 2, np.maximum(2 - offsets, 0) ** 3 / 6
    )
    weights = (weights / np.sqrt((weights**2).sum(axis=0))).astype(np.float32)
    side = [-1 if a == axis else 1 for a in range(3)]
    field = sum(weights[k].reshape(side) * field.take(knot + k, axis) for k in range(4))
  return field


def _distance(
  grid: list[np.ndarray], centre: Sequence[float], radii: Sequence[float]
) -> np.ndarray:
  """Distance of each point from the centre of an ellipsoid whose surface is at 1."""
  squares = (((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
  return np.sqrt(sum(squares)).astype(np.float32)


def _check_shape(shape: Sequence[int]) -> None:
  if len(shape) != 3 or not all(is_whole(n, _SMALLEST) for n in shape):
    raise InputError(f"shape must be three lengths of at least {_SMALLEST} voxels, got {shape!r:.100}")
  if max(shape) > _LARGEST:
    raise InputError(f"shape must be three lengths of at most {_LARGEST} voxels, as in NIfTI-1, got {shape!r:.100}")
  check_fits(_BYTES * math.prod(shape), f"shape={shape!r:.100}", "give a smaller one")
