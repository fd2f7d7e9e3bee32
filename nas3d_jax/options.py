"""Options: fields of a configuration that declare, once, what their flag, their check and a run on disk need to know.

    normalization: Literal["group", "instance"] = option("normalization after each convolution", "group")

is a new option: `launch` offers it as a flag, its values are checked, a run's `config.json` holds it, and a run may not
go on with another value. A run of before there was the option goes on as if it had been made with the default.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, TypeVar

from nas3d_jax.errors import InputError
from nas3d_jax.validation import PatchSize, check_path, is_number, is_whole

Config = TypeVar("Config")
_OPTION, _PART = "option", "part"


@dataclasses.dataclass(frozen=True)
class Option:
  """An option as its field declares it.

  Attributes:
    help: what `--help` says of it.
    default: its value where none is given; `MISSING` where one must be.
    least: number that it must not be below.
    above: number that it must be above.
    below: number that it must be below.
    most: number that it must not be above.
    wanted: what an error asks for, where that does not follow from the bounds.
    named: whether each value is a path that may stand behind NAME=.
    changeable: whether it may differ when a run goes on.
    networks: the only networks that it concerns; empty: all.
    kind: bool, int, float, tuple, or str for all else.
    choices: the values of a `Literal`; empty: others.
    optional: whether None is a value.
    path: whether it is a path, or paths.
    auto: whether "auto" is a value too.
    lengths: whether it is one whole number, or one for each of the three axes; the bounds hold for each.
  """

  help: str
  default: Any
  least: float | None = None
  above: float | None = None
  below: float | None = None
  most: float | None = None
  wanted: str = ""
  named: bool = False
  changeable: bool = False
  networks: tuple[str, ...] = ()
  auto: bool = False
  kind: type = str
  choices: tuple[str, ...] = ()
  optional: bool = False
  path: bool = False
  lengths: bool = False

  def typed(self, hint: Any) -> Option:
    """The option with what the type of its field tells: `kind`, `choices`, `optional`, `path` and `lengths`."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    members = typing.get_args(hint) if union else (hint,)
    kinds = [member for member in members if member is not types.NoneType]
    kind = typing.get_origin(kinds[0]) or kinds[0] if len(kinds) == 1 else str
    return dataclasses.replace(
      self,
      kind=kind if kind in (bool, int, float, tuple) else str,
      choices=typing.get_args(kinds[0]) if kind is Literal else (),
      optional=len(kinds) < len(members),
      path=self.named or _holds_path(hint),
      lengths=set(typing.get_args(PatchSize)) <= set(kinds),
    )

  def check(self, name: str, value: Any) -> None:
    """Raises InputError, with the name and the value, where it is of another type, out of range or no path to use."""
    for path in (value if isinstance(value, tuple) else (value,)) if self.path and not self.named else ():
      if isinstance(path, (str, Path)):
        check_path(name, path)
    if self.auto and value == "auto":
      return
    if self.lengths and isinstance(value, tuple):
      if len(value) != 3:
        raise InputError(f"{name} must be one length, or three along D, H and W, got {value!r:.100}")
      for length in value:
        dataclasses.replace(self, lengths=False, auto=False, kind=int).check(name, length)
      return
    if not (self._fits(value) or (value is None and self.optional)):
      wanted = f"{self.wanted or self._spelled()}{', or None' * self.optional}"
      raise InputError(f"{name} must be {wanted}, got {value!r:.100}")
    if self.most is not None and value is not None and value > self.most:
      raise InputError(f"{name} must be at most {self.most}, got {value!r:.100}")

  def _fits(self, value: Any) -> bool:
    if self.choices:
      return value in self.choices
    if self.kind in (int, float) or self.lengths:
      return (is_whole if self.kind is int or self.lengths else is_number)(value) and (
        (self.least is None or value >= self.least)
        and (self.above is None or value > self.above)
        and (self.below is None or value < self.below)
      )
    return self.kind is not bool or isinstance(value, bool)

  def _spelled(self) -> str:
    if self.choices:
      return f"one of {', '.join(self.choices)}"
    if self.kind is bool:
      return "True or False"
    bounds = {"of at least": self.least, "above": self.above, "below": self.below}
    spelled = " and ".join(f"{words} {bound}" for words, bound in bounds.items() if bound is not None)
    return f"a {'whole ' * (self.kind is int or self.lengths)}number {spelled}".rstrip()


