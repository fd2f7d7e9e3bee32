"""What a training begins with: the genotype of a search, and the parameters of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas3d_jax.basis import Basis
from nas3d_jax.counts import rows_of
from nas3d_jax.errors import InputError
from nas3d_jax.genotype import Genotype
from nas3d_jax.restoring import restore


def read_genotype(path: str | Path) -> Genotype:
  """The genotype in a JSON file.

  Raises:
    InputError: the file cannot be read, or holds none.
  """
  try:
    return Genotype.from_json(Path(path).read_text("utf-8"))
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"genotype {path} cannot be read ({error}); run the search first, or give --genotype") from error
  except InputError as error:
    raise InputError(f"{path}: {error}") from error


def read_start(basis: Basis, genotype: Genotype | None) -> dict[str, Any]:
  """The variables of `init_from` of a training, if they are of this very network.

  Raises:
    InputError: they are of another one, or cannot be restored.
  """
  net, variables, metadata = restore(basis.config.init_from)
  # Rows in another order, or another operation with parameters of the same shape, would be taken for something else.
  other = metadata.genotype and rows_of(metadata.genotype)
  for name, there, here in (
    ("architecture", metadata.architecture, basis.network.architecture),
    ("genotype", other, genotype and rows_of(genotype)),
    ("network", net.config, basis.network),
    ("schema", metadata.schema, basis.dataset.schema),
  ):
    if there != here:
      raise InputError(
        f"init_from {basis.config.init_from} has another {name} than this training: {there} there, {here} here; give a "
        "training of the same network"
      )
  return variables
