"""The report of a run as a whole: what it writes, what it keeps, what it says of what is not there."""

import csv
import json
import shutil
import statistics
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.evaluate import evaluate
from nas3d_jax.report.build import write_report
from nas3d_jax.report.table import latex

NETWORKS = ("searched", "unet3d")


def fake_training(folder, epochs=3):
  """A training's files with made-up numbers: input of the report, no result of anything."""
  folder.mkdir(parents=True)
  sizes = {"kernels": 1, "nodes": 1, "depth": 2, "variant": "paper", "patch_size": 8, "batch_size": 1}
  settings = {"seed": 0, "epochs": epochs, "init_from": None, **sizes}
  device = {"platform": "cpu", "kind": "cpu", "count": 1, "versions": {"jax": "1.2.3"}}
  (folder / "config.json").write_text(json.dumps({"settings": settings, "sessions": [device]}))
  records = [
    {"epoch": e + 1, "step": e, "loss": 0.9**e, "validation_loss": None if folder.name == "all" else 0.95**e,
     "learning_rate": 1e-3, "seconds": 1.0, "patches_per_second": 2.0 + e}
    for e in range(epochs)
  ]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def predict(data, out, shift):
  """The truth of each case, moved by some voxels, as its prediction."""
  out.mkdir(parents=True, exist_ok=True)
  for path in data.glob("*/*/*_seg.nii.gz"):
    volume = nib.load(path)
    moved = np.roll(np.asanyarray(volume.dataobj), shift, 0)
    nib.save(nib.Nifti1Image(moved, volume.affine, volume.header), out / path.name.replace("_seg", ""))


@pytest.fixture(scope="module")
def run(tmp_path_factory, searched, phantom_dataset):
  """A run with a search, trainings, and scores of both networks on the cases of the data set."""
  folder = tmp_path_factory.mktemp("report") / "run"
  shutil.copytree(searched, folder, ignore=shutil.ignore_patterns("checkpoints"))
  for other in ("seeds/1/search", "nested/0/search"):
    shutil.copytree(searched / "search", folder / other, ignore=shutil.ignore_patterns("checkpoints"))
  data = phantom_dataset.folder.parent / "data"
  for network, name in (("searched", "train"), ("unet3d", "unet3d")):
    for fold in ("0", "all"):
      fake_training(folder / name / fold)
    for split, shift in (("training", 1), ("cross_validation", 1 + NETWORKS.index(network))):
      predict(data, folder / "predictions" / network / split, shift)
      evaluate(folder / "predictions" / network / split, data, folder / "scores" / network / split, workers=1)
  costs = {"parameters": 1234, "flops": 2.5e9, "patch_size": 8, "peak_bytes": 2**29, "step_ms": 3.5, "case_s": None}
  (folder / "costs.json").write_text(json.dumps({network: {**costs, "device": "1 x cpu"} for network in NETWORKS}))
  return folder


class Links(HTMLParser):
  """Addresses, ids and pictures of a page."""

  def __init__(self, text):
    super().__init__()
    self.addresses, self.ids, self.pictures, self.scripts = [], [], 0, 0
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.addresses += [attrs[name] for name in ("src", "href", "data", "srcset") if name in attrs]
    self.ids += [attrs["id"]] if "id" in attrs else []
    self.pictures += tag == "img"
    self.scripts += tag == "script"
    assert tag != "img" or attrs["alt"]


@pytest.fixture(scope="module")
def page(run):
  return write_report(run)


def test_the_page_asks_for_nothing_and_its_links_lead_somewhere(page):
  text = page.read_text("utf-8")
  links = Links(text)
  outside = [address for address in links.addresses if not address.startswith(("#", "data:"))]
  assert not outside
  assert links.scripts == 0
  assert len(set(links.ids)) == len(links.ids)
  assert {a[1:] for a in links.addresses if a.startswith("#")} <= set(links.ids)
  assert "url(" not in text
  assert "<code>experiment --nested</code>" in text and "`" not in text
  # 12 sections, a link to each, and a picture of each of 4 cases in 2 splits.
  assert sum(a.startswith("#section-") for a in links.addresses) == 12
  assert sum(a.startswith("#case-") for a in links.addresses) == 8


