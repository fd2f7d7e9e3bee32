"""Genotypes: read from hybrid parameters, compared, written and read, every field checked."""

import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.hybrid_parameters import hybrid_shapes, hybrid_weights
from nas3d_jax.models.search_space import (
  CANDIDATES,
  direction_of,
  edge_list,
  edge_row,
  operation_direction,
  reading_nodes,
)

DOWN = (("down_conv", 0), ("max_pool", 1), ("identity", 2), ("avg_pool", 0))
UP = (("conv", 0), ("up_conv", 1), ("up_dil_conv", 1), ("se_conv", 2))
TWO = Genotype(down=DOWN, up=UP)


def zeros(config):
  return {name: np.zeros(shape) for name, shape in hybrid_shapes(config).items()}


class TestEdges:
  def test_node_by_node_and_state_by_state(self):
    assert edge_list(3) == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3))

  @pytest.mark.parametrize(("state", "nodes"), [(0, (0, 1, 2)), (1, (0, 1, 2)), (2, (1, 2)), (3, (2,))])
  def test_the_readers_of_a_state(self, state, nodes):
    assert reading_nodes(state, 3) == nodes

  @pytest.mark.parametrize(
    ("cell", "expected"), [("down", ["down", "down", "normal", "normal"]), ("up", ["normal", "up", "normal", "normal"])]
  )
  def test_directions(self, cell, expected):
    assert [direction_of(cell, state) for state in range(4)] == expected

  def test_shapes_of_the_hybrid_parameters(self):
    """9 edges a cell: 6 halve and 3 keep downward, 3 double and 6 keep upward."""
    assert hybrid_shapes(NetworkConfig()) == {
      "down_normal": (3, 5), "down_down": (6, 6), "up_normal": (6, 5), "up_up": (3, 4)
    }  # fmt: skip
    assert hybrid_shapes(NetworkConfig(nodes=1)) == {"down_down": (2, 6), "up_normal": (1, 5), "up_up": (1, 4)}

  @pytest.mark.parametrize(
    ("cell", "node", "state", "row"),
    [("down", 0, 1, 1), ("down", 2, 0, 4), ("down", 1, 2, 0), ("down", 2, 3, 2), ("up", 2, 1, 2), ("up", 2, 0, 3)],
  )
  def test_row_of_an_edge_among_those_of_its_direction(self, cell, node, state, row):
    assert edge_row(cell, node, state) == row

  def test_fifteen_operations(self):
    for direction, names in CANDIDATES.items():
      assert [operation_direction(name) for name in names] == [direction] * len(names)
    assert sum(map(len, CANDIDATES.values())) == 15


class TestFromHybrid:
  def test_ties_go_to_the_lower_index(self):
    """All weights are equal: the first candidate of the first two states, at every node."""
    genotype = Genotype.from_hybrid(zeros(NetworkConfig()), NetworkConfig())
    assert genotype.down == (("avg_pool", 0), ("avg_pool", 1)) * 3
    assert genotype.up == (("identity", 0), ("up_se_conv", 1)) * 3

  def test_the_largest_weight_of_a_module(self):
    config = NetworkConfig(nodes=1)
    hybrid = zeros(config)
    hybrid["down_down"][0] = [0, 1, 2, 3, 5, 4]
    hybrid["down_down"][1] = [3, 9, 9, 1, 1, 1]
    hybrid["up_normal"][0, 3] = 1e-3
    hybrid["up_up"][0] = -100, -90, -80, -70
    genotype = Genotype.from_hybrid(hybrid, config)
    assert genotype.down == (("down_dep_conv", 0), ("max_pool", 1))
    assert genotype.up == (("dep_conv", 0), ("up_dil_conv", 1))

  def test_weights_times_candidates_rank_the_edges(self):
    """Node 1 downward: X0 has weight 0.30 of 6 candidates (1.80), X1 0.35 of 6 (2.10), node 0 0.40 of 5 (2.00).

    By the bare weight node 0 would come first and X1 second; X0 is out in either case. Node 1 upward: X0 0.46 of 5
    (2.30), X1 0.50 of 4 (2.00), node 0 0.42 of 5 (2.10): by the bare weight X1 would be kept.
    """
    config = NetworkConfig(nodes=2)
    hybrid = zeros(config)
    # softmax(log w) = w; the rest is shared by the other candidates.
    hybrid["down_down"][2] = np.log([0.30, *[0.14] * 5])
    hybrid["down_down"][3] = np.log([0.13, 0.35, *[0.13] * 4])
    hybrid["down_normal"][0] = np.log([*[0.15] * 4, 0.40])
    hybrid["up_normal"][1] = np.log([*[0.135] * 3, 0.46, 0.135])
    hybrid["up_up"][1] = np.log([0.50, *[1 / 6] * 3])
    hybrid["up_normal"][2] = np.log([0.42, *[0.145] * 4])
    genotype = Genotype.from_hybrid(hybrid, config)
    assert genotype.down[2:] == (("max_pool", 1), ("conv", 2))
    assert genotype.up[2:] == (("dep_conv", 0), ("identity", 2))

  def test_softmax_of_large_values(self):
    config = NetworkConfig(nodes=1)
    hybrid = zeros(config)
    hybrid["up_up"][0] = 1000, 1000 + np.log(3), -1000, 1000
    weights = hybrid_weights(hybrid, config)["up"][0, 1]
    np.testing.assert_allclose(weights, [0.2, 0.6, 0, 0.2], rtol=1e-12)

  def test_takes_the_partition_or_all_variables(self):
    config = NetworkConfig(nodes=1)
    hybrid = zeros(config)
    everything = {"params": {"hybrid": hybrid, "stem0": {}}}
    assert Genotype.from_hybrid(everything, config) == Genotype.from_hybrid(hybrid, config)

  @pytest.mark.parametrize(
    ("change", "message"),
    [
      (lambda h: h.pop("up_up"), r"hold 'up_up' of shape \(1, 4\) for nodes=1, got nothing"),
      (lambda h: h.update(up_up=np.zeros((3, 4))), r"'up_up' of shape \(1, 4\) for nodes=1, got shape \(3, 4\)"),
      (lambda h: h["up_up"].__setitem__((0, 0), np.nan), r"'up_up' are not finite; the search has diverged"),
    ],
  )
  def test_wrong_parameters(self, change, message):
    hybrid = zeros(NetworkConfig(nodes=1))
    change(hybrid)
    with pytest.raises(InputError, match=message):
      Genotype.from_hybrid(hybrid, NetworkConfig(nodes=1))


