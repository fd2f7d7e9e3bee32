"""Cases whose files share folders, as those of the Medical Segmentation Decathlon and of nnU-Net.

    <root>/dataset.json            names the channels, see `dataset_json.py`
    <root>/imagesTr/<case>.nii.gz  decathlon: [D, H, W, channel]
    <root>/imagesTr/<case>_0000.nii.gz, <case>_0001.nii.gz, ...    nnunet: a channel each
    <root>/labelsTr/<case>.nii.gz
    <root>/imagesTs/...            cases without labels; of nnU-Net they may have them, in labelsTs

The folder of the cases is <root>, which stands for imagesTr where there is one, or imagesTr or imagesTs itself.
"""

from __future__ import annotations

import re
from pathlib import Path

from nas3d_jax.data.cases.case_files import CaseFiles, Fault
from nas3d_jax.data.cases.dataset_json import NAME, DatasetJson
from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import PREDICTIONS_JSON
from nas3d_jax.schema.schema import Schema

_IMAGES, _LABELS = ("imagesTr", "imagesTs"), ("labelsTr", "labelsTs")
_CHANNEL = re.compile(r"(.+)_([0-9]{4})")


def dataset_json(root: Path) -> Path | None:
  """The dataset.json that describes the cases of a folder, None where they are not laid out like this."""
  places = [root, root.parent] if root.name in _IMAGES + _LABELS else [root]
  return next((place / NAME for place in places if (place / NAME).is_file()), None)


def find_in_layout(
  root: Path, schema: Schema, *, labels: bool, incomplete: bool = False
) -> tuple[list[CaseFiles], list[Fault]]:
  """`find_cases` of these layouts; `root` is a folder and absolute."""
  said, images, truths = _places(root, schema)
  channels = said.channels_of(schema)
  found = _files(images, said.ending)
  segmentations = _truths(truths, said.ending) if labels else {}
  faults: list[Fault] = []
  if schema.layout == "decathlon":
    if found and all(_CHANNEL.fullmatch(stem) and int(stem[-4:]) < len(channels) for stem in found):
      raise InputError(
        f"{images} has a file a channel, as nnU-Net's, but {said.path} no channel_names; write them there"
      )
    paths = {name: {0: path} for name, path in found.items()}
    pattern = f"{images.name}/<case>{said.ending}"
  else:
    _refuse_numbers_of_cases(found, segmentations, len(channels), said)
    # A schema may leave channels out, and have them in another order.
    numbers = [channels.index(name) for name in schema.modality_names]
    paths = _channel_files(found, len(channels), numbers, schema, said, faults, incomplete)
    pattern = f"{images.name}/<case>_0000{said.ending}"
  for name in sorted(segmentations.keys() - paths.keys() - {fault.case for fault in faults}):
    reason = f"{truths.name} has its segmentation, but {images.name} no image"
    remedy = "add it, or remove the segmentation"
    numbered = _CHANNEL.fullmatch(name)
    if numbered and numbered[1] in paths and numbered[1] not in segmentations:
      reason = f"{truths.name}/{segmentations[name].name} carries the number of a channel, as only images do"
      remedy = f"call it {numbered[1]}{said.ending}"
    faults.append(Fault(name, reason, remedy))
  if not paths and not faults:
    raise InputError(f"data_dir holds no case, got {str(root)!r}; {NAME} makes expect {pattern}, and there is none")
  along = channels if schema.layout == "decathlon" else None
  cases = []
  for name, files in paths.items():
    own = [] if along else [m for m, number in zip(schema.modality_names, numbers, strict=True) if number not in files]
    cases.append(
      CaseFiles(name, None, images, tuple(files.values()), segmentations.get(name), along, missing=tuple(own))
    )
  return cases, faults


def find_labels(root: Path, schema: Schema) -> dict[str, Path]:
  """The segmentation of every case that has one, by name; the images may be absent."""
  said, _, truths = _places(root, schema)
  return _truths(truths, said.ending)


