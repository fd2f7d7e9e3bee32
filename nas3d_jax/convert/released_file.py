"""Which network the tensors of a file are: its parameters, its size, its genotype."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas3d_jax.convert.torch_file import RESAVE
from nas3d_jax.errors import InputError
from nas3d_jax.files.strict_json import parse_json, read_file
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.search_space import CELLS

KEYS = ("state_dict", "model_state_dict", "model", "model_param", "model_params", "net", "network", "params")
"""Where a dictionary of several things holds the parameters."""
SEARCHED = "kernel."
"""In front of the parameters of a supernet."""
_PARALLEL = "module."
_REMEDY = "give a supernet or a derived network of the released program"


def state_dict_of(value: Any) -> dict[str, NDArray]:
  """The parameters in what a file holds: name -> array.

  Args:
    value: a state_dict, or a dictionary with one under one of `KEYS`; from `read_torch_file`.

  Returns:
    The parameters, without the prefix that data-parallel training puts in front of all.

  Raises:
    InputError: there are none, or several; or one is no number, or not finite.
  """
  found = [(None, value)] if _is_state_dict(value) else []
  if not found and isinstance(value, Mapping):
    found = [(key, value[key]) for key in KEYS if key in value and _is_state_dict(value[key])]
  if len(found) != 1:
    keys = ", ".join(map(repr, list(value)[:8])) if isinstance(value, Mapping) else f"a {type(value).__name__}"
    several = f"several sets of parameters ({', '.join(key for key, _ in found)})" if found else "no parameters"
    raise InputError(
      f"there are {several} in it, which holds {keys:.300}; they must be under one of {', '.join(KEYS)}, or alone: "
      f"{RESAVE}"
    )
  state = dict(found[0][1])
  if all(name.startswith(_PARALLEL) for name in state):
    state = {name.removeprefix(_PARALLEL): array for name, array in state.items()}
  for name, array in state.items():
    if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
      raise InputError(f"{name:.100} is not finite numbers, as parameters are; take an earlier checkpoint")
  return state


def _is_state_dict(value: Any) -> bool:
  return (
    isinstance(value, Mapping) and bool(value)
    and all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in value.items())
  )  # fmt: skip


def network_of(state: Mapping[str, NDArray]) -> NetworkConfig:
  """The size of the network whose parameters these are, from their shapes, of variant "released".

  Raises:
    InputError: an array that tells it is missing or misshapen, or they contradict each other.
  """
  prefix = SEARCHED if any(name.startswith(SEARCHED) for name in state) else ""

  def shape(name: str, axes: int = 5) -> tuple[int, ...]:
    got = np.shape(state[prefix + name]) if prefix + name in state else "nothing"
    if len(got) != axes or 0 in got:
      raise InputError(f"{prefix}{name} must be there with {axes} axes, got {got}; {_REMEDY}")
    return got

  width, modalities = shape("stem0.conv.weight")[:2]
  kernels, rest = divmod(shape("down_cells.0.preprocess0.conv.weight")[0], 2)
  if rest or width % max(kernels, 1):
    raise InputError(f"stem0 has {width} channels and a node of the first cell {2 * kernels + rest}; {_REMEDY}")
  pattern = re.compile(re.escape(prefix) + r"down_cells\.(\d{1,4})\.")
  depth = len({match[1] for name in state if (match := pattern.match(name))})
  return NetworkConfig(
    in_channels=modalities, out_channels=shape("last_conv.0.conv.weight")[0], kernels=kernels,
    nodes=width // kernels, depth=depth, variant="released",
  )  # fmt: skip


def read_genotype(path: Path) -> Genotype:
  """A genotype from a file of this program, or a JSON object of "down" and "up", each a list of rows.

  The rows are [operation, state], two a node, in the order in which the network numbers its operations.

  Raises:
    InputError: it cannot be read, or is none; names the file.
  """
  remedy = 'give a genotype.json, or {"down": [["down_conv", 0], ...], "up": [...]}'
  try:
    content = read_file(path, remedy)
    fields = parse_json(content)
    plain = isinstance(fields, dict) and set(fields) == set(CELLS)
    return Genotype(**fields) if plain else Genotype.from_json(content)
  except InputError as error:
    raise InputError(f"genotype {path}: {error}; {remedy}") from error
