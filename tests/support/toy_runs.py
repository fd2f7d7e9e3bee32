"""A search and a training with toy networks, in the place of the real ones; what the tests of whole runs share."""

import nas3d_jax.training.search
import nas3d_jax.training.train
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.training.search import search
from nas3d_jax.training.train import train
from tests.support.toy import ToyDerivedNet, ToySupernet

SIZES = dict(patch_size=16, kernels=1, nodes=1, depth=2, epochs=2)
GENOTYPE = Genotype(down=(("max_pool", 0), ("avg_pool", 1)), up=(("identity", 0), ("up_conv", 1)))


def use_toys(monkeypatch):
  monkeypatch.setattr(nas3d_jax.training.search, "Supernet", ToySupernet)
  monkeypatch.setattr(nas3d_jax.training.train, "DerivedNet", ToyDerivedNet)


def run_search(folder, **changes):
  """Fold 0 is the hybrid part. Returns the run directory."""
  search(SearchConfig(folder, **{**SIZES, "hybrid_learning_rate": 0.3, "kernel_learning_rate": 0.1, **changes}))
  return folder / "search"


def run_train(folder, **changes):
  """Fold 0 is validated on. Returns the run directory."""
  (folder / "genotype.json").write_text(GENOTYPE.to_json())
  return train(TrainConfig(folder, genotype=folder / "genotype.json", **{**SIZES, "learning_rate": 0.1, **changes}))
