"""Prepares cases for pictures: cropped to the brain, turned to the patient's axes, cut in three planes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nas3d_jax.data.brain import box_of
from nas3d_jax.data.cases.case_files import CaseFiles
from nas3d_jax.data.cases.detect_schema import for_model
from nas3d_jax.data.cases.find_and_read import find_cases, read_case
from nas3d_jax.data.cases.nifti import read_volume
from nas3d_jax.data.conform import Regrid
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.errors import InputError
from nas3d_jax.inference.prediction_record import stored_schema
from nas3d_jax.report.gallery import label_colours
from nas3d_jax.schema.geometry import Geometry
from nas3d_jax.schema.schema import Schema
from nas3d_jax.schema.translation import translate

PLANES = ("axial", "coronal", "sagittal")
_AXES = {"axial": 2, "coronal": 1, "sagittal": 0}
_OPACITY = 0.6
_WINDOW = (0.5, 99.5)  # percentiles of the brain that are black and white

Image = NDArray[np.float32]  # [rows, columns, 3], 0..1


@dataclasses.dataclass(frozen=True, eq=False)
class View:
  """A case in its brain cube, axes running to the patient's right, front and top.

  Attributes:
    image: [X, Y, Z, M] raw intensities.
    labels: "truth" and the networks -> [X, Y, Z] labels.
    spacing: edges of a voxel along X, Y, Z, in mm.
    schema: names modalities and labels.
  """

  image: NDArray
  labels: Mapping[str, NDArray]
  spacing: tuple[float, float, float]
  schema: Schema

  def centre(self) -> tuple[int, int, int]:
    """The slice of each axis on which the tumour is largest: the truth's, else the first prediction's, else the middle.

    Of equal slices the middle one, so that a symmetric tumour is cut through its centre.
    """
    for labels in self.labels.values():
      if (labels != 0).any():
        sizes = [np.count_nonzero(labels, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
        return tuple(int(np.median(np.flatnonzero(size == size.max()))) for size in sizes)
    return tuple(length // 2 for length in self.image.shape[:3])

  def slice(self, plane: str, modality: int, where: Sequence[int], labels: str | None = None) -> Image:
    """One plane through `where` as the radiologist sees it, with labels laid over it where they are named.

    The patient's right is on the left, front or top above; in the sagittal plane the front is on the left.
    """
    axis = _AXES[plane]
    low, high = _window(self.image[..., modality])
    raw = self._cut(self.image[..., modality], axis, where).astype(np.float32)
    # Zero is background, and black, even where intensities within the brain are below it.
    grey = np.where(raw == 0, 0, np.clip((raw - low) / (high - low), 0, 1))
    out = np.repeat(grey[..., None], 3, -1)
    if labels is not None:
      values = self._cut(self.labels[labels], axis, where)
      for value, colour in label_colours(self.schema).items():
        out[values == value] = (1 - _OPACITY) * out[values == value] + _OPACITY * np.asarray(colour, np.float32)
    return out

  def _cut(self, volume: NDArray, axis: int, where: Sequence[int]) -> NDArray:
    """[rows, columns] with square pixels as large as the smallest edge of a voxel."""
    plane = np.take(volume, where[axis], axis)[::-1, ::-1].T
    steps = np.delete(np.asarray(self.spacing), axis)[::-1]
    fine = min(self.spacing)
    for side, step in enumerate(steps):
      count = max(1, round(plane.shape[side] * step / fine))
      plane = plane.take(((np.arange(count) + 0.5) * plane.shape[side] / count).astype(int), side)
    return plane


def mosaic(rows: Sequence[Sequence[Image]], gap: int = 3) -> tuple[Image, list[float], list[float]]:
  """Lays pictures out in a table on black.

  Returns:
    The picture, and the centres of its columns and of its rows in pixels.
  """
  heights = [max(cell.shape[0] for cell in row) for row in rows]
  widths = [max(row[c].shape[1] for row in rows) for c in range(len(rows[0]))]
  tops, lefts = (np.concatenate([[0], np.cumsum(np.add(sizes, gap))]) for sizes in (heights, widths))
  out = np.zeros((int(tops[-1]) - gap, int(lefts[-1]) - gap, 3), np.float32)
  for row, top, height in zip(rows, tops, heights, strict=False):
    for cell, left, width in zip(row, lefts, widths, strict=False):
      y, x = int(top) + (height - cell.shape[0]) // 2, int(left) + (width - cell.shape[1]) // 2
      out[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
  return out, [a + b / 2 for a, b in zip(lefts, widths, strict=False)], [
    a + b / 2 for a, b in zip(tops, heights, strict=False)
  ]


def dataset_view(dataset: Dataset, name: str, predictions: Mapping[str, Path]) -> View:
  """A case of the data set with predictions of it.

  Args:
    dataset: the data set.
    name: of the case.
    predictions: network -> label volume, on the grid of the case's files; brought to that of the data set.

  Raises:
    InputError: the data set has no such case, or a prediction is not on the grid of its case.
  """
  case = next((case for case in dataset.cases if case.name == name), None)
  if case is None:
    raise InputError(f"the data set in {dataset.folder} has no case {name!r}; preprocess the cases that were predicted")
  box = tuple(slice(*span) for span in case.cube)
  labels = {"truth": truth} if (truth := dataset.labels(case)) is not None else {}
  schema = dataset.schema
  # Of data sets without a stored geometry the cases are as their files are.
  read = functools.partial(_prediction, shape=case.shape, schema=schema, geometry=dataset.stored_geometry)
  labels |= {network: read(path)[box] for network, path in predictions.items()}
  return _turned(dataset.image(case), labels, np.asarray(case.affine), schema)


def folder_view(
  files: CaseFiles, schema: Schema, predictions: Mapping[str, Path], shown: Schema | None = None
) -> View:
  """A case that is in no data set, from its files.

  Args:
    files: of the case, from `find_files`.
    schema: what its files and segmentation follow.
    predictions: see `dataset_view`.
    shown: the schema, that of the data set, whose modalities and labels are shown; None means the case's own.

  Raises:
    InputError: a file cannot be read, or the regions of the schemas differ, or a prediction is not of the case's shape.
  """
  shown = shown or schema
  raw = read_case(files, for_model(schema, shown))
  shape = raw.image.shape[:3]
  box = box_of((raw.image != 0).any(-1))
  labels = {} if raw.labels is None else {"truth": translate(raw.labels[box], schema, shown)}
  labels |= {network: _prediction(path, shape, shown)[box] for network, path in predictions.items()}
  return _turned(raw.image[box], labels, raw.affine, shown)


def find_files(data_dir: str | Path | None, schema: Schema, shown: Schema | None = None) -> dict[str, CaseFiles]:
  """The cases of a folder by name, none where no folder is given or it is gone; for `shown` see `folder_view`."""
  if data_dir is None or not Path(data_dir).is_dir():
    return {}
  return {files.name: files for files in find_cases(data_dir, for_model(schema, shown or schema))[0]}


def _prediction(path: Path, shape: tuple[int, ...], schema: Schema, geometry: Geometry | None = None) -> NDArray:
  """A label volume, in the labels of a schema and on the grid of a geometry; None leaves it on its own."""
  volume = read_volume(path)
  data = volume.data
  if geometry is not None:
    data = Regrid(data.shape, volume.affine, geometry).labels(data)
  if data.shape != tuple(shape):
    raise InputError(f"{path} has shape {data.shape}, but its case {tuple(shape)}; predict the case again")
  own = stored_schema(path.parent)
  return data if own in (None, schema) else translate(data, own, schema)


def _turned(image: NDArray, labels: Mapping[str, NDArray], affine: NDArray, schema: Schema) -> View:
  orientation = nib.orientations.io_orientation(affine)
  turn = functools.partial(nib.orientations.apply_orientation, ornt=orientation)
  spacing = np.empty(3)
  spacing[orientation[:, 0].astype(int)] = np.linalg.norm(affine[:3, :3], axis=0)
  turned = {name: turn(np.asarray(volume)) for name, volume in labels.items()}
  return View(turn(np.asarray(image)), turned, tuple(spacing.tolist()), schema)


def _window(values: NDArray) -> tuple[float, float]:
  inside = values[values != 0]
  low, high = np.percentile(inside, _WINDOW).tolist() if inside.size else (0.0, 1.0)
  # Zero is background: it stays darker than the brain.
  return min(low, 0.0) if low > 0 else low, high if high > low else low + 1
