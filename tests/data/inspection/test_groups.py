"""What is alike is said once, with the spans of its amounts, and no table is longer than it helps."""

import pytest
from rich.console import Console

from nas3d_jax.data.inspection.examine_case import Finding
from nas3d_jax.data.inspection.groups import alike, common_text
from nas3d_jax.data.inspection.inspect_cases import inspect_cases
from nas3d_jax.data.inspection.table import findings_table, render
from nas3d_jax.schema.schema import Modality, Region, Schema


def findings(*reasons, kind="files", severity="warning"):
  return [Finding(f"P_{i}", severity, kind, reason, "do") for i, reason in enumerate(reasons)]


@pytest.mark.parametrize(
  ("reasons", "text"),
  [
    (["median 63 instead of 82 to 3077", "median 5.5 instead of 82 to 3077"], "median 5.5 to 63 instead of 82 to 3077"),
    (["no image P_0_t1.nii.gz in a/P_0", "no image P_1_t1.nii.gz in a/P_1"], "no image <case>_t1.nii.gz in a/<case>"),
    (["in t1: -3.2, 2% of it", "in t1: -10.5, 0.5% of it"], "in t1: -10.5 to -3.2, 0.5% to 2% of it"),
    (["at (-3, 23) mm", "at (1e-05, 23) mm"], "at (-3 to 1e-05, 23) mm"),
    (["1 x 1 x 2 mm", "1 x 1 x 2 mm"], "1 x 1 x 2 mm"),
  ],
)
def test_alike(reasons, text):
  (group,) = alike(findings(*reasons))
  assert common_text(group) == text


@pytest.mark.parametrize(
  "reasons",
  [
    ["t1 is strange", "t2 is strange"],
    ["it is GLI-00001-000", "it is GLI-00002-000"],
    ["it is BraTS19_7.nii.gz", "it is BraTS19_8.nii.gz"],
    ["far lower: 3", "far higher: 3"],
  ],
)
def test_names_are_no_amounts(reasons):
  assert len(alike(findings(*reasons))) == 2


def test_labels_are_names_and_their_voxels_amounts():
  reasons = [f"{text}, not (0, 1)" for text in ("5 voxels with labels (3, 7)", "8 voxels with labels (3, 7)", "8 (3)")]
  first, second = alike(findings(*reasons, kind="labels"))
  assert common_text(first) == "5 to 8 voxels with labels (3, 7), not (0, 1)"
  assert len(second) == 1


def test_a_case_that_is_called_as_an_amount_is():
  found = [Finding(name, "warning", "shape", f"shape {name} x 24 in {name}.nii.gz", "do") for name in ("24", "30")]
  (group,) = alike(found)
  assert common_text(group) == "shape 24 to 30 x 24 in <case>.nii.gz"


def test_what_differs_in_every_case_has_few_rows():
  names = ["".join(chr(97 + int(digit)) for digit in f"{i:03d}") for i in range(200)]
  table = findings_table(findings(*(f"odd thing {name}" for name in names)) + findings("one", severity="error"))
  assert table.row_count == 12
  console = Console(width=100, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
  console.print(table)
  text = " ".join(console.export_text().split())
  assert "190 more warning files: P_10, P_11, P_12, ...; --json=FILE writes them all" in text
  # One row that is left is shown.
  assert findings_table(findings(*(f"odd thing {name}" for name in names[:11]))).row_count == 11


def test_a_real_data_set_in_two_units_has_a_line_a_unit(shared):
  schema = Schema(
    "hippocampus", (Modality("t1", ("MRI",)),), ((0, "background"), (1, "anterior"), (2, "posterior")),
    (Region("anterior", (1,), 1), Region("posterior", (2,), 2)), layout="decathlon",
  )
  inspection = inspect_cases(shared / "real" / "Task04_Hippocampus", schema=schema)
  console = Console(width=250, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
  console.print(render(inspection))
  text = console.export_text()
  rows = [" ".join(line.split()) for line in text.splitlines() if line.startswith((" 48 cases", " 28 cases"))]
  assert rows[0].startswith(
    "48 cases warning hippocampus_001, hippocampus_033, hippocampus_034, ...: intensities of t1 are far lower than "
    "those of the other cases: median 49 to 76 instead of 82 to 3077"
  )
  assert rows[1].startswith("28 cases warning hippocampus_044, hippocampus_136, hippocampus_138, ...: intens")
  assert "far higher than" in rows[1]
  assert len(text.splitlines()) < 20
