"""What a run says of itself: it round-trips through JSON, and every wrong field is named."""

import json

import pytest

from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.schema.geometry import Geometry

CONFIG = NetworkConfig(kernels=2, nodes=1, depth=2)
GENOTYPE = Genotype(down=(("max_pool", 1), ("down_conv", 0)), up=(("identity", 0), ("up_conv", 1)))


def metadata(**changes):
  fields = dict(
    kind="train", network=CONFIG, genotype=GENOTYPE, dropout_rate=0.5, schema=BRATS2019, patch_size=16, epoch=3,
    step=12, versions={"jax": "0.10.1"}, device={"platform": "cpu", "memory": None},
    dataset={"fingerprint": "ab", "more": [1]},
  )
  return RunMetadata(**fields | changes)


def test_a_derived_network_in_plain_json():
  plain = metadata().to_dict()
  assert json.loads(json.dumps(plain)) == plain
  # Rows keep their order: parameters lie in it.
  assert plain["genotype"] == {"down": [["max_pool", 1], ["down_conv", 0]], "up": [["identity", 0], ["up_conv", 1]]}
  assert (plain["xi"], plain["lam"], plain["network"]["kernels"]) == (100.0, 0.1, 2)
  assert plain["dataset"] == {"fingerprint": "ab", "more": [1]}


@pytest.mark.parametrize(
  "given",
  [
    metadata(),
    metadata(kind="search", genotype=None, dropout_rate=0, xi=1, lam=0),
    metadata(geometry=Geometry("LPS", (1, 1, 3))),
  ],
)
def test_comes_back_with_what_a_checkpoint_adds(given):
  back = RunMetadata.from_dict({"format_version": 1, **json.loads(json.dumps(given.to_dict()))})
  assert back == given
  assert back.to_dict() == given.to_dict()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"kind": "demo"}, 'kind must be "search" or "train", got \'demo\''),
    ({"kind": "search"}, "genotype must be None for kind 'search'"),
    ({"genotype": None}, "genotype must be given for kind 'train', got None"),
    ({"genotype": {"down": []}}, r"genotype is wrong: it must have exactly the fields down, up, got \['down'\]"),
    ({"genotype": {"down": [["conv", 0]] * 2, "up": []}}, r"genotype.down\[0\]: state 0 takes one of"),
    ({"genotype": 7}, "genotype must be a mapping, got 7"),
    ({"network": CONFIG.to_dict() | {"nodes": 2}}, "genotype has 1 nodes a cell, but the network has nodes=2"),
    ({"network": CONFIG.to_dict() | {"zoom": 3}}, "network is wrong: zoom must be 2"),
    ({"network": None}, "network must be a NetworkConfig, got None"),
    ({"network": CONFIG.to_dict() | {"in_channels": 3}}, "has 4 modalities, but the network has in_channels=3"),
    ({"network": CONFIG.to_dict() | {"out_channels": 1}}, "has 3 regions, but the network has out_channels=1"),
    ({"schema": {}}, "schema is wrong: schema must have exactly the fields"),
    ({"patch_size": 12}, "patch_size must be a multiple of 8"),
    ({"dropout_rate": 1.5}, "dropout_rate must be a number from 0 to 1, got 1.5"),
    ({"dropout_rate": True}, "dropout_rate must be a number"),
    ({"xi": 0}, "xi must be a number above 0, got 0"),
    ({"lam": "0.1"}, "lam must be a number of at least 0, got '0.1'"),
    ({"epoch": -1}, "epoch must be a whole number of at least 0, got -1"),
    ({"step": 1.5}, "step must be a whole number of at least 0, got 1.5"),
    ({"versions": {"jax": 1}}, "versions must be a mapping of packages to versions"),
    ({"versions": ["jax"]}, "versions must be a mapping"),
    ({"device": "cpu"}, "device must be a mapping, got 'cpu'"),
    ({"dataset": {}}, 'dataset must be a mapping with a text "fingerprint"'),
    ({"geometry": {"orientation": "LPS"}}, "geometry is wrong: geometry must have exactly the fields"),
    ({"geometry": "LPS"}, "geometry must be a mapping, got 'LPS'"),
    ({"more": 1}, "metadata has unknown fields more"),
  ],
)
def test_a_wrong_field_is_named(changes, message):
  with pytest.raises(InputError, match=message):
    RunMetadata.from_dict(metadata().to_dict() | changes)


def test_a_missing_field_is_named():
  fields = metadata().to_dict()
  del fields["xi"], fields["schema"]
  with pytest.raises(InputError, match="metadata lacks schema, xi; its fields are architecture, dataset, device"):
    RunMetadata.from_dict(fields)


def test_without_a_geometry_it_says_what_it_said_before_there_was_one():
  assert "geometry" not in metadata().to_dict()
  assert metadata(geometry=Geometry("LPS", (1, 1, 1))).to_dict()["geometry"] == {
    "orientation": "LPS", "spacing": [1.0, 1.0, 1.0]
  }  # fmt: skip


def test_a_checkpoint_of_before_there_was_another_architecture():
  fields = metadata().to_dict()
  del fields["architecture"]
  assert RunMetadata.from_dict(fields) == metadata()


def test_modality_dropout_is_said_where_there_was_some():
  plain = metadata(modality_dropout=0.3).to_dict()
  assert plain["modality_dropout"] == 0.3
  assert RunMetadata.from_dict(plain).modality_dropout == 0.3
  assert metadata().to_dict() == {name: value for name, value in plain.items() if name != "modality_dropout"}
  with pytest.raises(InputError, match="modality_dropout must be a number of at least 0 and below 1, got 1"):
    metadata(modality_dropout=1)