def labels_folder(root: Path, schema: Schema) -> Path:
  """Where the segmentations of a folder's cases lie, or should."""
  return _places(root, schema)[2]


def _places(root: Path, schema: Schema) -> tuple[DatasetJson, Path, Path]:
  """The dataset.json, and the folders of images and labels."""
  path = dataset_json(root)
  if path is None:
    raise InputError(
      f"there is no {NAME} in {str(root)!r}, which the layout {schema.layout!r} of schema {schema.name!r} needs; give "
      f"the folder that has it, or {' or '.join(_IMAGES)} in it"
    )
  said = DatasetJson.read(path)
  if said.layout != schema.layout:
    raise InputError(
      f"{path} is of layout {said.layout!r}, but schema {schema.name!r} of {schema.layout!r}; give another schema"
    )
  names = dict(zip(_IMAGES + _LABELS, 2 * _LABELS, strict=True))
  own = names.get(root.name) if path.parent != root else None
  place = own or next((names[i] for i in _IMAGES if (path.parent / i).is_dir()), _LABELS[0])
  images = path.parent / _IMAGES[_LABELS.index(place)]
  return said, images, path.parent / place


def _files(folder: Path, ending: str) -> dict[str, Path]:
  """The files of a folder, which may be missing, by name without ending, sorted; none is hidden."""
  paths = sorted(folder.iterdir()) if folder.is_dir() else []
  good = [p for p in paths if p.name.endswith(ending) and not p.name.startswith(".") and p.is_file()]
  return {path.name.removesuffix(ending): path for path in good}


def _truths(folder: Path, ending: str) -> dict[str, Path]:
  """The segmentations in a folder; what was predicted into it is none."""
  return {} if (folder / PREDICTIONS_JSON).exists() else _files(folder, ending)


def _refuse_numbers_of_cases(
  found: dict[str, Path], segmentations: dict[str, Path], count: int, said: DatasetJson
) -> None:
  """Raises InputError where images are called as their segmentations, and end in numbers that no channel has."""
  beyond = [stem for stem in found if (match := _CHANNEL.fullmatch(stem)) and int(match[2]) >= count]
  if beyond and found.keys() <= segmentations.keys():
    path = found[beyond[0]]
    raise InputError(
      f"the images in {path.parent} have no number of a channel: {path.name} is called as its segmentation; call it "
      f"{beyond[0]}_0000{said.ending}, and the others alike"
    )


def _channel_files(
  found: dict[str, Path],
  count: int,
  numbers: list[int],
  schema: Schema,
  said: DatasetJson,
  faults: list[Fault],
  incomplete: bool,
) -> dict[str, dict[int, Path]]:
  """The files of the cases whose channels are all there, or any of them, by number in the schema's order.

  What is wrong with others goes to `faults`.
  """
  cases: dict[str, dict[int, Path]] = {}
  for stem, path in found.items():
    match = _CHANNEL.fullmatch(stem)
    if match is None:
      reason = f"{path.name} has no number of a channel, as {stem}_0000{said.ending} has"
      faults.append(Fault(stem, reason, "rename it, or move it away"))
      continue
    name, number = match[1], int(match[2])
    if number >= count:
      reason = f"{path.name} is of channel {number}, but {said.path} has {count} channels"
      remedy = f"correct {NAME}, or move the file away; if that is the number of the case, call it {stem}_0000"
      faults.append(Fault(name, reason, f"{remedy}{said.ending}"))
    cases.setdefault(name, {})[number] = path
  whole = {}
  for name, files in cases.items():
    own = {number: files[number] for number in numbers if number in files}
    if len(own) == len(numbers) or (incomplete and own):
      whole[name] = own
      continue
    for number, modality in zip(numbers, schema.modality_names, strict=True):
      if number not in files:
        folder = next(iter(files.values())).parent
        reason = f"no {modality} image {name}_{number:04d}{said.ending} in {folder}"
        faults.append(Fault(name, reason, "add the file, or remove the others of the case"))
  return whole
