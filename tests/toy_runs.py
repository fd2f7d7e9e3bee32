"""A search and a training with toy networks, in the place of the real ones; what the tests of whole runs share."""

from toy import ToyDerivedNet, ToySupernet

import nas3d_jax.search
import nas3d_jax.train
from nas3d_jax.genotype import Genotype
from nas3d_jax.search import SearchConfig, search
from nas3d_jax.train import TrainConfig, train

SIZES = dict(patch_size=16, kernels=1, nodes=1, depth=2, epochs=2)
GENOTYPE = Genotype(down=(("max_pool", 0), ("avg_pool", 1)), up=(("identity", 0), ("up_conv", 1)))


def use_toys(monkeypatch):
  monkeypatch.setattr(nas3d_jax.search, "Supernet", ToySupernet)
  monkeypatch.setattr(nas3d_jax.train, "DerivedNet", ToyDerivedNet)


def run_search(folder, **changes):
  """Fold 0 is the hybrid part. Returns the run directory."""
  search(SearchConfig(folder, **{**SIZES, "hybrid_learning_rate": 0.3, "kernel_learning_rate": 0.1, **changes}))
  return folder / "search"


def run_train(folder, **changes):
  """Fold 0 is validated on. Returns the run directory."""
  (folder / "genotype.json").write_text(GENOTYPE.to_json())
  return train(TrainConfig(folder, genotype=folder / "genotype.json", **{**SIZES, "learning_rate": 0.1, **changes}))
