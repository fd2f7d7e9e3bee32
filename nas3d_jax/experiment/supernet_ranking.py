"""What each supernet of an experiment says of the genotypes of its control, before they are trained.

`control/supernet/<seed>.json` holds the losses by "<group>/<number>"; the report compares them with what training gave.
"""

from __future__ import annotations

from pathlib import Path

from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.experiment.inputs import ExperimentInputs
from nas3d_jax.experiment.stage import Stage, with_data
from nas3d_jax.experiment.status import Status, newer_than
from nas3d_jax.files.run_layout import CONTROL, SUPERNET
from nas3d_jax.files.strict_json import read_json, write_json
from nas3d_jax.models.genotype import genotype_in
from nas3d_jax.training.genotype_losses import genotype_losses

_REMEDY = "remove it, and it is made anew"


def supernet_stage(inputs: ExperimentInputs, seed: int, genotypes: dict[str, Path]) -> Stage:
  """The losses of genotypes in the supernet of a search.

  Args:
    inputs: of the experiment.
    seed: of the search.
    genotypes: their files, by "<group>/<number>".
  """
  path = supernet_file(inputs.config, seed)

  def run():
    remedy = "put back a copy of it"
    found = {name: genotype_in(file, remedy) for name, file in genotypes.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    losses = genotype_losses(inputs.config.search(seed), found, operations=inputs.operations)
    write_json(path, {"losses": losses})

  def status() -> Status:
    state = newer_than(path, genotypes.values())
    if state == "done" and set(read_json(path, _REMEDY).get("losses", ())) != set(genotypes):
      return "changed"
    return state

  return Stage(f"control, supernet of seed {seed}: losses of all genotypes", with_data(inputs, status), run)


def supernet_file(config: ExperimentConfig, seed: int) -> Path:
  """Where the losses of a search's supernet stand."""
  return config.root / CONTROL / SUPERNET / f"{seed}.json"
