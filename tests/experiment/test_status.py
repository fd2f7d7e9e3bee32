"""How far a training is, by what is on disk."""

import json

import pytest

from nas3d_jax.experiment.status import training_status
from nas3d_jax.training.config import TrainConfig
from nas3d_jax.training.setup import plain_settings


@pytest.mark.parametrize(
  ("records", "saved", "expected"),
  [
    (0, [], "begun"),
    (1, ["4/metrics"], "begun"),
    (2, ["4/metrics"], "begun"),  # killed between record and checkpoint
    (2, ["4/metrics", "8/params"], "begun"),  # likewise, after a stop in the validation of the last epoch
    (2, ["4/metrics", "8/metrics"], "done"),
    (3, ["8/metrics", "12/metrics"], "done"),
  ],
)
def test_a_training_is_over_with_the_checkpoint_of_its_last_epoch(tmp_path, records, saved, expected):
  config = TrainConfig(tmp_path, network="unet3d", epochs=2)
  (tmp_path / "config.json").write_text(json.dumps({"settings": {**plain_settings(config), "dataset": "abc"}}))
  lines = [json.dumps({"epoch": epoch, "step": 4 * epoch, "seconds": 1.0}) for epoch in range(1, records + 1)]
  (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
  for name in saved:
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
  assert training_status(config, tmp_path, "abc") == expected
  assert training_status(config, tmp_path, "abd") == "changed"


def test_without_settings_there_is_none(tmp_path):
  assert training_status(TrainConfig(tmp_path), tmp_path, "abc") == "to do"


def test_a_training_of_before_there_was_an_option_has_its_default(tmp_path):
  stored = {**plain_settings(TrainConfig(tmp_path, network="unet3d")), "dataset": "abc"}
  del stored["precision"]
  (tmp_path / "config.json").write_text(json.dumps({"settings": stored}))
  for precision, expected in (("float32", "begun"), ("tf32", "changed")):
    config = TrainConfig(tmp_path, network="unet3d", precision=precision)
    assert training_status(config, tmp_path, "abc") == expected
