"""NIfTI cases -> a checked, brain-cropped, indexed data set with folds.

Everything is built in a folder beside the final one, which appears by a rename once every case has
passed. A run that was interrupted goes on where it stopped: each case is recorded when it is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from nas3d_jax.data.brain import brain_cube
from nas3d_jax.data.cases.case_files import NOT_UTF8, CaseError, CaseFiles, Fault, few, of_case, refuse
from nas3d_jax.data.cases.detect_schema import find_schema
from nas3d_jax.data.cases.find_and_read import RawCase, find_cases, read_case
from nas3d_jax.data.cases.strange import strangeness, summary
from nas3d_jax.data.dataset import staging
from nas3d_jax.data.dataset.case import Case
from nas3d_jax.data.dataset.choose_intensities import choose_intensities, named_kinds
from nas3d_jax.data.dataset.common_geometry import check_wanted, common_geometry, conform_case
from nas3d_jax.data.dataset.dataset import REMEDY, Dataset
from nas3d_jax.data.dataset.folds import assign_folds, check_folds
from nas3d_jax.data.dataset.made_with import check_made_with
from nas3d_jax.data.dataset.verify import store_array, verify, vouch
from nas3d_jax.data.intensities import Intensities
from nas3d_jax.data.intensity_names import AskedForeground
from nas3d_jax.errors import InputError, Unreadable
from nas3d_jax.files.atomic import writing
from nas3d_jax.files.hashing import file_sums, sum_or_none
from nas3d_jax.files.locks import locked
from nas3d_jax.files.own_files import own_folder, remove
from nas3d_jax.files.run_layout import CASES, CONFIG, IMAGE, LABELS, MANIFEST, RECORDS
from nas3d_jax.files.strict_json import read_json, write_json
from nas3d_jax.runtime.parallel import each
from nas3d_jax.schema.geometry import Geometry
from nas3d_jax.schema.schema import Schema
from nas3d_jax.validation import check_whole

_UNUSABLE = "in data_dir cannot be used, so nothing was written"
_MOST_WORKERS = 4
"""Each worker holds one case, 0.2 to 0.6 GB for BraTS."""


def preprocess(
  data_dir: str | Path,
  out_dir: str | Path,
  *,
  schema: str | Path | Schema | None = None,
  folds: int = 5,
  seed: int = 0,
  orientation: str | None = None,
  spacing: Sequence[float] | None = None,
  foreground: AskedForeground = "auto",
  normalization: Sequence[str] | None = None,
  overwrite: bool = False,
  workers: int | None = None,
) -> Dataset:
  """Checks all cases of a folder and writes them as a data set (section 2.3 of the paper).

  All cases are brought to one orientation and voxel size, see `conform`; those that are in it are stored as they are.
  A second call with the same inputs and flags reuses what the first wrote, when that is whole. Progress goes to stderr.

  Args:
    data_dir: the folder of the cases, see `find_cases`.
    out_dir: the folder to write, `dataset` of a run directory.
    schema: what the modalities, labels and regions are, see `find_schema`; None means to find it out.
    folds: number of folds, at least 2; 1 for a single labelled case.
    seed: seed of the folds.
    orientation: of the data set, as `Geometry` has it; None means that of most cases.
    spacing: edge lengths of its voxels along these axes, in mm; None means that of most cases.
    foreground: what of a modality is not background, see `Foreground`; "auto" finds it out from some cases.
    normalization: how intensities are normalised, one name or one a modality, see `Intensities` and `named_kinds`; None
      means as the schema says, the paper's range where it does not.
    overwrite: whether to make a data set that is there already anew; the old one stays until then.
    workers: cases read at once; None means one a core, but no more than 4.

  Returns:
    The data set, opened.

  Raises:
    InputError: no schema fits the cases, or some cases are wrong (all of them are listed, by name, reason and remedy;
      nothing is written), there are fewer labelled cases than folds, out_dir holds something else, another process
      writes to it, or it cannot be written to.
  """
  for name, value, low in (("folds", folds, 1), ("seed", seed, 0), ("workers", workers or 1, 1)):
    check_whole(name, value, low)
  workers = workers or min(_MOST_WORKERS, os.cpu_count() or 1)
  check_wanted(orientation, spacing)
  out = Path(os.path.abspath(out_dir))
  if out.is_symlink():
    out = out.resolve()  # it may lie on a larger disk, where the new one is made too
  # The lock lies beside the data set, whose folder is replaced as a whole.
  lock = functools.partial(locked, out.parent, f".{out.name}.lock")
  with contextlib.ExitStack() as held, writing(out):
    # A folder for it is only made when the cases were found: it may lie among them.
    new = not out.parent.exists()
    there = False if new else held.enter_context(lock()) or staging.settle(out)
    former = Schema.from_dict(read_json(out / CONFIG, REMEDY).get("schema")) if there and not overwrite else None
    schema = find_schema(data_dir, schema, like=former)
    named = named_kinds(normalization, schema)
    found, faults = find_cases(data_dir, schema)
    # Before hours of reading: no more can be said of such a case.
    refuse([fault for fault in faults if fault.reason == NOT_UTF8], _UNUSABLE)
    if not faults:
      check_folds(sum(files.segmentation is not None for files in found), folds)
    if new:
      there = held.enter_context(lock()) or staging.settle(out)
    if there and not overwrite:
      refuse(faults, _UNUSABLE)
      flags = {"folds": folds, "seed": seed, "schema": schema.to_dict()}
      asked = dict(orientation=orientation, spacing=spacing, foreground=foreground, named=named)
      return _reuse(out, found, flags, workers, asked)
    common = common_geometry(found, orientation, spacing, workers)
    geometry = common and common.chosen
    if common:
      Console(stderr=True).print(str(common), markup=False, highlight=False, soft_wrap=True)
    intensities = choose_intensities(
      found, schema, foreground=foreground, normalization=normalization, workers=workers
    )
    Console(stderr=True).print(
      intensities.said(schema.modality_names), markup=False, highlight=False, soft_wrap=True
    )
    marked = staging.mark(schema, geometry, intensities)
    partial = staging.prepare(out, found, marked, fresh=overwrite)
    store = functools.partial(
      _store_case, folder=partial, schema=schema, geometry=geometry, intensities=intensities
    )
    results = each("preprocess", store, found, workers)
    faults += [f for result in results if isinstance(result, CaseError) for f in result.faults]
    if faults:
      staging.discard(partial)
    refuse(faults, _UNUSABLE)
    results, strange = zip(*results, strict=True)
    for line in summary({case.name: found for case, found in zip(results, strange, strict=True)}):
      Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
    labelled = [case.label_counts is not None for case in results]
    dealt = assign_folds([case.grade for case in results], labelled, folds, seed)
    cases = [dataclasses.replace(case, fold=f) for case, f in zip(results, dealt, strict=True)]
    dataset = Dataset(partial, schema, tuple(cases), folds, seed, _versions(), geometry, intensities)
    config = {"data_dir": str(data_dir), "folds": folds, "seed": seed}
    write_json(partial / MANIFEST, dataset.manifest())
    write_json(partial / CONFIG, {**marked, **config})
    vouch(partial, cases)
    remove(partial / RECORDS)
    Dataset.open(partial)
    staging.swap(partial, out)
    return Dataset.open(out)


def _store_case(
  files: CaseFiles, *, folder: Path, schema: Schema, geometry: Geometry | None, intensities: Intensities
) -> tuple[Case, list[tuple[str, str]]] | CaseError:
  """Checks a case and writes its arrays, unless an earlier run did; with its `strangeness`. Its record comes last."""
  record = folder / RECORDS / f"{files.name}.json"
  if record.exists() and (kept := _recorded(record, schema)) is not None:
    case, strange = kept
    stored = {name: sum_or_none(folder / CASES / files.name / name) for name in case.arrays or ()}
    if case.checksums == file_sums(files.named) and case.grade == files.grade and case.arrays == stored:
      return case, strange
  record.unlink(missing_ok=True)
  try:
    raw = read_case(files, schema)
    strange = strangeness(raw, schema, intensities.foreground)
    raw = dataclasses.replace(raw, image=intensities.prepare(raw.image))
    _check_inside(raw)
    raw = conform_case(raw, geometry)
    cube = brain_cube(raw.image)
    box = tuple(slice(start, stop) for start, stop in cube)
    image = np.ascontiguousarray(raw.image[box])
    low, high = intensities.bounds(image)
  except InputError as error:
    return of_case(files.name, error)
  labels = None if raw.labels is None else np.ascontiguousarray(raw.labels[box])
  target = own_folder(folder / CASES / files.name)
  arrays = {IMAGE: store_array(target / IMAGE, image)}
  if labels is None:
    (target / LABELS).unlink(missing_ok=True)
  else:
    arrays[LABELS] = store_array(target / LABELS, labels)
  case = Case(
    name=files.name,
    grade=files.grade,
    fold=None,
    shape=raw.image.shape[:3],
    cube=cube,
    low=tuple(low.tolist()),
    high=tuple(high.tolist()),
    label_counts=_label_counts(labels, math.prod(raw.image.shape[:3]), schema),
    affine=tuple(map(tuple, raw.affine.tolist())),
    spacing=raw.spacing,
    checksums=raw.checksums,
    arrays=arrays,
  )
  write_json(record, {**case.to_dict(), "strange": strange})
  return case, strange


def _recorded(record: Path, schema: Schema) -> tuple[Case, list[tuple[str, str]]] | None:
  """What an earlier run recorded of a case; None where that is damaged, and the case is made anew."""
  try:
    kept = read_json(record, REMEDY)
    # A record without was made before there was such a thing.
    strange = [(kind, where) for kind, where in kept.pop("strange", ())]
    return Case.from_dict(kept, schema), strange
  except Unreadable:
    raise
  except (InputError, AttributeError, TypeError, ValueError):
    return None


def _check_inside(raw: RawCase) -> None:
  """Raises a CaseError where the crop to the brain cube would lose some of the tumour."""
  if raw.labels is None:
    return
  box = tuple(slice(start, stop) for start, stop in brain_cube(raw.image))
  lost = int(np.count_nonzero(raw.labels) - np.count_nonzero(raw.labels[box]))
  if lost:
    reason = f"{lost} labelled voxels lie where all modalities are background, outside the brain cube"
    remedy = "check that the segmentation belongs to this case, or clear them"
    raise CaseError([Fault(raw.files.name, reason, remedy)])


def _label_counts(labels: np.ndarray | None, voxels: int, schema: Schema) -> dict[int, int] | None:
  """Voxels of each label among so many, those of the cube given and all others background."""
  if labels is None:
    return None
  counts = np.bincount(labels.ravel(order="K"), minlength=256)
  counts[0] += voxels - labels.size
  return {value: int(counts[value]) for value in schema.label_values}


def _reuse(
  out: Path, found: Sequence[CaseFiles], flags: dict[str, Any], workers: int, asked: dict[str, Any]
) -> Dataset:
  """The data set that is there, if it was made of these inputs with these flags."""
  dataset = Dataset.open(out)
  try:
    verify(out, dataset.cases, everything=True)
  except Unreadable:
    raise
  except InputError as error:
    raise InputError(f"{out} is damaged: {error}; give --overwrite to make it anew") from error
  manifest = dataset.manifest()
  remedy = "give --overwrite to make it anew, or another --workdir"
  for name, value in flags.items():
    if manifest[name] != value:
      raise InputError(f"{out} was made with {name}={manifest[name]}, got {value}; {remedy}")
  check_made_with(dataset, **asked, remedy=remedy)
  sums = each("compare with the data set there", file_sums, [files.named for files in found], workers)
  now = {f.name: (f.grade, s) for f, s in zip(found, sums, strict=True)}
  before = {case.name: (case.grade, case.checksums) for case in dataset.cases}
  changed = sorted(n for n in now.keys() | before.keys() if now.get(n) != before.get(n))
  if changed:
    raise InputError(f"{out} was made of other files of {few(changed, 10)}; {remedy}")
  Console(stderr=True).print(f"{out} is there, from the same files with the same flags: reused")
  return dataset


def _versions() -> dict[str, str]:
  """Versions of what made a data set."""
  versions = {name: importlib.metadata.version(name) for name in ("numpy", "nibabel")}
  return {"python": platform.python_version(), **versions}
