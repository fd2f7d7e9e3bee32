"""What a supernet says of genotypes beside what training gave."""

import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.report.supernet_section import ranking, ranking_figure, ranking_table, read_losses
from tests.report.test_control_contents import runs

_RUNS = runs([0.6, 0.7], [0.5, 0.52])
_LOSSES = {"searched/0": 0.3, "searched/1": 0.2, "random/0": 0.5, "random/1": 0.4, "random/7": 0.1}


def test_genotypes_that_were_trained_are_ranked():
  # Seeds add 0.02 and cases 0.01: 0.02 on average. random/7 was not trained.
  assert ranking(_LOSSES, _RUNS) == {
    "searched/0": (0.3, pytest.approx(0.62)),
    "searched/1": (0.2, pytest.approx(0.72)),
    "random/0": (0.5, pytest.approx(0.52)),
    "random/1": (0.4, pytest.approx(0.54)),
  }


@pytest.mark.parametrize(("sign", "expected"), [(1, "+1.00"), (-1, "-1.00")])
def test_a_low_loss_is_a_high_rank(sign, expected):
  pairs = ranking({name: sign * loss for name, loss in _LOSSES.items()}, _RUNS)
  table = ranking_table({"0": pairs}, 0)
  assert table.rows[0][:2] == ("0", "4")
  assert all(cell.startswith(expected) for cell in table.rows[0][2:])
  axes = ranking_figure({"0": pairs, "1": pairs}).axes
  assert [len(line.get_xdata()) for line in axes[1].lines] == [2, 2]


def test_damaged_losses(tmp_path):
  (tmp_path / "control" / "supernet").mkdir(parents=True)
  (tmp_path / "control" / "supernet" / "0.json").write_text('{"losses": {"searched/0": "low"}}')
  with pytest.raises(InputError, match=r"0\.json is damaged: losses must be numbers, got .*; remove it"):
    read_losses(tmp_path)
