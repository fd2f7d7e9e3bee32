"""The schemas that come with the library, by name.

Their modalities are called flair, t1, t1ce and t2 in all of them, and their regions WT, TC and ET, whatever the files
and labels: what was learned from one can be applied to another.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping

from nas3d_jax.schema.schema import Modality, Region, Schema

BRATS2019 = Schema(
  name="brats2019",
  modalities=tuple(Modality(name, (f"_{name}",)) for name in ("flair", "t1", "t1ce", "t2")),
  labels=(
    (0, "background"),
    (1, "necrotic and non-enhancing tumour core"),
    (2, "peritumoural oedema"),
    (4, "enhancing tumour"),
  ),
  regions=(Region("WT", (1, 2, 4), 2), Region("TC", (1, 4), 1), Region("ET", (4,), 4)),
)
"""BraTS 2017 to 2021."""

BRATS2023 = Schema(
  name="brats2023",
  modalities=(
    Modality("flair", ("-t2f",)), Modality("t1", ("-t1n",)), Modality("t1ce", ("-t1c",)), Modality("t2", ("-t2w",))
  ),
  labels=(
    (0, "background"),
    (1, "necrotic tumour core"),
    (2, "peritumoural oedema"),
    (3, "enhancing tumour"),
  ),
  regions=(Region("WT", (1, 2, 3), 2), Region("TC", (1, 3), 1), Region("ET", (3,), 3)),
  segmentation=("-seg",),
)
"""BraTS 2023, adult glioma."""

BRATS2024 = dataclasses.replace(
  BRATS2023,
  name="brats2024",
  labels=(
    (0, "background"),
    (1, "non-enhancing tumour core"),
    (2, "surrounding non-enhancing FLAIR hyperintensity"),
    (3, "enhancing tumour"),
    (4, "resection cavity"),
  ),
  regions=(*BRATS2023.regions, Region("RC", (4,), 4)),
)
"""BraTS 2024, post-treatment glioma: files are called as in 2023, and label 4 is the cavity, which is no tumour."""

BRATS2024_PED = dataclasses.replace(
  BRATS2023,
  name="brats2024ped",
  labels=(
    (0, "background"),
    (1, "enhancing tumour"),
    (2, "non-enhancing tumour"),
    (3, "cystic component"),
    (4, "peritumoural oedema"),
  ),
  regions=(Region("WT", (1, 2, 3, 4), 4), Region("TC", (1, 2, 3), 2), Region("ET", (1,), 1)),
)
"""BraTS 2024, paediatric tumours: files are called as in 2023, but for PED in the case's name."""

DECATHLON = Schema(
  name="decathlon",
  modalities=(
    Modality("flair", ("FLAIR",)), Modality("t1", ("T1w", "T1")), Modality("t1ce", ("t1gd", "t1ce")),
    Modality("t2", ("T2w", "T2")),
  ),
  labels=((0, "background"), (1, "oedema"), (2, "non-enhancing tumour"), (3, "enhancing tumour")),
  regions=(Region("WT", (1, 2, 3), 1), Region("TC", (2, 3), 2), Region("ET", (3,), 3)),
  segmentation=("labelsTr",),
  layout="decathlon",
)
"""Medical Segmentation Decathlon, Task01_BrainTumour."""

SCHEMAS: Mapping[str, Schema] = types.MappingProxyType(
  {schema.name: schema for schema in (BRATS2019, BRATS2023, BRATS2024, BRATS2024_PED, DECATHLON)}
)
"""The schemas that come with the library, by name; that of nnU-Net is made from each data set's dataset.json."""

_CHALLENGE = re.compile(r"BraTS-([A-Za-z]+)-", re.IGNORECASE)


def challenge(case: str) -> str | None:
  """The challenge that a case of BraTS 2023 and later names: "BraTS-PED-00002-000" -> "PED"; None of others."""
  match = _CHALLENGE.match(case)
  return match and match[1].upper()


def of_challenge(schema: Schema, challenge: str | None) -> bool:
  """Whether cases of a challenge may follow a schema; where the case names none, they may follow any."""
  own = {"brats2024": challenge != "PED", "brats2024ped": challenge == "PED"}
  return challenge is None or own.get(schema.name, True)


_MODALITIES = {
  "flair": ("flair", "t2f", "t2flair"),
  "t1": ("t1", "t1w", "t1n"),
  "t1ce": ("t1ce", "t1c", "t1gd", "t1post", "t1wce"),
  "t2": ("t2", "t2w"),
}
_REGIONS = {
  "WT": ("wt", "wholetumor", "wholetumour", "whole"),
  "TC": ("tc", "tumorcore", "tumourcore", "core"),
  "ET": ("et", "enhancingtumor", "enhancingtumour", "enhancing"),
  "RC": ("rc", "resectioncavity"),
}


def modality_name(text: str) -> str:
  """What the schemas call a channel that others call otherwise: "T1Gd" -> "t1ce"; unknown names stay as they are."""
  return _known(text, _MODALITIES)


def region_name(text: str) -> str:
  """What the schemas call a region that others call otherwise: "whole tumor" -> "WT"; unknown names stay."""
  return _known(text, _REGIONS)


def _known(text: str, names: Mapping[str, tuple[str, ...]]) -> str:
  plain = re.sub(r"[\s_-]", "", text).lower()
  return next((name for name, others in names.items() if plain in others), text)
