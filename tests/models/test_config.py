"""Configurations are checked when they are made."""

import dataclasses

import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig


def test_defaults_are_the_papers():
  assert NetworkConfig().to_dict() == {
    "in_channels": 4, "out_channels": 3, "kernels": 4, "nodes": 3, "depth": 4, "zoom": 2, "variant": "paper"
  }  # fmt: skip


def test_kernels_follow_the_modalities_unless_given():
  assert NetworkConfig(in_channels=7).kernels == 7
  assert NetworkConfig(in_channels=7, kernels=2).kernels == 2


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    *((name, 0, f"{name} must be a whole number of at least 1, got 0") for name in (
      "in_channels", "out_channels", "kernels", "nodes"
    )),
    ("depth", 1, "depth must be a whole number of at least 2, got 1"),
    ("nodes", 2.0, r"nodes must be a whole number of at least 1, got 2\.0"),
    ("nodes", True, "nodes must be a whole number of at least 1, got True"),
    ("depth", "4", "depth must be a whole number of at least 2, got '4'"),
    ("out_channels", None, "out_channels must be .*, got None"),
    ("zoom", 3, r"zoom must be 2 \(the operations change resolution by 2\), got 3"),
    ("zoom", 2.0, r"zoom must be 2 .*, got 2\.0"),
    ("variant", "Paper", "variant must be one of paper, released, got 'Paper'"),
    ("variant", ["paper"], "variant must be one of paper, released, got"),
  ],
)  # fmt: skip
def test_wrong_fields(field, value, message):
  with pytest.raises(InputError, match=message):
    NetworkConfig(**{field: value})


def test_is_frozen_and_hashable():
  config = NetworkConfig()
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.nodes = 2
  assert {config: 1}[NetworkConfig(kernels=4)] == 1


@pytest.mark.parametrize(("depth", "multiple"), [(2, 8), (3, 16), (4, 32)])
def test_multiple(depth, multiple):
  config = NetworkConfig(depth=depth)
  assert config.multiple == multiple
  for size in (multiple, 3 * multiple):
    config.check_patch_size(size)


@pytest.mark.parametrize(
  ("size", "message"),
  [
    (48, r"patch_size must be a multiple of 32 \(2 \*\* \(depth \+ 1\)\), got 48; use 32 or 64$"),
    (100, "got 100; use 96 or 128$"),
    (0, "got 0; use 32 or 64$"),
    (-32, "got -32; use 32 or 64$"),
    (64.0, r"got 64\.0; use 32 or 64$"),
    (True, "got True; use 32 or 64$"),
    ((64, 50, 32), r"multiple of 32 \(2 .* along each axis, got 64,50,32; use 64,32,32 or 64,64,32$"),
    ((64, 64), r"got \(64, 64\); use 32 or 64$"),
  ],
)
def test_wrong_patch_size(size, message):
  with pytest.raises(InputError, match=message):
    NetworkConfig().check_patch_size(size)


def test_another_argument_is_named():
  with pytest.raises(InputError, match=r"size must be a multiple of 8 .*, got 12; use 8 or 16"):
    NetworkConfig(depth=2).check_patch_size(12, "size")


def test_dict_round_trip():
  config = NetworkConfig(in_channels=2, kernels=5, nodes=1, depth=3, variant="released")
  assert NetworkConfig.from_dict(config.to_dict()) == config


def test_unknown_fields_of_a_dict():
  with pytest.raises(InputError, match=r"network config has unknown fields \['width'\]; known are \['depth', "):
    NetworkConfig.from_dict({"width": 3})
