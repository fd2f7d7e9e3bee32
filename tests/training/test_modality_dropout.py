"""Modalities that samples lack: how often, never all, and that a run that was stopped lacks the same ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nas3d_jax.checkpointing.restore
import nas3d_jax.training.train
from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.errors import InputError
from nas3d_jax.training.config import TrainConfig
from nas3d_jax.training.modality_dropout import drop_modalities
from nas3d_jax.training.train import train
from tests.support.runs import arrays, steps_kept
from tests.support.toy import ToyDerivedNet
from tests.training.test_train import GENOTYPE, make_config, write_genotype


def test_a_modality_is_there_whole_or_not_at_all():
  image = jnp.asarray(np.random.default_rng(0).uniform(10, 110, (2000, 1, 2, 1, 3)), jnp.float32)
  got = np.asarray(drop_modalities(jax.random.key(0), image, 0.5))
  kept = (got != 0).any(axis=(1, 2, 3))
  np.testing.assert_array_equal(got, np.where(kept[:, None, None, None], image, 0))
  assert kept.any(axis=1).all()
  # Kept is one by itself with 1/2; else, with 1/8, all would lack, and it is the one in three.
  np.testing.assert_allclose(kept.mean(axis=0), 1 / 2 + 1 / 24, atol=0.04)
  assert drop_modalities(jax.random.key(0), image, 0.0) is image


@pytest.mark.parametrize("rate", [1, -0.1, 1.5, float("nan"), True])
def test_a_rate_that_is_no_probability_below_one_is_refused(rate):
  with pytest.raises(InputError, match="modality_dropout must be a number of at least 0 and below 1, got "):
    TrainConfig("run", modality_dropout=rate)


def test_a_run_that_goes_on_lacks_the_same_modalities(copies, monkeypatch):
  for module in (nas3d_jax.training.train, nas3d_jax.checkpointing.restore):
    monkeypatch.setattr(module, "DerivedNet", ToyDerivedNet)
  ends = {}
  for name, parts, rate in (("once", (2,), 0.5), ("twice", (1, 2), 0.5), ("without", (2,), 0.0)):
    workdir = copies(name)
    write_genotype(workdir, GENOTYPE)
    for epochs in parts:
      folder = train(make_config(workdir, epochs=epochs, modality_dropout=rate))
    ends[name] = arrays(folder / "checkpoints" / str(max(steps_kept(folder))))
    assert restore(folder)[2].modality_dropout == rate
  assert ends["once"].keys() == ends["twice"].keys()
  for name, array in ends["once"].items():
    np.testing.assert_array_equal(ends["twice"][name], array)
  assert any(not np.array_equal(ends["without"][name], array) for name, array in ends["once"].items())
