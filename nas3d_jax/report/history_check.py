"""What a run's files must hold for the report to draw them: one description of each, checked when it is read."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from nas3d_jax.errors import InputError
from nas3d_jax.files.run_layout import CONFIG, METRICS
from nas3d_jax.models.search_space import CELLS
from nas3d_jax.validation import is_number, is_whole

Kind = Literal["search", "searched", "unet3d", "plain_unet"]
"""A search, or a training of such a network."""
Check = Callable[[Any], bool]


def _count(value: Any) -> bool:
  return is_whole(value, 1)


def _number_or_none(value: Any) -> bool:
  return value is None or is_number(value)


def _cells(entry: Check) -> Check:
  return lambda value: isinstance(value, dict) and all(entry(value.get(cell)) for cell in CELLS)


def _patch_size(value: Any) -> bool:
  return _count(value) or (isinstance(value, list) and len(value) == 3 and all(map(_count, value)))


def _modules(value: Any) -> bool:
  return isinstance(value, list) and all(
    isinstance(module, dict)
    and is_whole(module.get("state"), 0)
    and is_whole(module.get("node"), 0)
    and isinstance(module.get("weights"), list)
    and all(map(is_number, module["weights"]))
    for module in value
  )


def _rows(value: Any) -> bool:
  return isinstance(value, list) and all(
    isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) for row in value
  )


_SIZES = {
  # Kernels that are not given are as many as modalities.
  "kernels": lambda value: value is None or _count(value),
  "nodes": _count, "depth": _count, "variant": lambda value: isinstance(value, str),
}  # fmt: skip
_SETTINGS: Mapping[Kind, Mapping[str, Check]] = types.MappingProxyType(
  {
    "search": {"epochs": _count, "min_count": _count, "patch_size": _patch_size, **_SIZES},
    "searched": {"epochs": _count, "patch_size": _patch_size, **_SIZES},
    "unet3d": {"epochs": _count, "patch_size": _patch_size},
    "plain_unet": {"epochs": _count, "patch_size": _patch_size},
  }
)
_TRAINING = {
  "epoch": _count, "loss": is_number, "validation_loss": _number_or_none, "learning_rate": is_number,
  "patches_per_second": is_number,
}
_RECORD: Mapping[Kind, Mapping[str, Check]] = types.MappingProxyType(
  {
    "search": {
      "epoch": _count, "hybrid_loss": is_number, "kernel_loss": is_number, "validation_loss": _number_or_none,
      "hybrid_learning_rate": is_number, "kernel_learning_rate": is_number, "patches_per_second": is_number,
      "count": lambda value: is_whole(value, 0), "hybrid_weights": _cells(_modules), "entropy": _cells(is_number),
      "genotype": _cells(_rows),
    },
    "searched": _TRAINING,
    "unet3d": _TRAINING,
    "plain_unet": _TRAINING,
  }
)
_FIGURES = ("parameters", "flops", "peak_bytes", "step_ms", "case_s")


def check_history(
  folder: Path, kind: Kind, settings: Mapping[str, Any], sessions: list[Any], records: list[dict[str, Any]]
) -> None:
  """Checks what was read of a run.

  Args:
    folder: of the run, for messages.
    kind: what was searched or trained.
    settings: of its configuration.
    sessions: of the same.
    records: one an epoch.

  Raises:
    InputError: a key is missing or holds something else; names the file, the key and, of a record, its line.
  """
  remedy = f"put back a copy of it, or move {folder} away"
  _check(f"{folder / CONFIG} is damaged: in its settings", settings, _SETTINGS[kind], remedy)
  if not all(isinstance(device, dict) and isinstance(device.get("versions", {}), dict) for device in sessions):
    raise InputError(f"{folder / CONFIG} is damaged: sessions must be objects, with versions by package; {remedy}")
  for line, record in enumerate(records, 1):
    where = f"{folder / METRICS} is damaged: in line {line}"
    _check(where, record, _RECORD[kind], "run with --overwrite, or remove the line")


def check_costs(path: Path, costs: Mapping[str, Any]) -> None:
  """Checks what was read of `costs.json`: an object a network, whose figures are numbers or null.

  Raises:
    InputError: something else stands there; names the file, the network and the key.
  """
  for network, cost in costs.items():
    wrong = [name for name in _FIGURES if not _number_or_none(cost.get(name))] if isinstance(cost, dict) else ["all"]
    if wrong:
      raise InputError(
        f"{path} is damaged: of {network}, {', '.join(wrong)} cannot be so; remove it, and run experiment again, which "
        "makes it"
      )


def _check(where: str, found: Mapping[str, Any], checks: Mapping[str, Check], remedy: str) -> None:
  for name, check in checks.items():
    if name not in found:
      raise InputError(f"{where} there is no {name}; {remedy}")
    if not check(found[name]):
      raise InputError(f"{where} {name} is {found[name]!r:.80}, which it cannot be; {remedy}")