class TestStructure:
  def test_the_order_within_a_node_carries_no_meaning(self):
    other = Genotype(down=(DOWN[1], DOWN[0], DOWN[3], DOWN[2]), up=(UP[1], UP[0], *UP[2:]))
    assert other == TWO
    assert hash(other) == hash(TWO)
    assert other.down != TWO.down
    assert {TWO: 1}[other] == 1

  def test_the_order_of_nodes_does(self):
    one, two = (("max_pool", 0), ("max_pool", 1)), (("down_conv", 0), ("down_conv", 1))
    assert Genotype(one + two, UP) != Genotype(two + one, UP)

  def test_another_wiring_is_another_structure(self):
    assert Genotype((("down_conv", 1), ("max_pool", 0), *DOWN[2:]), UP) != TWO

  def test_rows_keep_their_order_and_become_tuples(self):
    genotype = Genotype(down=[list(row) for row in DOWN], up=[list(row) for row in UP])
    assert (genotype.down, genotype.up) == (DOWN, UP)

  def test_is_no_other_type(self):
    assert TWO != (DOWN, UP)

  def test_text(self):
    assert str(TWO).splitlines() == [
      "downward cell", "  node 0 = down_conv(X0) + max_pool(X1)", "  node 1 = identity(node 0) + avg_pool(X0)",
      "upward cell", "  node 0 = conv(X0) + up_conv(X1)", "  node 1 = up_dil_conv(X1) + se_conv(node 0)",
    ]  # fmt: skip

  def test_fits_a_network_of_as_many_nodes(self):
    TWO.check(NetworkConfig(nodes=2))
    with pytest.raises(InputError, match=r"genotype has 2 nodes a cell, but the network has nodes=3; set nodes=2"):
      TWO.check(NetworkConfig())


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ((("convolve", 0), DOWN[1]), r"genotype\.down\[0\]: operation must be one of .*; got 'convolve'"),
    ((("conv", 0), DOWN[1]), r"genotype\.down\[0\]: state 0 takes one of avg_pool, .*; got 'conv'"),
    ((("up_conv", 0), DOWN[1]), r"genotype\.down\[0\]: state 0 takes one of .*; got 'up_conv'"),
    ((*DOWN[:2], ("max_pool", 2), DOWN[3]), r"genotype\.down\[2\]: state 2 takes one of identity, .*; got 'max_pool'"),
    ((DOWN[0], ("identity", 2)), r"genotype\.down\[1\]: node 0 reads states 0 to 1, got 2"),
    ((DOWN[0], ("max_pool", -1)), r"genotype\.down\[1\]: node 0 reads states 0 to 1, got -1"),
    ((DOWN[0], ("max_pool", True)), r"genotype\.down\[1\]: .* got True"),
    ((DOWN[0], ("max_pool", 1.0)), r"genotype\.down\[1\]: .* got 1\.0"),
    ((DOWN[0], ("max_pool", 0)), r"genotype\.down\[1\]: node 0 reads state 0 twice"),
    ((DOWN[0],), r"genotype\.down must be a list of rows .*two a node"),
    ((), r"genotype\.down must be a list of rows"),
    ("down_conv", r"genotype\.down must be a list of rows .*got 'down_conv'"),
    (None, r"genotype\.down must be a list of rows .*got None"),
    ((DOWN[0], ("max_pool",)), r"genotype\.down\[1\] must be \(operation, state\), got \('max_pool',\)"),
    ((DOWN[0], (1, "max_pool")), r"genotype\.down\[1\] must be \(operation, state\)"),
    (DOWN[:2], r"as many rows in both cells, got 2 in down and 4 in up"),
  ],
)
def test_wrong_rows(rows, message):
  with pytest.raises(InputError, match=message):
    Genotype(down=rows, up=UP)


