"""A schema of the user's own, in a YAML file.

    name: two                      # anything but the name of a built-in schema
    layout: folders                # or decathlon, nnunet; may be left out
    modalities:                    # the channels of the input, in order
      flair: _flair                # what follows the case's name in the file's name, or a list of such:
      t1ce: [_t1ce, _t1gd]         # with a dataset.json, what the channel is called there
    segmentation: _seg             # in the same form; may be left out
    labels:                        # every value but 0 (background)
      1: oedema
      2: tumour core
    regions:                       # the channels of the output, from the outer to the inner
      WT: {labels: [1, 2], paint: 1}
      TC: [2]                      # short for one that paints the first of its labels

Modalities and regions are known by their names: those called flair, t1, t1ce, t2 and WT, TC, ET, RC are taken for those
of the built-in schemas. The file holds plain values only; anchors, aliases and tags are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from nas3d_jax.errors import InputError
from nas3d_jax.schema.builtin import SCHEMAS
from nas3d_jax.schema.schema import Modality, Region, Schema
from nas3d_jax.validation import is_whole

ENDINGS = (".yaml", ".yml")
_MOST_BYTES = 1 << 16
_MOST_LEVELS = 8
_LONGEST_NAME = 64
_LONGEST_SCALAR = 256
_FIELDS = {"name", "modalities", "labels", "regions"}
_OPTIONAL = {"layout", "segmentation"}
_RESERVED = (*SCHEMAS, "nnunet")
_HELP = "the docstring of nas3d_jax/schema/yaml_file.py has an example"


def read_schema(path: str | Path) -> Schema:
  """Reads a schema from a YAML file.

  Raises:
    InputError: the file cannot be read, is larger than a schema can be, is no YAML or more than plain values, doubles a
      key, or does not make a schema.
  """
  path = Path(path)
  try:
    with path.open("rb") as file:
      raw = file.read(_MOST_BYTES + 1)
  except OSError as error:
    raise InputError(f"schema {path} cannot be read ({error.strerror}); is it mistyped?") from error
  if len(raw) > _MOST_BYTES:
    raise InputError(f"schema {path} must be no larger than {_MOST_BYTES >> 10} KiB; is it another file?")
  try:
    return _schema(_plain(raw))
  except InputError as error:
    raise InputError(f"schema {path}: {error}") from error


def _plain(raw: bytes) -> Any:
  """The value in a YAML text that holds plain values alone."""
  try:
    text = raw.decode("utf-8")
    _check_plain(yaml.parse(text, yaml.SafeLoader))
    value = yaml.safe_load(text)
    _check_keys(yaml.compose(text, yaml.SafeLoader), value)
    return value
  except InputError:
    raise
  # A number or date of nonsense is a ValueError or OverflowError of Python's own.
  except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
    said = " ".join(str(error).split())
    raise InputError(f"it is no YAML ({said:.300}); {_HELP}") from error


def _check_plain(events: Iterable[yaml.Event]) -> None:
  """Raises InputError at an alias, which could unfold without end, an anchor, a tag, or a value too deep or long."""
  level = 0
  for event in events:
    line = event.start_mark.line + 1
    if isinstance(event, yaml.CollectionStartEvent):
      level += 1
    elif isinstance(event, yaml.CollectionEndEvent):
      level -= 1
    if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
      raise InputError(f"line {line} has an anchor or alias, which is refused here; write the value out")
    if getattr(event, "tag", None) is not None:
      raise InputError(f"line {line} has the tag {event.tag!r:.80}, which is refused here; write a plain value")
    if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST_SCALAR:
      raise InputError(f"line {line} has a value of {len(event.value)} characters; {_HELP}")
    if level > _MOST_LEVELS:
      raise InputError(f"line {line} is nested deeper than {_MOST_LEVELS} levels; {_HELP}")


def _check_keys(node: yaml.Node | None, value: Any) -> None:
  """Raises InputError where a key is there twice: YAML's readers take the last without a warning."""
  if isinstance(node, yaml.MappingNode):
    if len(node.value) != len(value):
      raise InputError(f"line {node.start_mark.line + 1}: a key is there twice; keep one of them")
    for (_, below), inner in zip(node.value, value.values(), strict=True):
      _check_keys(below, inner)
  elif isinstance(node, yaml.SequenceNode):
    for below, inner in zip(node.value, value, strict=True):
      _check_keys(below, inner)