def test_every_figure_is_there_as_png_and_pdf(page):
  figures = page.parent / "figures"
  made = json.loads((figures / "made.json").read_text())
  wanted = "fig1_modalities fig2_patches fig3_backbone fig4_hybrid_modules fig5_search_cells fig6_searched_cells "
  wanted += "fig7_history fig8_cross_validation fig9_boxes boxes_more volumes differences entropy weights_down "
  wanted += "weights_up trainings rates"
  cases = [f"cases/{s}/Phantom_000{i}" for s in ("training", "cross_validation") for i in (1, 2, 3, 4)]
  assert set(made) == {*wanted.split(), *cases}
  for name in made:
    assert (figures / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(figures / f"{name}.png") as picture:
      assert picture.width == 1080
      assert np.asarray(picture.convert("L")).std() > 5  # something is drawn
  assert Links(page.read_text("utf-8")).pictures == len(made)
  assert not list(figures.rglob(".*"))


def test_tables_hold_the_scores(run, page):
  tables = page.parent / "tables"
  with open(run / "scores" / "unet3d" / "cross_validation" / "scores.csv", newline="") as file:
    dice = [float(row["dice"]) for row in csv.DictReader(file) if row["region"] == "TC"]
  with open(tables / "cross_validation.csv", newline="") as file:
    rows = {(row["metric"], row["network"]): row for row in csv.DictReader(file)}
  expected = f"{statistics.fmean(dice):.3f} ± {statistics.pstdev(dice):.3f}"
  assert rows["dice", "3D U-Net"]["TC, mean ± std"] == expected
  assert rows["dice", "3D U-Net"]["cases"] == "4"
  assert len(rows) == 18
  text = (tables / "cross_validation.tex").read_text()
  assert latex(expected) in text
  assert text.count(r"\\") == 19
  assert {path.stem for path in tables.glob("*.tex")} == {path.stem for path in tables.glob("*.csv")}


def test_differences_are_paired_by_case(run, page):
  dice = {}
  for network in NETWORKS:
    with open(run / "scores" / network / "cross_validation" / "scores.csv", newline="") as file:
      dice[network] = {row["case"]: float(row["dice"]) for row in csv.DictReader(file) if row["region"] == "WT"}
  with open(page.parent / "tables" / "differences.csv", newline="") as file:
    rows = {(r["split"], r["metric"], r["region"]): r for r in csv.DictReader(file)}
  found = rows["cross-validation", "dice", "WT"]
  expected = [dice["searched"][case] - dice["unet3d"][case] for case in dice["unet3d"]]
  assert float(found["mean"]) == pytest.approx(statistics.fmean(expected), abs=1e-4)
  # One voxel off is better than two in every case: the least p of four cases.
  assert (found["p"], found["how p was found"]) == ("0.12", "exact; 4 differ: p ≥ 0.125")
  assert (rows["training", "dice", "WT"]["p"], rows["training", "dice", "WT"]["differing"]) == ("–", "0")


def test_searches_of_other_seeds_and_folds_are_compared(run, page):
  with open(page.parent / "tables" / "genotypes.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["search"] for row in rows] == ["seed 0", "seed 1", "nested, fold 0"]
  assert [row["agreement"] for row in rows] == ["–", "100%", "100%"]
  genotype = json.loads((run / "search" / "genotype.json").read_text())
  pools = sum(name.endswith("pool") for name, _ in genotype["down"] + genotype["up"])
  assert {row["pool"] for row in rows} == {str(pools)}


def test_what_is_said_of_the_choice_of_the_genotype(page):
  text = page.read_text("utf-8")
  assert "searched on cases that later serve as test folds" in text
  assert "experiment --nested" in text


def stamps(page):
  return {path: path.stat().st_mtime_ns for path in (page.parent / "figures").rglob("*.p*")}


class TestAgain:
  """On a copy of the report, so that the tests do not depend on each other."""

  @pytest.fixture
  def copy(self, run, page, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"

  def test_figures_are_kept(self, copy):
    page = copy / "report" / "index.html"
    before = stamps(page)
    first = write_report(copy).read_text("utf-8")
    assert stamps(page) == before
    assert write_report(copy) == page
    assert page.read_text("utf-8") == first

  def test_only_what_changed_is_drawn_and_what_is_gone_removed(self, copy):
    page = copy / "report" / "index.html"
    before = stamps(page)
    fake_training(copy / "train" / "1")
    shutil.rmtree(copy / "scores" / "unet3d" / "training")
    shutil.rmtree(copy / "scores" / "searched" / "training")
    write_report(copy)
    after = stamps(page)
    drawn = {path.stem for path, stamp in after.items() if before.get(path) != stamp}
    assert drawn == {"trainings", "rates", "fig9_boxes", "boxes_more", "volumes", "differences"}
    assert not list((copy / "report" / "figures" / "cases" / "training").iterdir())

  def test_a_record_of_figures_removes_nothing_elsewhere(self, copy):
    figures = copy / "report" / "figures"
    record = json.loads((figures / "made.json").read_text())
    (figures / "made.json").write_text(json.dumps({**record, "../../mine": "x", "gone": "x"}))
    for path in (copy / "mine.png", figures / "gone.png"):
      path.touch()
    write_report(copy)
    assert (copy / "mine.png").exists()
    assert not (figures / "gone.png").exists()

  def test_a_report_of_a_portals_table(self, copy, tmp_path):
    names = [f"{m}_{r}" for m in ("Dice", "Sensitivity", "Specificity", "Hausdorff95") for r in ("ET", "WT", "TC")]
    rows = [["Label", *names], ["A", *["0.5"] * 12], ["B", *["0.7"] * 12], ["Mean", *["9"] * 12]]
    (tmp_path / "portal.csv").write_text("\n".join(",".join(row) for row in rows))
    page = write_report(copy, portal_csv=[f"searched/test={tmp_path / 'portal.csv'}"])
    with open(page.parent / "tables" / "table4_test.csv", newline="") as file:
      rows = list(csv.DictReader(file))
    assert [row["metric"] for row in rows] == ["dice", "sensitivity", "specificity", "hausdorff95 (mm)"]
    assert rows[0]["WT, mean ± std"] == "0.600 ± 0.100"
    assert "From a challenge&#x27;s portal: searched." in page.read_text("utf-8")
    for text, message in (
      (f"other={tmp_path}", "portal_csv must be of searched or unet3d"),
      (f"searched/training={tmp_path / 'portal.csv'}", "and of test or ensemble"),
      (f"unet3d/test={tmp_path / 'none.csv'}", "cannot be read"),
    ):
      with pytest.raises(InputError, match=message):
        write_report(copy, portal_csv=[text])

  def test_a_prediction_of_another_shape(self, copy):
    path = copy / "predictions" / "searched" / "cross_validation" / "Phantom_0002.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), path)
    (copy / "report" / "figures" / "cases" / "cross_validation" / "Phantom_0002.png").unlink()
    with pytest.raises(InputError, match=r"Phantom_0002.nii.gz has shape \(4, 5, 6\).*\(24, 24, 24\); predict"):
      write_report(copy)

  def test_networks_scored_on_other_cases(self, copy, phantom_dataset):
    split = "cross_validation"
    scores = copy / "scores" / "unet3d" / split
    data = phantom_dataset.folder.parent / "data"
    evaluate(copy / "predictions" / "unet3d" / split, data, scores, cases=["Phantom_0001"], overwrite=True)
    with pytest.raises(InputError, match=r"scored on other cases in .*cross_validation.*: Phantom_0002, .*evaluate"):
      write_report(copy)

  def test_a_case_of_the_same_name_but_another_truth_has_no_picture(self, copy, phantom_dataset):
    """Made-up cases of two seeds bear the same names: the picture of one must not stand for the other."""
    data = phantom_dataset.folder.parent / "data"
    out = copy / "predictions" / "searched" / "test"
    predict(data, out, 1)
    some = ["Phantom_0002", "Phantom_0003"]
    evaluate(out, data, copy / "scores" / "searched" / "test", cases=some, workers=1)
    file = copy / "scores" / "searched" / "test" / "scores.json"
    content = json.loads(file.read_text())
    content["cases"]["Phantom_0003"]["checksums"]["truth"] = "0" * 64
    file.write_text(json.dumps(content))
    text = write_report(copy).read_text("utf-8")
    assert 'id="case-test-Phantom_0002"' in text
    assert 'id="case-test-Phantom_0003"' not in text
    assert "1 cases have no picture" in text
    text = write_report(copy, test_dir=data).read_text("utf-8")
    assert 'id="case-test-Phantom_0003"' in text


def test_a_run_with_a_data_set_alone_says_what_makes_the_rest(workdir):
  page = write_report(workdir)
  text = page.read_text("utf-8")
  for stage in ("search", "train", "experiment"):
    assert f"python -m launch {stage} --workdir={workdir}" in text
  assert {path.stem for path in (page.parent / "figures").glob("*.png")} == {"fig1_modalities"}
  assert Dataset.open(workdir / "dataset").fingerprint in text


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_an_empty_run_is_refused(tmp_path, make):
  make(tmp_path / "run")
  with pytest.raises(InputError, match=r"manifest.json is missing; run preprocess"):
    write_report(tmp_path / "run")
  assert not (tmp_path / "run" / "report").exists()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"out": "other"}, "holds something else than a report; give another --out"),
    ({"out": "file"}, "out must be a folder"),
    ({"test_dir": "nowhere"}, "test_dir must be a folder of cases"),
    ({"seed": -1}, "seed must be a whole number"),
  ],
)
def test_wrong_arguments(workdir, tmp_path, arguments, message):
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "mine.txt").write_text("mine")
  (tmp_path / "file").write_text("mine")
  arguments = {name: tmp_path / value if isinstance(value, str) else value for name, value in arguments.items()}
  with pytest.raises(InputError, match=message):
    write_report(workdir, **arguments)
  assert (tmp_path / "other" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("size", [12, 60, 68])
def test_a_disk_that_is_full_is_one_message(workdir, make_disk, size):
  """Wherever it is met: in a PNG, a PDF, a table or the page."""
  out = make_disk(f"size={size}k") / "report"
  with pytest.raises(InputError, match=r"report cannot be written to \(No space left on device\); make room"):
    write_report(workdir, out)
  assert not list(out.rglob("*.partial"))
