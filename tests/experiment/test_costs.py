"""What a network costs: figures that a training step shows."""

import jax
import numpy as np

from nas3d_jax.experiment.costs import measure_costs
from nas3d_jax.models.networks import DerivedNet, variable_shapes
from tests.inference.test_predict import CONFIG, GENOTYPE, save_run


def test_measured_on_this_device(tmp_path):
  run = save_run(tmp_path / "run", (0.9, 0.5, 0.1))
  image = np.random.default_rng(0).integers(1, 9, (8, 9, 8, 4)).astype(np.int16)
  costs = measure_costs(run, [image])
  params = 0
  for leaf in jax.tree.leaves(variable_shapes(DerivedNet(CONFIG, GENOTYPE))):
    params += leaf.size
  assert (costs.parameters, costs.patch_size) == (params, 8)
  # At least parameters, two moments, image and target have to be there.
  assert costs.peak_bytes > 4 * (3 * params + 8**3 * 7)
  assert 0 < costs.step_ms < 60_000
  assert 0 < costs.case_s < 60
  assert costs.device == jax.devices()[0].device_kind
  assert measure_costs(run).case_s is None