def option(help: str, default: Any = MISSING, *, kw_only: bool = True, **declared: Any) -> Any:
  """A field of a configuration that is an option; its type, default and `declared` are all there is to know of it.

  Args:
    help: what `--help` says of it.
    default: its value where none is given.
    kw_only: whether it is given by name alone.
    **declared: other attributes of `Option`.
  """
  metadata = {_OPTION: Option(help, default, **declared)}
  return dataclasses.field(default=default, kw_only=kw_only, metadata=metadata)


def part(
  default: Any = MISSING,
  *,
  without: Collection[str] = (),
  fixed: Mapping[str, Any] = types.MappingProxyType({}),
  **called: tuple[str, str],
) -> Any:
  """A field that is a configuration itself, whose options are options of the whole.

  Options of the same name in several parts are one, and must have one default.

  Args:
    default: the part where none is given.
    without: its options that the whole decides.
    fixed: values of some of those.
    **called: name and help of options that the whole has by another name or describes otherwise.
  """
  return dataclasses.field(default=default, metadata={_PART: (frozenset({*without, *fixed}), dict(fixed), called)})


@functools.cache
def options_of(config: type) -> Mapping[str, Option]:
  """The options of a configuration by name, those of its parts among them.

  Raises:
    TypeError: two parts have an option of one name with different defaults.
  """
  found: dict[str, Option] = {}
  for field, hint in _fields(config):
    if _OPTION in field.metadata:
      found[field.name] = field.metadata[_OPTION].typed(hint)
    elif _PART in field.metadata:
      for name, own, declared in _of_part(field, hint):
        if found.setdefault(name, declared).default != declared.default:
          raise TypeError(f"{name} has several defaults in {config.__name__}; call {own} of {field.name} otherwise")
  return types.MappingProxyType(found)


def from_options(config: type[Config], values: Mapping[str, Any]) -> Config:
  """A configuration of options by name, each handed to the parts that have it.

  Raises:
    TypeError: there is no such option, or one is missing.
    InputError: a value is wrong.
  """
  if unknown := values.keys() - options_of(config).keys():
    raise TypeError(f"{config.__name__} has no option {', '.join(sorted(unknown))}")
  for name, value in values.items():
    # By the name that it has here: a part may call it otherwise.
    if (declared := options_of(config)[name]).default != value:
      declared.check(name, value)
  fields = {}
  for field, hint in _fields(config):
    if _PART in field.metadata:
      own = {own: values[name] for name, own, _ in _of_part(field, hint) if name in values}
      fields[field.name] = from_options(hint, own | field.metadata[_PART][1])
    elif field.name in values:
      fields[field.name] = values[field.name]
  return config(**fields)


def check_options(config: Any) -> None:
  """Raises InputError for the first field of a configuration that is of another type or out of range; parts aside."""
  for field, hint in _fields(type(config)):
    if _OPTION in field.metadata:
      field.metadata[_OPTION].typed(hint).check(field.name, getattr(config, field.name))


def plain(value: Any) -> Any:
  """The value of an option as JSON holds it, and gives it back: paths as texts, tuples as lists."""
  if isinstance(value, Path):
    return str(value)
  return list(value) if isinstance(value, tuple) else value


def _holds_path(hint: Any) -> bool:
  return hint is Path or any(map(_holds_path, typing.get_args(hint)))


@functools.cache
def _fields(config: type) -> list[tuple[dataclasses.Field, Any]]:
  hints = typing.get_type_hints(config)
  return [(field, hints[field.name]) for field in dataclasses.fields(config)]


def _of_part(field: dataclasses.Field, hint: type) -> list[tuple[str, str, Option]]:
  """The name in the whole, the name in the part, and the option, of each that the whole has."""
  without, _, called = field.metadata[_PART]
  found = []
  for own, declared in options_of(hint).items():
    if own not in without:
      name, text = called.get(own, (own, declared.help))
      found.append((name, own, dataclasses.replace(declared, help=text)))
  return found