def _schema(content: Any) -> Schema:
  fields = _mapping(content, "it")
  if not _FIELDS <= set(fields) <= _FIELDS | _OPTIONAL:
    raise InputError(
      f"it must have {', '.join(sorted(_FIELDS))}, and may have {', '.join(sorted(_OPTIONAL))}, got "
      f"{', '.join(map(str, fields)):.200}; {_HELP}"
    )
  name = _name(fields["name"], "name")
  if name.lower() in _RESERVED:
    raise InputError(f"name must be none of a built-in schema, got {name!r}; choose another")
  modalities = _mapping(fields["modalities"], "modalities").items()
  labels = _mapping(fields["labels"], "labels")
  regions = _mapping(fields["regions"], "regions").items()
  return Schema(
    name=name,
    modalities=tuple(_modality(_name(key, "a modality"), value) for key, value in modalities),
    labels=tuple(
      (_label(value, "a label"), _name(meaning, f"the meaning of label {value}"))
      for value, meaning in {**({} if 0 in labels else {0: "background"}), **labels}.items()
    ),
    regions=tuple(_region(_name(key, "a region"), value) for key, value in regions),
    segmentation=_texts(fields.get("segmentation", "_seg"), "segmentation"),
    layout=fields.get("layout", "folders"),
  )


def _modality(name: str, value: Any) -> Modality:
  """A modality from its suffixes, or from {suffixes, normalization}."""
  if not isinstance(value, Mapping):
    return Modality(name, _texts(value, f"modality {name}"))
  if set(value) != {"suffixes", "normalization"}:
    raise InputError(f"modality {name} must be suffixes, or have suffixes and normalization, got {value!r:.200}")
  kind = _name(value["normalization"], f"modality {name}: normalization")
  return Modality(name, _texts(value["suffixes"], f"modality {name}"), kind)


def _region(name: str, value: Any) -> Region:
  """A region from its labels, or from {labels, paint}."""
  where = f"region {name}"
  if isinstance(value, Mapping):
    if set(value) != {"labels", "paint"}:
      raise InputError(f"{where} must be a list of labels, or have labels and paint, got {value!r:.200}")
    members, paint = value["labels"], value["paint"]
  else:
    members, paint = value, None
  if not isinstance(members, list) or not members:
    raise InputError(f"{where}: labels must be a list of values, as [1, 2], got {members!r:.200}")
  members = tuple(_label(member, where) for member in members)
  return Region(name, members, members[0] if paint is None else _label(paint, f"{where}: paint"))


def _mapping(value: Any, what: str) -> Mapping[Any, Any]:
  if not isinstance(value, Mapping) or not value:
    raise InputError(f"{what} must be name: value pairs, got {value!r:.200}; {_HELP}")
  return value


def _name(value: Any, what: str) -> str:
  """A text that can stand in a table."""
  good = isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()
  if not good or value != value.strip():
    hint = "; put it in quotes" if isinstance(value, (bool, int, float)) else ""
    raise InputError(f"{what} must be a text of at most {_LONGEST_NAME} characters, got {value!r:.100}{hint}")
  return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
  """One text, or several."""
  values = value if isinstance(value, list) else [value]
  return tuple(_name(text, what) for text in values)


def _label(value: Any, what: str) -> int:
  if not is_whole(value):
    raise InputError(f"{what} must be a whole number, got {value!r:.100}")
  return value
