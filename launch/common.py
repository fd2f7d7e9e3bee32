"""The flags that search, training and experiment share."""

from __future__ import annotations

from absl import flags

# They count as flags of the stage that has them defined, whose help then lists them.
flags.disclaim_key_flags()


def define_common(values: flags.FlagValues) -> None:
  """Defines the flags of the searched network, its input and its steps on `values`, for the module that calls."""
  own = dict(flag_values=values)
  count = dict(lower_bound=1, **own)
  flags.DEFINE_integer("batch_size", 1, "patches a step, on each device", **count)
  flags.DEFINE_integer("kernels", None, "kernels a node; not given: the modalities", **count)
  flags.DEFINE_integer("nodes", 3, "nodes of a cell", **count)
  flags.DEFINE_integer("depth", 4, "downward cells", **count)
  flags.DEFINE_enum(
    "variant", "paper", ["paper", "released"], "squeeze-and-excitation convolution as in the paper "
    "or as in its released program", **own,
  )
  flags.DEFINE_bool("skip_empty", True, "leave out patches without tumour", **own)
  flags.DEFINE_bool("augment", True, "scale, flip and rotate patches", **own)
  flags.DEFINE_enum(
    "data_placement", "auto", ["auto", "device", "host"], "where the data lies; auto: on an accelerator where it fits",
    **own,
  )
  flags.DEFINE_enum(
    "precision", "float32", ["float32", "tf32", "bfloat16"], "of convolutions; all else is float32", **own
  )
  flags.DEFINE_integer(
    "skip_nonfinite", 0, "steps that may be left out because a loss or gradient was not finite", lower_bound=0, **own
  )
  flags.DEFINE_float("checkpoint_minutes", 10.0, "minutes between checkpoints", lower_bound=0.0, **own)
