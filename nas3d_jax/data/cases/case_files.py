"""The files of a case, and what can be wrong with them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from nas3d_jax.errors import InputError
from nas3d_jax.schema.schema import Schema


def readable(name: str) -> str:
  """A name on disk as a text that can be written: bytes that are not UTF-8 as \\xe9 and the like."""
  return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True)
class Fault:
  """One thing wrong with one case: its name, the reason, the remedy, as texts that any file can hold."""

  case: str
  reason: str
  remedy: str

  def __post_init__(self):
    for field in dataclasses.fields(self):
      object.__setattr__(self, field.name, readable(getattr(self, field.name)))

  def __str__(self):
    return f"{self.case}: {self.reason}; {self.remedy}"


class CaseError(InputError):
  """A case that cannot be used.

  Attributes:
    faults: everything that is wrong with it.
  """

  def __init__(self, faults: Iterable[Fault]):
    self.faults = tuple(faults)
    super().__init__("\n".join(map(str, self.faults)))


def refuse(faults: Collection[Fault], consequence: str) -> None:
  """Raises one InputError with all the faults, sorted by case, if there are any.

  Args:
    faults: everything that is wrong.
    consequence: what follows in the message behind the number of cases at fault.
  """
  if faults:
    count = len({fault.case for fault in faults})
    lines = "\n".join(f"  {fault}" for fault in sorted(faults, key=lambda fault: fault.case))
    raise InputError(f"{count} of the cases {consequence}:\n{lines}")


def few(names: Sequence[str], most: int = 3) -> str:
  """The first names of many, for a line."""
  return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


@dataclasses.dataclass(frozen=True)
class CaseFiles:
  """Where the files of a case are.

  Attributes:
    name: name of the case: that of its folder, or of its files where many cases share a folder.
    grade: "HGG" or "LGG" where the parent folder is called so, else None.
    folder: the folder of the images.
    images: one file a modality, in the schema's order; or the one file [D, H, W, channel] that holds them all.
    segmentation: the file of its labels, or None.
    channels: of one file that holds all, the modality of each of its channels, in the file's order; else None.
    missing: modalities that have no file, where that was asked for; `images` are those of the others.
  """

  name: str
  grade: str | None
  folder: Path
  images: tuple[Path, ...]
  segmentation: Path | None
  channels: tuple[str, ...] | None = None
  missing: tuple[str, ...] = ()

  @property
  def named_images(self) -> dict[str, Path]:
    """The images by the names that records of their checksums use: those of the files.

    That of a file with several channels holds their names, so that a record does not fit when they are renamed.
    """
    channels = "" if self.channels is None else f"[{','.join(self.channels)}]"
    return {f"{path.name}{channels}": path for path in self.images}

  @property
  def named(self) -> dict[str, Path]:
    """The images, and the segmentation where there is one; with its folder where an image might have the same name."""
    if self.segmentation is None:
      return self.named_images
    inside = self.segmentation.parent == self.folder
    name = self.segmentation.name if inside else f"{self.segmentation.parent.name}/{self.segmentation.name}"
    return {**self.named_images, name: self.segmentation}

  def told(self, path: Path, text: str) -> str:
    """A text about one of the files, in which its name tells it from the others: images and labels may share one."""
    twins = {file for file in (*self.images, self.segmentation) if file is not None and file.name == path.name}
    return text if len(twins) < 2 else text.replace(path.name, f"{path.parent.name}/{path.name}")


def file_stems(case: str, suffixes: Iterable[str]) -> list[str]:
  """What a file of a case may be called, without its ending: "P1_flair", or in the case's own folder just "flair"."""
  return [stem for suffix in suffixes for stem in (case + suffix, suffix.lstrip("_-")) if stem]


def is_truth(name: str, case: str, schema: Schema) -> bool:
  """Whether a name in `CaseFiles.named` of a case is that of its segmentation."""
  if schema.layout != "folders":
    return "/" in name
  stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
  return stem in file_stems(case, schema.segmentation)


NOT_UTF8 = "its name is not UTF-8, as those in records must be"
"""The reason of a fault that keeps a case from every record, whatever its files hold."""


def check_names(names: Iterable[str]) -> list[Fault]:
  """What is wrong with names of cases, which every record has to hold: those that are not UTF-8."""
  return [Fault(name, NOT_UTF8, "rename it, folder and files") for name in names if readable(name) != name]


def of_case(name: str, error: InputError) -> CaseError:
  """The error as one of a case; the last semicolon of a message separates reason and remedy."""
  if isinstance(error, CaseError):
    return error
  reason, parted, remedy = str(error).rpartition("; ")
  return CaseError([Fault(name, reason if parted else remedy, remedy if parted else "leave the case out")])
