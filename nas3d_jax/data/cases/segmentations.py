"""The segmentations of cases, found without their images."""

from __future__ import annotations

import os
from pathlib import Path

from nas3d_jax.data.cases.case_files import Fault, file_stems
from nas3d_jax.data.cases.case_folders import case_folders, stems
from nas3d_jax.data.cases.shared_folders import find_labels
from nas3d_jax.errors import InputError
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.schema.schema import Schema

_ENDINGS = (".nii.gz", ".nii")


def find_segmentations(
  data_dir: str | Path, schema: Schema = BRATS2019
) -> tuple[dict[str, Path], list[Fault]]:
  """Finds the segmentation of every case below a folder; the images may be absent.

  Args:
    data_dir: the folder of the cases, see `find_cases`.
    schema: what a segmentation and a modality are called.

  Returns:
    Case -> file, sorted by name, and what is wrong: two segmentations of one case, or none that
    bears the expected name beside a file that is no modality either. A case without any is left
    out: it has no truth.

  Raises:
    InputError: there is no such folder, or its dataset.json does not fit the schema.
  """
  if schema.layout != "folders":
    return find_labels(_existing_folder(data_dir, "data_dir"), schema), []
  folders = {folder: stems(folder) for folder in case_folders(_existing_folder(data_dir, "data_dir"))}
  truths: dict[str, list[Path]] = {}
  faults = []
  for folder, files in folders.items():
    case = folder.name
    for stem in (stem for modality in schema.modalities for stem in file_stems(case, modality.suffixes)):
      files.pop(stem, None)
    found = [path for stem in file_stems(case, schema.segmentation) for path in files.pop(stem, [])]
    if found:
      truths.setdefault(case, []).extend(found)
    elif files:
      others = ", ".join(path.name for paths in files.values() for path in paths)
      reason = f"no segmentation {case}{schema.segmentation[0]}.nii or .nii.gz in {folder}, but {others}"
      faults.append(Fault(case, reason, "rename it if it is the segmentation, else move it away"))
  for case, paths in truths.items():
    if len(paths) > 1:
      where = " and ".join(map(str, paths))
      faults.append(Fault(case, f"it has {len(paths)} segmentations: {where}", "keep one of them"))
  return {case: truths[case][0] for case in sorted(truths) if len(truths[case]) == 1}, faults


def labelled_cases(data_dir: str | Path, schema: Schema) -> set[str]:
  """Names of the cases that have a segmentation, or several, whatever else is wrong with them."""
  if schema.layout != "folders":
    return set(find_labels(_existing_folder(data_dir, "data_dir"), schema))
  folders = case_folders(_existing_folder(data_dir, "data_dir"))
  return {f.name for f in folders if any(stem in stems(f) for stem in file_stems(f.name, schema.segmentation))}


def nifti_files(folder: str | Path, name: str, depth: int) -> list[tuple[Path, str]]:
  """NIfTI files at most `depth` folders below, and their names without ending; none is hidden."""
  root = _existing_folder(folder, name)
  found = []
  for level in range(depth + 1):
    for path in sorted(root.glob("*/" * level + "*")):
      ending = next((e for e in _ENDINGS if path.name.lower().endswith(e)), None)
      hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
      if ending and not hidden and path.is_file():
        found.append((path, path.name[: -len(ending)]))
  return found


def _existing_folder(folder: str | Path, name: str) -> Path:
  root = Path(os.path.abspath(folder))
  if not root.is_dir():
    raise InputError(f"{name} must be a folder, got {str(folder)!r}; is it mistyped?")
  return root
