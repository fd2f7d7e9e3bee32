"""Finds the schema that the cases of a folder follow, given or detected, and what of it a model takes."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from nas3d_jax.data.cases.case_files import file_stems
from nas3d_jax.data.cases.case_folders import case_folders, stems
from nas3d_jax.data.cases.dataset_json import DatasetJson
from nas3d_jax.data.cases.nifti import VolumeError, exact, read_labels
from nas3d_jax.data.cases.shared_folders import dataset_json, find_labels
from nas3d_jax.errors import InputError
from nas3d_jax.runtime.parallel import each
from nas3d_jax.schema.builtin import DECATHLON, SCHEMAS, challenge, of_challenge
from nas3d_jax.schema.schema import Schema
from nas3d_jax.schema.yaml_file import ENDINGS, read_schema

_NNUNET = "nnunet"
_REMEDY = f"give one of {', '.join([*SCHEMAS, _NNUNET])}, or a YAML file; brats2019 is that of 2017 to 2021"


def find_schema(
  data_dir: str | Path,
  schema: str | Path | Schema | None = None,
  *,
  labels: bool | None = True,
  like: Schema | None = None,
) -> Schema:
  """Finds the schema that the cases of a folder follow, and prints it with its source, in one line on stderr.

  The names of the files decide, or dataset.json where there is one, and the labels: of the schemas with these names the
  one that knows the labels of the most cases. Where two fit alike the user has to choose; so a label 4 distinguishes
  BraTS 2024 from 2023, and without one the user does. Paediatric cases (BraTS-PED-) have labels of their own since
  2024; where the cases name no challenge, the user decides what a label 4 is.

  Args:
    data_dir: the folder of the cases, see `find_cases`.
    schema: a name, as "brats2023"; a YAML file; a schema; or None, to be found out.
    labels: whether labels matter; None means where there are any. Without, none is read, and of schemas with the same
      images the first is taken.
    like: the schema of a model, of predictions or of other cases that belong to these, which is taken if it fits.

  Returns:
    The schema; that of an nnU-Net data set is called "nnunet" and is made from its dataset.json.

  Raises:
    InputError: there is no such folder, name or file; or no schema fits, or several; or most cases have a label that
      it does not know. Where fewer have one, `read_case` raises it as a fault of the case.
  """
  root = Path(os.path.abspath(data_dir))
  if not root.is_dir():
    raise InputError(f"data_dir must be a folder of cases, got {str(data_dir)!r}; is it mistyped?")
  try:
    found, reason = _given(root, schema) if schema is not None else _found(root, labels, like)
  except OSError as error:
    raise InputError(f"data_dir {str(data_dir)!r} cannot be read ({error}); check its permissions") from error
  say_schema(found, f"{reason}, of {data_dir}")
  return found


def for_model(data_schema: Schema, model_schema: Schema, *, incomplete: bool = False) -> Schema:
  """The schema of some cases with the modalities that a model takes, by name and in the model's order.

  Args:
    data_schema: of the cases.
    model_schema: of the model.
    incomplete: whether cases that have a folder each may lack some, which then go by the model's file names.

  Raises:
    InputError: the cases lack some of them.
  """
  modalities = {modality.name: modality for modality in data_schema.modalities}
  missing = [name for name in model_schema.modality_names if name not in modalities]
  if incomplete and data_schema.layout == "folders" and len(missing) < len(model_schema.modalities):
    modalities |= {modality.name: modality for modality in model_schema.modalities if modality.name in missing}
  elif missing:
    raise InputError(
      f"the model needs {', '.join(model_schema.modality_names)} (schema {model_schema.name!r}), but the cases have "
      f"{', '.join(modalities)} (schema {data_schema.name!r}), so {', '.join(missing)} is missing; give cases "
      "that have it, or, if it has another name, a YAML file that says so with --schema"
    )
  return dataclasses.replace(data_schema, modalities=tuple(modalities[name] for name in model_schema.modality_names))


def say_schema(schema: Schema, reason: str) -> None:
  """Prints a schema, in one line on stderr, with why it is this one."""
  regions = ", ".join(f"{r.name} {'+'.join(map(str, r.labels))}" for r in schema.regions)
  text = f"schema {schema.name} ({reason}): {', '.join(schema.modality_names)}; labels of {regions}"
  Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def _given(root: Path, schema: str | Path | Schema) -> tuple[Schema, str]:
  """A schema by name, from a file or as it is."""
  if schema == _NNUNET:
    path = dataset_json(root)
    if path is None:
      raise InputError(f"schema nnunet is made from dataset.json, but there is none in {str(root)!r}; give its folder")
    return DatasetJson.read(path).nnunet_schema(), f"from {path}"
  if isinstance(schema, Schema):
    given, reason = schema, "as given"
  elif isinstance(schema, Path) or str(schema).lower().endswith(ENDINGS):
    given, reason = read_schema(schema), f"from {schema}"
  elif schema == DECATHLON.name and (path := dataset_json(root)) is not None:
    given, reason = DatasetJson.read(path).own_schema(), f"from {path}"
  elif schema in SCHEMAS:
    given, reason = SCHEMAS[schema], "as given"
  else:
    raise InputError(f"there is no schema {schema!r}; {_REMEDY}")
  if given.layout == "folders":
    # One message where all files are called otherwise, not one a file.
    folders = {folder: set(stems(folder)) for folder in case_folders(root)}
    if not any(_fits(given, folder.name, found, any) for folder, found in folders.items()):
      raise InputError(_no_case(root, folders, [given]))
  return given, reason


def _found(root: Path, labels: bool | None, like: Schema | None) -> tuple[Schema, str]:
  """The schema by file names, dataset.json and labels, and why."""
  path = dataset_json(root)
  candidates = _by_json(path, like) if path is not None else _by_names(root, like)
  reason = f"found out from {path.name if path is not None else 'the file names'}"
  truths = {} if labels is False else _truths(root, candidates)
  if labels is False or (labels is None and not truths):
    return candidates[0], reason
  values = dict(zip(truths, each("labels", _values, list(truths.values()), os.cpu_count() or 1), strict=True))
  seen = frozenset().union(*values.values())
  strange = [sum(not found <= set(c.label_values) for found in values.values()) for c in candidates]
  if 2 * min(strange) > len(values):
    raise InputError(_strange(values, candidates))
  fits = [candidate for candidate, count in zip(candidates, strange, strict=True) if count == min(strange)]
  if len(fits) > 1 and fits[0] != like:
    names = " and ".join(candidate.name for candidate in fits)
    extra = sorted(set(fits[-1].label_values).symmetric_difference(fits[0].label_values))
    told = f"no label {' or '.join(map(str, extra))} tells which" if truths and extra else "nothing tells which"
    raise InputError(
      f"the files in {str(root)!r} are called as those of {names}, and {told}; give --schema="
      f"{' or --schema='.join(candidate.name for candidate in fits)}"
    )
  return fits[0], f"{reason} and labels {', '.join(map(exact, sorted(seen)))}" if seen else reason


def _by_json(path: Path, like: Schema | None) -> list[Schema]:
  """The schemas that may fit the channels of a dataset.json."""
  said = DatasetJson.read(path)
  if said.layout == "nnunet":
    return [said.nnunet_schema()]
  own = said.own_schema()
  if like is not None and like.layout == "decathlon" and like != own:
    try:
      said.channels_of(like)
    except InputError:
      pass
    else:
      return [like]
  return [own]


def _by_names(root: Path, like: Schema | None) -> list[Schema]:
  """The schemas whose file names the most folders have, `like` first."""
  folders = {folder: set(stems(folder)) for folder in case_folders(root)}
  candidates = [like] if like is not None and like.layout == "folders" else []
  candidates += [s for s in SCHEMAS.values() if s.layout == "folders" and s != like]
  whole = [sum(_fits(s, folder.name, found, all) for folder, found in folders.items()) for s in candidates]
  some = [sum(_fits(s, folder.name, found, any) for folder, found in folders.items()) for s in candidates]
  # Where no case is complete, or a folder has segmentations alone.
  counts = whole if any(whole) else some
  if not any(counts):
    raise InputError(_no_case(root, folders, candidates))
  return [s for s, count in zip(candidates, counts, strict=True) if count == max(counts)]


def _no_case(root: Path, folders: Mapping[Path, set[str]], schemas: Sequence[Schema]) -> str:
  """The message where no file has a name of these schemas."""
  seen = sorted(stem for found in folders.values() for stem in found)
  there = f"there are {', '.join(seen[:4])}" if seen else "there is no NIfTI file"
  expected = ", ".join(f"<case>{s.modalities[0].suffixes[0]} ({s.name})" for s in schemas)
  return (
    f"data_dir holds no case, got {str(root)!r}: {there}, not {expected} and their siblings in a folder <case>, nor a "
    "dataset.json; give the folder of the case folders, the schema that fits, or a YAML file that describes the files, "
    "--schema=FILE"
  )


def _fits(schema: Schema, case: str, found: set[str], how: Callable[[Iterable[bool]], bool]) -> bool:
  """Whether a case has a file of all, or any, of its modalities; for any, a segmentation will do as well."""
  if not of_challenge(schema, challenge(case)):
    return False
  there = [any(stem in found for stem in file_stems(case, modality.suffixes)) for modality in schema.modalities]
  return how(there) or (how is any and any(stem in found for stem in file_stems(case, schema.segmentation)))


def _truths(root: Path, candidates: Sequence[Schema]) -> dict[str, Path]:
  """The segmentations that these schemas find, by the name of the case."""
  if candidates[0].layout != "folders":
    return find_labels(root, candidates[0])
  suffixes = dict.fromkeys(suffix for candidate in candidates for suffix in candidate.segmentation)
  found = {folder.name: stems(folder) for folder in case_folders(root)}
  places = {case: [p for s in suffixes for p in files.get(case + s, [])] for case, files in found.items()}
  return {case: paths[0] for case, paths in places.items() if paths}


def _values(path: Path) -> frozenset[float]:
  """The values in a segmentation; none where it cannot be read, which reading the case will raise."""
  try:
    data = read_labels(path).data
  except VolumeError:
    return frozenset()
  with np.errstate(invalid="ignore"):
    small = data.astype(np.uint8)
  if np.array_equal(small, data):
    return frozenset(np.flatnonzero(np.bincount(small.ravel(order="K"))).tolist())
  return frozenset(np.unique(data).tolist())


def _strange(values: Mapping[str, frozenset[float]], candidates: Sequence[Schema]) -> str:
  """The message on labels that no schema with these file names knows."""
  known = functools.reduce(set.union, (set(candidate.label_values) for candidate in candidates), set())
  cases = {case: sorted(found - known) for case, found in sorted(values.items()) if found - known}
  some = "; ".join(f"{case}: {', '.join(map(exact, found[:4]))}" for case, found in list(cases.items())[:5])
  more = f"; and {len(cases) - 5} more" if len(cases) > 5 else ""
  names = " or ".join(candidate.name for candidate in candidates)
  wrong = f"{len(cases)} of {len(values)} cases have others ({some}{more})"
  return (
    f"the files are called as those of schema {names}, whose labels are {', '.join(map(str, sorted(known)))}, but "
    f"{wrong}; correct the segmentations, or describe their labels in a YAML file and give --schema=FILE"
  )
