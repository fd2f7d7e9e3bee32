"""The values of a pickle, without running it.

Python's own unpickler calls what a pickle names. This one walks the operations of the pickle and knows those alone that
make plain values; a name is kept as a `Name`, and what a call of it stands for is the caller's to say.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any

from nas3d_jax.errors import InputError

MOST_BYTES, MOST_OPERATIONS = 1 << 24, 2_000_000
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
  "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
  "SHORT_BINBYTES",
}  # fmt: skip
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclasses.dataclass(frozen=True)
class Name:
  """What a pickle names, as "torch.FloatStorage"; it is never looked up."""

  text: str


def plain_values(
  content: bytes, *, call: Callable[[Name, tuple[Any, ...]], Any], persistent: Callable[[Any], Any]
) -> Any:
  """The value of a pickle.

  Args:
    content: the pickle.
    call: what a call of a name with arguments stands for; raises InputError for those that it does not know.
    persistent: what a persistent id stands for; raises likewise.

  Returns:
    Dictionaries with texts and whole numbers as keys, lists, tuples, texts, bytes, numbers, True, False, None and
    what `call` and `persistent` give. They may be shared, and hold themselves.

  Raises:
    InputError: it is cut short, too large, or does something else than make such values.
  """
  if len(content) > MOST_BYTES:
    raise InputError(f"its list of tensors has {len(content)} bytes, more than {MOST_BYTES}")
  try:
    return _Machine(call, persistent).run(content)
  except InputError:
    raise
  except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
    raise InputError(f"its list of tensors is damaged ({type(error).__name__}: {error!s:.100})") from None


class _Machine:
  """A stack and a memo, as pickles use them."""

  def __init__(self, call: Callable[[Name, tuple[Any, ...]], Any], persistent: Callable[[Any], Any]):
    self._call, self._persistent = call, persistent
    self._stack: list[Any] = []
    self._memo: dict[int, Any] = {}

  def run(self, content: bytes) -> Any:
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
      if count > MOST_OPERATIONS:
        raise InputError(f"its list of tensors has more than {MOST_OPERATIONS} operations")
      if operation.name == "STOP":
        (value,) = self._stack
        return value
      self._do(operation.name, argument)
    raise ValueError("no end")

  def _do(self, name: str, argument: Any) -> None:
    stack = self._stack
    if name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in _VALUES:
      stack.append(argument)
    elif name in _EMPTY:
      stack.append(_EMPTY[name]())
    elif name == "MARK":
      stack.append(_MARK)
    elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
      # A dictionary: a number of any size costs one entry.
      self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
      stack.append(self._memo[argument])
    elif name in _TUPLES:
      count = _TUPLES[name]
      stack.append(tuple(self._pop() for _ in range(count))[::-1])
    elif name == "TUPLE":
      stack.append(tuple(self._marked()))
    elif name in ("APPEND", "APPENDS"):
      values = [self._pop()] if name == "APPEND" else self._marked()
      _of(list, stack[-1]).extend(values)
    elif name in ("SETITEM", "SETITEMS"):
      values = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._marked()
      _set(_of(dict, stack[-1]), values)
    elif name == "GLOBAL":
      stack.append(Name(argument.replace(" ", ".")))
    elif name == "STACK_GLOBAL":
      last, module = self._pop(), self._pop()
      stack.append(Name(f"{_of(str, module)}.{_of(str, last)}"))
    elif name in ("REDUCE", "NEWOBJ"):
      arguments, called = _of(tuple, self._pop()), _of(Name, self._pop())
      stack.append(self._call(called, arguments))
    elif name == "BINPERSID":
      stack.append(self._persistent(self._pop()))
    elif name == "BUILD":
      # PyTorch gives its dictionaries an attribute with versions, which nothing needs.
      self._pop()
      _of(dict, stack[-1])
    elif name not in ("PROTO", "FRAME"):
      raise InputError(f"its list of tensors has the operation {name}, which no list of tensors needs")

  def _pop(self) -> Any:
    value = self._stack.pop()
    if value is _MARK:
      raise ValueError("a mark in the place of a value")
    return value

  def _marked(self) -> list[Any]:
    """What lies above the last mark."""
    values: list[Any] = []
    while (value := self._stack.pop()) is not _MARK:
      values.append(value)
    return values[::-1]


def _of(kind: type, value: Any) -> Any:
  if type(value) is not kind:
    raise ValueError(f"a {type(value).__name__} in the place of a {kind.__name__}")
  return value


def _set(found: dict[Any, Any], values: list[Any]) -> None:
  for key, value in zip(values[::2], values[1::2], strict=True):
    if type(key) not in (str, int):
      raise ValueError(f"a {type(key).__name__} as a key")
    found[key] = value