class TestJson:
  def test_is_readable(self):
    assert json.loads(TWO.to_json()) == {
      "format": "nas3d_jax.genotype", "version": 1, "nodes": 2,
      "down": [list(row) for row in DOWN], "up": [list(row) for row in UP],
    }  # fmt: skip
    assert '    ["down_conv", 0],\n' in TWO.to_json()
    assert TWO.to_json().endswith("\n")

  def test_round_trip_keeps_the_order(self):
    again = Genotype.from_json(TWO.to_json())
    assert (again.down, again.up) == (DOWN, UP)

  @pytest.mark.parametrize(
    ("change", "message"),
    [
      ({"format": "other"}, r'an object with "format": "nas3d_jax\.genotype"'),
      ({"version": 2}, r"genotype has version 2, this library reads version 1"),
      ({"version": None}, r"genotype has version None"),
      ({"version": True}, r"genotype has version True"),
      ({"nodes": 3}, r"genotype says nodes=3 but has rows for 2 nodes"),
      ({"nodes": "2"}, r"genotype says nodes='2'"),
      ({"nodes": 2.0}, r"genotype says nodes=2\.0"),
      ({"up": ...}, r"genotype JSON lacks the fields \['up'\]"),
      ({"cell": 1}, r"genotype JSON has unknown fields \['cell'\]; remove them"),
      ({"down": {}}, r"genotype\.down must be a list of rows"),
      ({"down": [["max_pool", 0], ["max_pool", 1], ["conv", 3], ["conv", 2]]}, r"\[2\]: node 1 reads states 0 to 2"),
    ],
  )
  def test_every_field_is_checked(self, change, message):
    fields = {**json.loads(TWO.to_json()), **change}
    text = json.dumps({name: value for name, value in fields.items() if value is not ...})
    with pytest.raises(InputError, match=message):
      Genotype.from_json(text)

  @pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, "1" * 5000, b"\xff", TWO.to_json()[:-3]])
  def test_no_json(self, text):
    with pytest.raises(InputError, match=r"genotype (is not valid JSON|JSON must be an object)"):
      Genotype.from_json(text)


NAMES = st.sampled_from([*CANDIDATES["down"], *CANDIDATES["up"], "x"])
ANY = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
  lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
  max_leaves=8,
)


@hypothesis.given(field=st.sampled_from(["format", "version", "nodes", "down", "up", "more"]), value=ANY)
@hypothesis.settings(deadline=None)
def test_from_json_raises_nothing_else(field, value):
  fields = {**json.loads(TWO.to_json()), field: value}
  try:
    genotype = Genotype.from_json(json.dumps(fields))
  except InputError:
    return
  assert json.loads(genotype.to_json()) == fields


@hypothesis.given(text=st.text(max_size=30) | ANY.map(json.dumps))
def test_from_json_of_any_text_raises_nothing_else(text):
  with pytest.raises(InputError):
    Genotype.from_json(text)


@st.composite
def genotypes(draw):
  cells = {}
  nodes = draw(st.integers(1, 4))
  for cell in ("down", "up"):
    rows = []
    for node in range(nodes):
      for state in draw(st.permutations(range(node + 2)))[:2]:
        rows.append((draw(st.sampled_from(CANDIDATES[direction_of(cell, state)])), state))
    cells[cell] = tuple(rows)
  return Genotype(**cells)


@hypothesis.given(genotype=genotypes())
def test_any_genotype_survives_json(genotype):
  again = Genotype.from_json(genotype.to_json())
  assert (again.down, again.up) == (genotype.down, genotype.up)
  swapped = Genotype(
    down=tuple(genotype.down[row ^ 1] for row in range(len(genotype.down))),
    up=tuple(genotype.up[row ^ 1] for row in range(len(genotype.up))),
  )
  assert swapped == genotype
  assert hash(swapped) == hash(genotype)
