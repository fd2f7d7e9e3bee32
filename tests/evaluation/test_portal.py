"""The table of a challenge's portal: what is read, what is passed over, what is refused."""

import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.portal import read_portal
from nas3d_jax.schema.builtin import BRATS2019

METRICS = ("Dice", "Sensitivity", "Specificity", "Hausdorff95")
HEADER = ["Label", *(f"{metric}_{region}" for metric in METRICS for region in ("ET", "WT", "TC"))]


def row(name, start):
  return [name, *(str(start + i) for i in range(12))]


@pytest.fixture
def write(tmp_path):
  def write(*rows, header=HEADER):
    path = tmp_path / "portal.csv"
    path.write_text("\n".join(",".join(r) for r in (header, *rows)) + "\n", "utf-8-sig")
    return path

  return write


def test_columns_are_found_by_name_and_statistics_left_out(write):
  path = write(row("b", 20), row("a", 0), row("Mean", 10), row("StdDev", 1), row("Median", 1), row("25quantile", 1))
  got = read_portal(path, BRATS2019)
  assert list(got.cases) == ["a", "b"]
  # The columns run over metrics, then over ET, WT, TC.
  assert got.cases["a"]["ET"] == {"dice": 0, "sensitivity": 3, "specificity": 6, "hausdorff95": 9}
  assert got.cases["a"]["WT"]["dice"] == 1
  assert got.cases["b"]["TC"] == {"dice": 22, "sensitivity": 25, "specificity": 28, "hausdorff95": 31}
  assert got.values("TC", "dice") == [2, 22]


def test_other_columns_are_passed_over_and_empty_fields_are_no_numbers(write):
  fields = row("a", 0)
  fields[10], fields[1] = "NaN", ""
  with pytest.raises(InputError, match=r"Dice_ET of case '5' must be a number"):
    read_portal(write(["x", *fields], ["y", "5", "word", *fields[2:]], header=["extra", *HEADER]), BRATS2019)
  got = read_portal(write(["x", *fields], header=["extra", *HEADER]), BRATS2019)
  assert got.cases["a"]["ET"]["dice"] is got.cases["a"]["ET"]["hausdorff95"] is None
  assert got.values("ET", "dice") == []
  assert got.values("WT", "dice") == [1]


@pytest.mark.parametrize(
  ("rows", "header", "message"),
  [
    ([row("a", 0)], ["Case", *HEADER[1:]], "lacks the columns Label;"),
    ([row("a", 0)], ["Label", "Dice_ET"], "lacks the columns Dice_WT, "),
    ([["a,1,2"]], ["case,region,dice"], "lacks the columns Label, "),
    ([row("a", 0), row("a", 1)], HEADER, "has the case 'a' twice"),
    ([row("Mean", 0)], HEADER, "has no case"),
    ([], HEADER, "lacks the columns"),
    ([["a", "inf", *row("a", 0)[2:]]], HEADER, "Dice_ET of case 'a' must be a number or empty, got 'inf'"),
  ],
)
def test_other_files_are_refused(write, rows, header, message):
  with pytest.raises(InputError, match=f"portal_csv .*{message}"):
    read_portal(write(*rows, header=header), BRATS2019)


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(InputError, match="cannot be read"):
    read_portal(tmp_path / "none.csv", BRATS2019)
