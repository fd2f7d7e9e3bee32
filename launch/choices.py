"""The flags of `InferenceChoices`, which prediction and experiment share."""

from __future__ import annotations

from absl import flags

# They count as flags of the stage that has them defined, whose help then lists them.
flags.disclaim_key_flags()


def define_choices(values: flags.FlagValues) -> None:
  """Defines the flags on `values`, for the module that calls."""
  flags.DEFINE_bool("tta", False, "average over the 8 mirrored inputs", flag_values=values)
  flags.DEFINE_float(
    "overlap", 0.0, "least part of a patch that neighbours share; 0: auto-fitted patches",
    lower_bound=0.0, upper_bound=1.0, flag_values=values,
  )
  flags.DEFINE_bool(
    "gaussian", False, "weigh overlapping patches about their centres", flag_values=values
  )
  flags.DEFINE_bool(
    "whole_volume", False, "the whole brain in one pass, no patches", flag_values=values
  )
  flags.DEFINE_integer(
    "patch_batch", 1, "patches in one pass", lower_bound=1, flag_values=values
  )
  flags.DEFINE_float(
    "min_component_ml", 0.0, "take smaller components out of the innermost region, in ml",
    lower_bound=0.0, flag_values=values,
  )
