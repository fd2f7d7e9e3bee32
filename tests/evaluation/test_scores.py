"""Scores: their files, read back and by other tools, and their table."""

import csv
import json
import re

import pytest
from rich.console import Console

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation import metrics
from nas3d_jax.evaluation.scores import Scores, summary_table
from nas3d_jax.files.run_layout import SCORES_CSV, SCORES_JSON
from nas3d_jax.schema.builtin import BRATS2019

REST = ["0.250000", "374.000000", "0.750000", "1.500000", "2.000000"]


def values(dice, distance):
  return dict(zip(metrics.METRICS, (dice, 0.5, 1.0, distance, 0.25, 374.0, 0.75, 1.5, 2.0), strict=True))


def case(dice, distance):
  return {region: values(dice, distance) for region in ("WT", "TC", "ET")}


@pytest.fixture
def scores():
  sums = {"prediction": "a" * 64, "truth": "b" * 64}
  cases = {"one, odd": case(1 / 3, 2.0), "two": case(1.0, 0.0), "z": case(0.0, 373.13)}
  return Scores(BRATS2019, cases, {name: sums for name in cases}, tolerance=2.0)


def test_summary_by_hand(scores):
  assert list(scores.summary) == ["WT", "TC", "ET"]
  distance = scores.summary["TC"]["hausdorff95"]
  # 0, 2, 373.13: the quartiles lie half way between neighbours.
  assert distance["count"] == 3
  assert [distance[s] for s in ("min", "q25", "median", "q75", "max")] == pytest.approx(
    [0, 1, 2, 187.565, 373.13]
  )
  assert distance["mean"] == pytest.approx(375.13 / 3)
  assert scores.summary["ET"]["dice"]["std"] == pytest.approx((14 / 81) ** 0.5)


def test_csv_is_one_row_per_case_and_region(scores, tmp_path):
  scores.write(tmp_path)
  with open(tmp_path / SCORES_CSV, newline="", encoding="utf-8") as file:
    header, *rows = csv.reader(file)
  assert header[:6] == ["case", "region", "dice", "sensitivity", "specificity", "hausdorff95"]
  assert header[6:] == ["lesion_dice", "lesion_hausdorff95", "surface_dice", "truth_ml", "prediction_ml"]
  assert len(rows) == 9
  assert rows[1] == ["one, odd", "TC", "0.333333", "0.500000", "1.000000", "2.000000", *REST]
  assert rows[8] == ["z", "ET", "0.000000", "0.500000", "1.000000", "373.130000", *REST]


def test_json_says_what_it_holds(scores, tmp_path):
  scores.write(tmp_path / "new" / "folder")
  content = json.loads((tmp_path / "new" / "folder" / SCORES_JSON).read_text())
  assert content["conventions"] == metrics.CONVENTIONS
  assert content["tolerance"] == 2
  assert content["schema"] == BRATS2019.to_dict()
  assert content["cases"]["one, odd"]["scores"]["WT"]["dice"] == 1 / 3
  assert content["cases"]["z"]["checksums"] == {"prediction": "a" * 64, "truth": "b" * 64}
  assert content["summary"]["WT"]["dice"]["median"] == 1 / 3
  assert {"python", "numpy", "scipy"} <= set(content["versions"])


def test_files_are_replaced_whole(scores, tmp_path):
  (tmp_path / SCORES_CSV).write_text("old")
  scores.write(tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == [SCORES_CSV, SCORES_JSON]
  assert "old" not in (tmp_path / SCORES_CSV).read_text()


def test_load_gives_back_what_was_written(scores, tmp_path):
  scores.write(tmp_path)
  assert Scores.load(tmp_path) == scores


def drop(*path):
  def change(content):
    for key in path[:-1]:
      content = content[key]
    del content[path[-1]]

  return change


def put(value, *path):
  def change(content):
    for key in path[:-1]:
      content = content[key]
    content[path[-1]] = value

  return change


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (put("other", "format"), "format nas3d_jax.scores version 2"),
    (put(1, "version"), "version 2, got .*1.*; evaluate with overwrite .version 1 had the paper's four"),
    (put(-1, "tolerance"), "damaged: tolerance must be"),
    (drop("tolerance"), "damaged: tolerance must be"),
    (drop("schema"), "damaged: schema"),
    (put({}, "cases"), "damaged: it has no cases"),
    (put([], "cases", "z"), "case 'z' must have the fields"),
    (drop("cases", "z", "checksums"), "case 'z' must have the fields"),
    (drop("cases", "z", "checksums", "truth"), "checksums of case 'z'"),
    (put("ab", "cases", "z", "checksums", "truth"), "checksums of case 'z' are no SHA-256"),
    (drop("cases", "z", "scores", "TC"), "scores of case 'z' must be of WT, TC, ET"),
    (drop("cases", "z", "scores", "TC", "dice"), "scores of case 'z' must be numbers"),
    (put("1", "cases", "z", "scores", "TC", "dice"), "scores of case 'z' must be numbers"),
    (put(float("nan"), "cases", "z", "scores", "ET", "dice"), "a number in it is not finite"),
  ],
)
def test_load_checks_every_field(scores, tmp_path, change, message):
  content = json.loads(json.dumps(scores.to_dict()))
  change(content)
  (tmp_path / SCORES_JSON).write_text(json.dumps(content))
  with pytest.raises(InputError, match=message):
    Scores.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff"])
def test_load_of_another_file(tmp_path, text):
  (tmp_path / SCORES_JSON).write_bytes(text.encode("latin-1"))
  with pytest.raises(InputError, match=f"{SCORES_JSON}.*overwrite"):
    Scores.load(tmp_path)


def test_load_of_nothing(tmp_path):
  with pytest.raises(InputError, match=f"{SCORES_JSON} is missing"):
    Scores.load(tmp_path)


def test_table_shows_the_summary_and_the_conventions(scores):
  console = Console(width=120)
  with console.capture() as capture:
    console.print(summary_table(scores))
  text = capture.get()
  assert "Scores of 3 cases, surface Dice at 2 mm" in text
  assert re.search(r"WT\W+dice\W+0\.4444\W+0\.4157\W+0\.0000", text)
  assert re.search(r"hausdorff95 \(mm\)\W+125\.04", text)
  assert text.count(" hausdorff95 (mm)") == text.count("lesion_hausdorff95 (mm)") == 3
  assert text.count("truth_ml (ml)") == 3
  assert "distance 373.13" in " ".join(text.split())
