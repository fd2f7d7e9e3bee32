"""What only the user knows of a checkpoint of the released program."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas3d_jax.data.intensity_names import LAM, XI, Foreground
from nas3d_jax.inference.config import schema_help
from nas3d_jax.models.config import MOST_PATCH
from nas3d_jax.options import check_options, option
from nas3d_jax.validation import PatchSize, patch_size_of

if TYPE_CHECKING:
  from nas3d_jax.schema.schema import Schema
else:
  Schema = Any  # NumPy comes with it, for which `--help` would have to wait


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertConfig:
  """Where a checkpoint goes, and what its file does not hold.

  Each field tells what it is.

  Raises:
    InputError: a field is of another type or out of range.
  """

  out: str | Path = option("run directory to make, which must not be there")
  schema: str | Path | Schema | None = option(schema_help(otherwise="refused, the file does not hold it"), None)
  modalities: tuple[str, ...] | None = option(
    "the schema's modalities in the order of the network's input, with commas; not given: refused", None
  )
  regions: tuple[str, ...] | None = option(
    "the schema's regions in the order of the network's output, with commas; not given: refused", None
  )
  genotype: str | Path | None = option("genotype.json of a derived network, with its rows in their order", None)
  patch_size: PatchSize | None = option(
    "voxels of a patch of its training, one length or D,H,W; not given: the paper's, 64 of a supernet and 128 else",
    None, least=1, most=MOST_PATCH,
  )  # fmt: skip
  foreground: Foreground = option("what of a modality is not background", "nonzero")
  normalization: tuple[str, ...] | None = option(
    "range, zscore, percentile, none or window:LOW:HIGH, one or one a modality in the schema's order; not given: as "
    "the schema says, else range", None,
  )  # fmt: skip
  # Equation 2.
  xi: float = option("length of the range that normalization=range scales to", XI, above=0)
  lam: float = option("offset of that range, in units of xi", LAM, least=0)

  def __post_init__(self):
    object.__setattr__(self, "patch_size", patch_size_of(self.patch_size))
    check_options(self)
