"""Cases that have a folder each, as BraTS has.

    data_dir/[HGG|LGG/]<case>/<case><suffix>.nii[.gz]

with one file a modality and, where known, one segmentation; the suffixes are the schema's. A file may also be called
without the name of its case, as <case>/flair.nii.gz.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from nas3d_jax.data.cases.case_files import CaseError, CaseFiles, Fault, file_stems
from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import PREDICTIONS_JSON, WRITTEN_AMONG, WRITTEN_ENDINGS, WRITTEN_FOLDERS
from nas3d_jax.schema.schema import Schema

GRADES = ("HGG", "LGG")
_NO_CASES = frozenset({"__MACOSX"})
_DEPTH = 4
_NIFTI = re.compile(r"(?P<stem>.+)\.nii(\.gz)?", re.IGNORECASE)


def find_in_folders(
  root: Path, schema: Schema, *, labels: bool, incomplete: bool = False
) -> tuple[list[CaseFiles], list[Fault]]:
  """`find_cases` of this layout; `root` is a folder and absolute."""
  cases, faults = [], []
  for folder in case_folders(root):
    try:
      cases.append(_case_files(folder, schema, labels, incomplete))
    except CaseError as error:
      faults.extend(error.faults)
  if not cases and not faults:
    raise InputError(
      f"data_dir holds no case, got {str(root)!r}; give the folder of the case folders, each "
      f"with <case>{schema.modalities[0].suffixes[0]}.nii.gz and its siblings"
    )
  counts = Counter(files.name for files in cases)
  for name in sorted(name for name, count in counts.items() if count > 1):
    where = " and ".join(str(f.folder.relative_to(root)) for f in cases if f.name == name)
    reason = f"{counts[name]} cases have this name: {where}"
    faults.append(Fault(name, reason, "rename or remove all but one"))
  return [files for files in cases if counts[files.name] == 1], faults


def case_folders(root: Path) -> list[Path]:
  """Folders that hold NIfTI files, and those that should.

  A folder without NIfTI files or folders is a case that lacks them if it is empty or holds files that begin with its
  name, and if no other folder of its name has them. Hidden folders are passed over, and those that hold what this
  library writes.
  """
  found = _case_folders(root, _DEPTH)
  whole = {folder.name for folder, holds in found if holds}
  return [folder for folder, holds in found if holds or folder.name not in whole]


def stems(folder: Path) -> dict[str, list[Path]]:
  """The NIfTI files of a folder by their names without ending; none is hidden."""
  found: dict[str, list[Path]] = {}
  for path in sorted(folder.iterdir()):
    if not path.name.startswith(".") and _is_nifti(path):
      found.setdefault(_NIFTI.fullmatch(path.name)["stem"], []).append(path)
  return found


def _case_folders(folder: Path, depth: int) -> list[tuple[Path, bool]]:
  """These folders, and whether each holds NIfTI files."""
  everything = sorted(folder.iterdir())
  children = [child for child in everything if not child.name.startswith(".")]
  names = {child.name for child in children}
  if folder.name in _NO_CASES or any(names >= record for record in WRITTEN_FOLDERS):
    return []
  # What was predicted or scored here may lie among cases: their folders are looked into.
  own = [inside for record, inside in WRITTEN_AMONG.items() if names >= record]
  written = bool(own) or any(c.name.startswith(".") and c.name.endswith(WRITTEN_ENDINGS) for c in everything)
  children = [child for child in children if not any(child.name in inside for inside in own)]
  found = [(folder, True)] if any(_of_case(child, folder.name, names, bool(own)) for child in children) else []
  folders = [child for child in children if child.is_dir()] if depth else []
  for child in folders:
    found += _case_folders(child, depth - 1)
  lacking = not written and (not names or any(name.startswith(folder.name) for name in names))
  if not found and not folders and depth < _DEPTH and lacking and folder.name.upper() not in GRADES:
    found = [(folder, False)]
  return found


def _of_case(path: Path, case: str, names: set[str], written: bool) -> bool:
  """Whether a NIfTI file makes its folder a case; `written`: whether the folder has a record of this library."""
  if not _is_nifti(path) or PREDICTIONS_JSON in names:
    return False
  return not written or (path.name.startswith(case) and _NIFTI.fullmatch(path.name)["stem"] != case)


def _is_nifti(path: Path) -> bool:
  return bool(_NIFTI.fullmatch(path.name)) and path.is_file()


def _points_nowhere(folder: Path, stem: str) -> bool:
  """Whether a file of this name is a symbolic link to nothing."""
  return any((path := folder / f"{stem}{end}").is_symlink() and not path.exists() for end in (".nii.gz", ".nii"))


def _case_files(folder: Path, schema: Schema, labels: bool, incomplete: bool) -> CaseFiles:
  """The files of one folder, or a CaseError with all that is wrong with their names."""
  name = folder.name
  found = stems(folder)
  kinds = {m.name: m.suffixes for m in schema.modalities}
  if labels:
    kinds["segmentation"] = schema.segmentation
  matches = {
    kind: [path for stem in file_stems(name, suffixes) for path in found.pop(stem, [])]
    for kind, suffixes in kinds.items()
  }
  others = ", ".join(path.name for paths in found.values() for path in paths)
  faults, missing = [], []
  some = incomplete and any(matches[modality] for modality in schema.modality_names)
  for kind, suffixes in kinds.items():
    paths, expected = matches[kind], f"{name}{suffixes[0]}.nii.gz"
    nowhere = [stem for stem in file_stems(name, suffixes) if _points_nowhere(folder, stem)]
    if nowhere and not paths:
      reason = f"{nowhere[0]} in {folder} is a link to nowhere"
      faults.append(Fault(name, reason, "copy the file there, or correct the link"))
    elif len(paths) > 1:
      files = " and ".join(path.name for path in paths)
      faults.append(Fault(name, f"{kind} is there twice: {files} in {folder}", "keep one of them"))
    elif not paths and kind == "segmentation" and others:
      reason = f"no segmentation {name}{suffixes[0]}.nii or .nii.gz in {folder}, but {others} is there"
      # The extension shows whether a file is compressed: a new name must keep it.
      ending = ".nii.gz" if others.lower().endswith(".gz") else ".nii"
      remedy = f"rename it to {name}{suffixes[0]}{ending} if it is the segmentation, else move it"
      faults.append(Fault(name, reason, f"{remedy} out of the folder"))
    elif not paths and kind != "segmentation" and some:
      missing.append(kind)
    elif not paths and kind != "segmentation":
      seen = f" (other NIfTI files there: {others})" if others else ""
      reason = f"no {kind} image {expected} or .nii in {folder}{seen}"
      faults.append(Fault(name, reason, "add the file, or rename the one that it is"))
  if faults:
    raise CaseError(faults)
  grade = folder.parent.name.upper()
  return CaseFiles(
    name=name,
    grade=grade if grade in GRADES else None,
    folder=folder,
    images=tuple(matches[modality][0] for modality in schema.modality_names if modality not in missing),
    segmentation=next(iter(matches.get("segmentation", ())), None),
    missing=tuple(missing),
  )
