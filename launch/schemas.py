"""The flag --schema, which all stages that read cases have."""

from __future__ import annotations

from absl import flags

# It counts as a flag of the stage that has it defined, whose help then lists it.
flags.disclaim_key_flags()


def define_schema(
  values: flags.FlagValues, name: str = "schema", of: str = "", *, otherwise: str = "found out"
) -> None:
  """Defines the flag on `values`, for the module that calls."""
  flags.DEFINE_string(
    name, None, f"what files, labels and regions{of} are called: brats2019 (2017 to 2021), brats2023, brats2024, "
    f"decathlon, nnunet or a YAML file; not given: {otherwise}", flag_values=values,
  )
