"""What the report takes for the settings of a run."""

import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.report.history_check import check_history
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.training.setup import plain_settings

CONFIGS = [
  ("search", SearchConfig("w")), ("searched", TrainConfig("w")), ("unet3d", TrainConfig("w", network="unet3d"))
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config"), CONFIGS, ids=[kind for kind, _ in CONFIGS])
def test_the_default_settings_of_a_run_are_sound(tmp_path, kind, config):
  settings = plain_settings(config)
  check_history(tmp_path, kind, settings, [{}], [])
  for name, wrong in (("patch_size", None), ("epochs", "3")):
    with pytest.raises(InputError, match=f"config.json is damaged: in its settings {name} is "):
      check_history(tmp_path, kind, {**settings, name: wrong}, [{}], [])
