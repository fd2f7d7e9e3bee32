"""Tables of the report, and what is read for them, against what was worked out by hand; an empty region."""

import csv
import io
import json
import shutil

import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.evaluation import metrics
from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.genotype_statistics import row_overlap
from nas3d_jax.report import result_tables, score_figures
from nas3d_jax.report.run_contents import History, Material
from nas3d_jax.report.table import latex, make_table
from nas3d_jax.schema.builtin import BRATS2019


class TestTable:
  table = make_table(
    "t", "50% of a_b & c", ("case", "x (mm)"), [("<a>", "1.5"), ('b "q", c', "2 ± 1")], links={"<a>": "#case-1"}
  )

  def test_csv_is_read_back(self):
    rows = list(csv.reader(io.StringIO(self.table.to_csv())))
    assert rows == [["case", "x (mm)"], ["<a>", "1.5"], ['b "q", c', "2 ± 1"]]

  def test_latex_escapes_what_is_latexs_own(self):
    text = self.table.to_latex()
    assert r"\caption{50\% of a\_b \& c}" in text
    assert r"\begin{tabular}{lr}" in text
    assert 'b "q", c & 2 $\\pm$ 1 \\\\' in text
    assert latex("p ≥ 0.1, 8³") == r"p $\geq$ 0.1, 8$^3$"
    assert latex(r"a\b^~{$#}") == r"a\textbackslash{}b\textasciicircum{}\textasciitilde{}\{\$\#\}"

  def test_html_escapes_and_links(self):
    text = self.table.to_html()
    assert '<td><a href="#case-1">&lt;a&gt;</a></td><td class="number">1.5</td>' in text
    assert "<a>" not in text

  def test_files(self, tmp_path):
    self.table.write(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["t.csv", "t.tex"]


def test_agreement_of_genotypes_by_hand():
  one = Genotype((("max_pool", 0), ("down_conv", 1)), (("conv", 0), ("up_conv", 1)))
  other = Genotype((("down_conv", 1), ("avg_pool", 0)), (("conv", 0), ("up_conv", 1)))
  assert row_overlap(one, one) == 1
  assert row_overlap(one, other) == 3 / 4  # the order of rows does not count
  two_nodes = Genotype((*one.down, ("conv", 2), ("max_pool", 0)), (*one.up, ("conv", 2), ("conv", 0)))
  assert row_overlap(one, two_nodes) == 0


def scores_of(et_dice, et_ml):
  """Three cases; in the last one the innermost region is empty in the truth."""
  perfect = dict(zip(metrics.METRICS, (0.8, 0.9, 1.0, 2.0, 0.7, 3.0, 0.6, 4.0, 5.0), strict=True))
  empty = dict(zip(metrics.METRICS, (*(1.0,) * 3, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0), strict=True))
  false = dict(zip(metrics.METRICS, (0.0, 0.0, 0.9, 373.13, 0.0, 374.0, 0.0, 0.0, et_ml), strict=True))
  last = empty if et_dice else false
  cases = {"a": [perfect] * 3, "b": [{**perfect, "dice": 0.6}] * 3, "low": [perfect, perfect, last]}
  regions = {name: dict(zip(BRATS2019.region_names, rows, strict=True)) for name, rows in cases.items()}
  return Scores(BRATS2019, regions, {name: {"prediction": "a" * 64, "truth": "b" * 64} for name in cases})


@pytest.fixture
def material(phantom_dataset):
  keys = {("searched", "test"): scores_of(1, 0.0), ("unet3d", "test"): scores_of(0, 0.3)}
  nothing = dict(search=None, seeds={}, nested={}, trainings={}, portal={}, costs={}, experiment={})
  return Material(phantom_dataset.folder.parent, phantom_dataset, scores=keys, **nothing)


def test_an_empty_region_in_every_table(material):
  table = result_tables.cases_table(material, "test", {})
  row = dict(zip(table.header, table.rows[2], strict=True))
  assert row["truth ET (ml)"] == "none"
  assert row["truth TC (ml)"] == "4.00"
  assert row["searched network, dice"] == "0.800 / 0.800 / 1.000"
  assert row["searched network, hausdorff95 (mm)"] == "2.00 / 2.00 / 0.00"
  assert row["3D U-Net, dice"] == "0.800 / 0.800 / 0.000"
  assert row["3D U-Net, hausdorff95 (mm)"] == "2.00 / 2.00 / 373.13"
  rows = {r[0:2]: r for r in result_tables.scores_table(material, "t", "test", "").rows}
  assert rows["dice", "searched network"][-2] == "0.800 ± 0.163"  # of 0.8, 0.6 and 1
  assert rows["lesion_hausdorff95 (mm)", "3D U-Net"][-1] == "3.00 (3.00–188.50)"
  assert rows["truth_ml (ml)", "3D U-Net"][-2] == "2.67 ± 1.89"  # of 4, 4 and 0
  differences = result_tables.paired_differences(material, seed=0, samples=50)
  found = differences["test", "ET", "dice"]
  assert (found.count, found.differing, found.mean) == (3, 1, pytest.approx(1 / 3))
  assert differences["test", "ET", "hausdorff95"].mean == pytest.approx(-373.13 / 3)
  assert differences["test", "WT", "dice"].differing == 0
  assert not any(key[2].endswith("_ml") for key in differences)


def test_an_empty_region_in_the_plots(material):
  figure = score_figures.boxes_figure(material, ("dice", "hausdorff95"))
  dice, distance = figure.axes
  # The diamonds are the means, WT, TC and ET of one network, then of the other.
  means = [[line.get_ydata()[0] for line in axes.lines if line.get_marker() == "D"] for axes in (dice, distance)]
  assert means[0] == pytest.approx([2.2 / 3, 2.2 / 3, 0.8, 2.2 / 3, 2.2 / 3, 1.4 / 3])
  assert means[1] == pytest.approx([2, 2, 4 / 3, 2, 2, 377.13 / 3])
  assert distance.get_ylim()[1] > 374
  volumes_of_et = score_figures.volumes_figure(material).axes[2].lines
  points = [list(zip(*line.get_data(), strict=True)) for line in volumes_of_et[:2]]
  assert points == [[(4, 5), (4, 5), (0, 0)], [(4, 5), (4, 5), (0, 0.3)]]


@pytest.mark.parametrize(("change", "message"), [
  ({"parameters": None}, "–"), ({"parameters": 12345}, "12,345"), ({"peak_bytes": 3 * 2**29}, "1.5"),
  ({"flops": 582680.0}, "0.000583"), ({"step_ms": 1234.5}, "1,234"),
])
def test_costs(material, change, message):
  cost = {"parameters": 1, "flops": 2e9, "patch_size": 8, "peak_bytes": None, "step_ms": 1.0, "case_s": 2.0}
  material.costs["unet3d"] = {**cost, **change, "device": "x"}
  table = result_tables.costs_table(material)
  (row,) = table.rows
  assert message in row
  assert dict(zip(table.header, row, strict=True))["Dice ET"] == "0.4667"


class TestHistory:
  def test_a_line_that_is_being_written_is_left_out(self, searched, tmp_path):
    shutil.copytree(searched / "search", tmp_path / "search", ignore=shutil.ignore_patterns("checkpoints"))
    with (tmp_path / "search" / "metrics.jsonl").open("a") as file:
      file.write('{"epoch": 4, "hy')
    history = History.read(tmp_path / "search", "search")
    assert history.column("epoch") == [1, 2, 3]
    assert history.genotype is not None
    with (tmp_path / "search" / "metrics.jsonl").open("a") as file:
      file.write("\n")
    with pytest.raises(InputError, match=r"metrics.jsonl is damaged"):
      History.read(tmp_path / "search", "search")

  def test_nothing_and_something_else(self, tmp_path):
    assert History.read(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"settings": 1}))
    with pytest.raises(InputError, match="is no configuration of a run"):
      History.read(tmp_path)

  @pytest.mark.parametrize(
    ("change", "message"),
    [
      ({"kernel_loss": None}, "kernel_loss is None"),
      ({"kernel_loss": "0.5"}, r"kernel_loss is '0\.5', which it cannot be"),
      ({"hybrid_loss": "low"}, "hybrid_loss is 'low'"),
      ({"entropy": {"down": 1.0}}, "entropy is {'down': 1.0}"),
      ({"genotype": []}, "genotype is \\[\\]"),
      ({"hybrid_weights": {"down": [{}], "up": []}}, "hybrid_weights is "),
      ({"count": ...}, "there is no count"),
      ({"epoch": ...}, "there is no epoch"),
    ],
  )
  def test_a_record_that_cannot_be_drawn_names_file_line_and_key(self, searched, tmp_path, change, message):
    shutil.copytree(searched / "search", tmp_path / "search", ignore=shutil.ignore_patterns("checkpoints"))
    path = tmp_path / "search" / "metrics.jsonl"
    first, second, *others = path.read_text().splitlines()
    record = {name: value for name, value in (json.loads(second) | change).items() if value is not ...}
    path.write_text("\n".join([first, json.dumps(record), *others, ""]))
    with pytest.raises(InputError, match=rf"metrics\.jsonl is damaged: in line 2 {message}.*; run with --overwrite"):
      History.read(tmp_path / "search", "search")

  @pytest.mark.parametrize(
    ("name", "message"), [("min_count", "there is no min_count"), ("kernels", "there is no kernels")]
  )
  def test_a_setting_that_is_missing_is_named(self, searched, tmp_path, name, message):
    shutil.copytree(searched / "search", tmp_path / "search", ignore=shutil.ignore_patterns("checkpoints"))
    path = tmp_path / "search" / "config.json"
    config = json.loads(path.read_text())
    del config["settings"][name]
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json is damaged: in its settings {message}; put back a copy"):
      History.read(tmp_path / "search", "search")
    path.write_text(json.dumps({**config, "settings": {**config["settings"], name: 1}, "sessions": ["cpu"]}))
    with pytest.raises(InputError, match=r"config\.json is damaged: sessions must be objects"):
      History.read(tmp_path / "search", "search")
