"""Checks the cases of a folder and writes them as an indexed data set with folds.

Every case that is wrong is reported, by name, reason and remedy, and nothing is written until all
are right. Run again with the same flags, it uses what is there. All cases are brought to one
orientation and voxel size, those of most cases unless given.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from .flags import define_list, define_path, define_schema

REQUIRED = ("data_dir", "workdir")


def define(values: flags.FlagValues) -> None:
  """Defines the flags of this stage on `values`."""
  define_path(
    values, "data_dir", "folder of the cases: of case folders, with or without HGG and LGG, or of a dataset.json"
  )
  define_path(values, "workdir", "run directory; dataset/ is written")
  define_schema(values)
  flags.DEFINE_integer(
    "folds", 5, "folds, as even in grade as can be; 2 for two cases, 1 for one", flag_values=values
  )
  flags.DEFINE_integer("seed", 0, "seed of the folds", flag_values=values)
  flags.DEFINE_string(
    "orientation", None, "that all cases are turned to, as LPS; not given: that of most", flag_values=values
  )
  define_list("spacing", None, "voxel size along its axes in mm, as 1,1,1; not given: that of most", values)
  flags.DEFINE_enum(
    "foreground", "auto", ["auto", "nonzero", "constant", "all"],
    "what is not background: what is not 0, or not the value at the borders, or all; auto: found out",
    flag_values=values,
  )
  define_list(
    "normalization", None,
    "range (the paper's), zscore, percentile, window, window:LOW:HIGH or none; one, or one a modality; not given: the "
    "schema's", values,
  )
  flags.DEFINE_bool("overwrite", False, "make an existing data set anew", flag_values=values)


def main(values: flags.FlagValues) -> int:
  """Runs the stage; returns the exit code."""
  from nas3d_jax.data.dataset.preprocess import preprocess
  from nas3d_jax.files.run_layout import DATASET
  from nas3d_jax.schema.geometry import spacing_of

  out = Path(values["workdir"].value) / DATASET
  dataset = preprocess(
    values["data_dir"].value,
    out,
    schema=values["schema"].value,
    folds=values["folds"].value,
    seed=values["seed"].value,
    orientation=values["orientation"].value,
    spacing=None if values["spacing"].value is None else spacing_of(values["spacing"].value),
    foreground=values["foreground"].value,
    normalization=values["normalization"].value,
    overwrite=values["overwrite"].value,
  )
  from nas3d_jax.data.dataset.suggest import suggest
  from nas3d_jax.runtime.memory import machine_memory

  print(f"suggestion for search and train: {suggest(dataset, machine_memory())}")
  print(f"{len(dataset.cases)} cases, {dataset.folds} folds in {out}; {dataset.geometry or 'as they are'}")
  return 0

