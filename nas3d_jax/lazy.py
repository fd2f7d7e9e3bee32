"""Modules that are imported when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType


def modules_of(package: str) -> Callable[[str], ModuleType]:
  """The `__getattr__` of a package, by which its modules are there without an import of their own.

      __getattr__ = modules_of(__name__)

  What it returns raises AttributeError where there is no such module.
  """

  def get(name: str) -> ModuleType:
    module = f"{package}.{name}"
    if not name.startswith("_"):
      try:
        return importlib.import_module(module)
      except ModuleNotFoundError as error:
        if error.name != module:  # it is there, and another is missing that it needs
          raise
    raise AttributeError(f"module {package!r} has no attribute {name!r}")

  return get
