"""Drawings of the report: graphs without overlaps, planes as the radiologist sees them, figures that are kept."""

import itertools
import json

import nibabel as nib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from nas3d_jax.data.cases.detect_schema import find_schema
from nas3d_jax.data.phantom import phantom_case
from nas3d_jax.errors import InputError
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.search_space import CANDIDATES, PAPER_SPACE, direction_of, edge_list
from nas3d_jax.report import case_figures, case_views, cell_figures, network_figures, search_figures
from nas3d_jax.report.gallery import Gallery, label_colours
from nas3d_jax.report.run_contents import History
from nas3d_jax.schema.builtin import BRATS2019, BRATS2023
from tests.support.layouts import save, write_layout


def test_backbone_has_the_papers_numbers():
  down, up = network_figures.backbone(NetworkConfig(), 64)
  assert [(s.channels, s.size) for s in down] == [(12, 64), (12, 32), (24, 16), (48, 8), (96, 4), (192, 2)]
  assert [(s.channels, s.size) for s in up] == [(192, 4), (96, 8), (48, 16), (24, 32), (12, 64)]
  assert str(down[2]) == "downward cell 1\n24 x 16³ = 98,304"
  with pytest.raises(InputError, match="multiple of 32"):
    network_figures.backbone(NetworkConfig(), 48)


def random_genotype(nodes, seed):
  random = np.random.default_rng(seed)
  cells = {}
  for cell in ("down", "up"):
    rows = []
    for node in range(nodes):
      for state in sorted(random.permutation(node + 2)[:2].tolist()):
        rows.append((str(random.choice(CANDIDATES[direction_of(cell, state)])), state))
    cells[cell] = tuple(rows)
  return Genotype(**cells)


def boxes_and_texts(figure):
  """(left, bottom, right, top) in pixels of every box of each axes, and the texts."""
  figure.draw_without_rendering()
  patches = [[patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)] for axes in figure.axes]
  found = [[patch.get_window_extent().extents for patch in own] for own in patches]
  return found, [text.get_text() for axes in figure.axes for text in axes.texts]


def assert_apart(boxes):
  for one, other in itertools.combinations(boxes, 2):
    apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert apart, (one, other)


@pytest.mark.parametrize(("nodes", "seed"), [(1, 0), (2, 1), (3, 2), (3, 3), (4, 4)])
def test_searched_cells_show_every_operation_and_nothing_overlaps(nodes, seed):
  genotype = random_genotype(nodes, seed)
  boxes, texts = boxes_and_texts(cell_figures.searched_cells_figure(genotype))
  for axes_boxes in boxes:
    assert len(axes_boxes) == 2 + 2 * nodes + nodes + 1  # inputs, operations, nodes, the concatenation
    assert_apart(axes_boxes)
  shown = [text for text in texts if text in sum(CANDIDATES.values(), ())]
  assert sorted(shown) == sorted(name for name, _ in genotype.down + genotype.up)


def test_texts_of_cells_fit_their_boxes():
  """The longest name in the smallest cells that are drawn."""
  rows = (("down_dil_conv", 0), ("down_dep_conv", 1))
  for nodes in (1, 3, 4):
    down = rows + (("down_dil_conv", 0), ("dil_conv", 2)) * (nodes - 1)
    up = (("dil_conv", 0), ("up_dil_conv", 1)) * nodes
    figure = cell_figures.searched_cells_figure(Genotype(down, up))
    figure.draw_without_rendering()
    for axes in figure.axes:
      frames = [patch.get_window_extent() for patch in axes.patches]
      for text in axes.texts:
        x0, y0, x1, y1 = text.get_window_extent().extents
        held = any(f.x0 <= x0 and x1 <= f.x1 and f.y0 <= y0 and y1 <= f.y1 for f in frames)
        assert held or text.get_text() == "+", text.get_text()


@pytest.mark.parametrize("nodes", [1, 3])
def test_search_cells_have_a_module_on_every_edge(nodes):
  boxes, texts = boxes_and_texts(cell_figures.search_cells_figure(nodes, PAPER_SPACE))
  edges = len(edge_list(nodes))
  for axes_boxes in boxes:
    assert len(axes_boxes) == 2 + edges + nodes + 1
    assert_apart(axes_boxes)
  # Downward: both inputs of each node are halved; upward: X1 is doubled, all else keeps its size.
  assert texts.count("mix of 6, halves") == 2 * nodes
  assert texts.count("mix of 4, doubles") == nodes
  assert texts.count("mix of 5, same size") == 2 * edges - 3 * nodes


def test_operation_families():
  rows = {"down": [["max_pool", 0], ["down_dil_conv", 1]], "up": [["identity", 0], ["up_dil_conv", 1]]}
  families = cell_figures.families_of(PAPER_SPACE)
  assert dict(zip(families, search_figures.operation_families(rows, families), strict=True)) == {
    "pool": 1, "identity": 1, "se_conv": 0, "dil_conv": 2, "dep_conv": 0, "conv": 0
  }


GENOTYPE = Genotype((("max_pool", 0), ("down_conv", 1)), (("conv", 0), ("up_conv", 1)))


@pytest.mark.parametrize(
  ("epochs", "genotype", "text"),
  [
    (56, GENOTYPE, "stopped after epoch 56: a genotype was counted 40 times"),
    (100, GENOTYPE, "stopped after epoch 100, the last that was allowed"),
    (7, None, "not over yet: 7 of at most 100 epochs"),
  ],
)
def test_why_the_search_stopped(tmp_path, epochs, genotype, text):
  history = History(tmp_path, {"epochs": 100, "min_count": 40}, (), ({"epoch": 1},) * epochs, genotype)
  assert search_figures.stop_reason(history).startswith(text)


@pytest.mark.parametrize(
  ("down", "share"), [((("max_pool", 0), ("avg_pool", 1)), "75%"), ((("max_pool", 0), ("down_conv", 1)), None)]
)
def test_a_search_that_chose_pools_and_identity_is_warned_of(tmp_path, down, share):
  records = [{"genotype": {"down": rows, "up": [["identity", 0], ["up_conv", 1]]}} for rows in (GENOTYPE.down, down)]
  warning = search_figures.collapse(History(tmp_path, {}, (), tuple(records), None))
  assert (warning and warning[:12]) == (share and f"Warning: {share}")


def test_one_epoch_is_seen_at_a_whole_number(tmp_path):
  """As while a run is watched: a line of one point is none."""
  record = {"epoch": 1, "loss": 0.9, "validation_loss": 0.8, "learning_rate": 1e-3, "patches_per_second": 2.0}
  trainings = {("searched", "0"): History(tmp_path, {}, (), (record,), None)}
  search = {name: 0.5 for name in ("hybrid_loss", "kernel_loss", "hybrid_learning_rate", "kernel_learning_rate")}
  search = History(tmp_path, {"epochs": 9, "min_count": 4}, (), ({**record, **search, "count": 1},), None)
  for figure in (
    search_figures.history_figure(search), search_figures.rates_figure(search, trainings),
    search_figures.trainings_figure(trainings),
  ):  # fmt: skip
    for axes in figure.axes:
      curves = [line for line in axes.lines if len(line.get_xdata()) == 1]
      assert curves
      assert all(line.get_marker() == "o" for line in curves)
      low, high = axes.get_xlim()
      assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_labels_have_the_papers_colours():
  colours = label_colours(BRATS2019)
  assert [max(range(3), key=colours[value].__getitem__) for value in (1, 2)] == [0, 2]  # red core, blue oedema
  assert min(colours[4][:2]) > 0.8 > colours[4][2]  # yellow enhancing tumour
  assert set(colours) == {1, 2, 4}


class TestView:
  """A volume whose file runs left, backward and up, as BraTS does, with voxels of 1 x 1 x 2 mm."""

  @pytest.fixture
  def view(self):
    image = np.ones((6, 8, 5, 4), np.int16)
    labels = np.zeros((6, 8, 5), np.uint8)
    labels[0, 0, 4] = 4  # index 0 along an axis that runs left is the patient's right; so right, front, top
    return case_views._turned(image, {"truth": labels}, np.diag([-1.0, -1.0, 2.0, 1.0]), BRATS2019)

  @pytest.mark.parametrize(("plane", "shape"), [("axial", (8, 6)), ("coronal", (10, 6)), ("sagittal", (10, 8))])
  def test_planes_face_the_radiologist(self, view, plane, shape):
    assert view.spacing == (1, 1, 2)
    assert view.centre() == (5, 7, 4)
    picture = view.slice(plane, 0, view.centre(), "truth")
    assert picture.shape == (*shape, 3)
    marked = np.argwhere(np.ptp(picture, axis=-1) > 0.1)
    # Right and front on the left, front and top above; two rows where a voxel is 2 mm high.
    assert marked.tolist() == ([[0, 0]] if plane == "axial" else [[0, 0], [1, 0]])

  def test_without_tumour_the_middle_is_shown(self, view):
    view.labels["truth"][:] = 0
    assert view.centre() == (3, 4, 2)

  def test_figures_of_a_case_without_truth(self, view):
    for make in (case_figures.modalities_figure, case_figures.case_figure):
      bare = case_views.View(view.image, {}, view.spacing, BRATS2019)
      assert "truth" not in [text.get_text() for axes in make(bare).axes for text in axes.texts]


def test_mosaic_by_hand():
  small, large = np.full((2, 3, 3), 0.5, np.float32), np.ones((4, 5, 3), np.float32)
  picture, across, down = case_views.mosaic([[small, large], [large, small]], gap=2)
  assert picture.shape == (10, 12, 3)
  assert (across, down) == ([2.5, 9.5], [2.0, 8.0])
  assert picture[1:3, 1:4].min() == picture[1:3, 1:4].max() == 0.5
  assert picture.sum() == 3 * (2 * 6 * 0.5 + 2 * 20)


def test_a_case_of_a_folder_is_read(phantom_dataset):
  files = case_views.find_files(phantom_dataset.folder.parent / "data", BRATS2019)
  assert sorted(files) == ["Phantom_0001", "Phantom_0002", "Phantom_0003", "Phantom_0004"]
  mine, theirs = case_views.folder_view(files["Phantom_0002"], BRATS2019, {}), case_views.dataset_view(
    phantom_dataset, "Phantom_0002", {}
  )
  np.testing.assert_array_equal(mine.image, theirs.image)
  np.testing.assert_array_equal(mine.labels["truth"], theirs.labels["truth"])
  assert case_views.find_files(None, BRATS2019) == {}
  with pytest.raises(InputError, match="has no case 'nobody'"):
    case_views.dataset_view(phantom_dataset, "nobody", {})


def test_a_case_of_another_schema_is_shown_as_one_of_the_data_set(tmp_path):
  write_layout("nnunet", tmp_path / "data", 1, (20, 18, 16))
  own = find_schema(tmp_path / "data")
  image, truth = phantom_case((0, 0), (20, 18, 16))
  files = case_views.find_files(tmp_path / "data", own, BRATS2019)["BraTS_0001"]
  # A prediction in the labels of BraTS 2023, as its record says.
  save(tmp_path / "out" / "BraTS_0001.nii.gz", np.where(truth == 4, 3, truth))
  settings = {"schema": BRATS2023.to_dict()}
  record = {"format": "nas3d_jax.predictions", "version": 1, "settings": settings, "cases": {}}
  (tmp_path / "out" / "predictions.json").write_text(json.dumps(record))
  view = case_views.folder_view(files, own, {"searched": tmp_path / "out" / "BraTS_0001.nii.gz"}, BRATS2019)
  assert view.schema == BRATS2019
  box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(image.any(-1)))
  # The scanner's right and front come last in the file.
  turned = np.s_[::-1, ::-1]
  np.testing.assert_array_equal(view.image, image[box][turned])
  for name in ("truth", "searched"):
    np.testing.assert_array_equal(view.labels[name], truth[box][turned])


class TestGallery:
  def make(self, calls):
    def make():
      calls.append(1)
      figure = Figure(figsize=(1, 1))
      figure.subplots().plot([0, 1])
      return figure

    return make

  def test_draws_what_changed(self, tmp_path):
    calls = []
    for inputs, expected in ((1, 1), (1, 1), (2, 2), ({"a": [1]}, 3), ({"a": [1]}, 3)):
      gallery = Gallery(tmp_path)
      gallery.draw("cases/a", "a line", inputs, self.make(calls))
      gallery.close()
      assert len(calls) == expected
    (tmp_path / "cases" / "a.pdf").unlink()
    Gallery(tmp_path).draw("cases/a", "a line", {"a": [1]}, self.make(calls))
    Gallery(tmp_path, overwrite=True).draw("cases/a", "a line", {"a": [1]}, self.make(calls))
    assert len(calls) == 5

  def test_equal_figures_are_equal_files(self, tmp_path):
    for name in ("a", "b"):
      Gallery(tmp_path / name).draw("x", "a line", 0, self.make([]))
    for kind in ("png", "pdf"):
      assert (tmp_path / "a" / f"x.{kind}").read_bytes() == (tmp_path / "b" / f"x.{kind}").read_bytes()


def test_real_patients_in_three_planes(real_cases):
  """The truth of the low-grade patient has no yellow anywhere; that of the other has."""
  yellow = {}
  for name, files in case_views.find_files(real_cases, BRATS2019).items():
    view = case_views.folder_view(files, BRATS2019, {})
    picture = view.slice("axial", 0, view.centre(), "truth").astype(float)
    red, green, blue = np.moveaxis(picture, -1, 0)
    yellow[name] = np.count_nonzero((green > blue + 0.25) & (red > blue + 0.25))
    affine = nib.load(files.images[0]).affine
    assert nib.aff2axcodes(affine) == ("L", "P", "S")
    assert 100 < picture.shape[1] < picture.shape[0] < 200  # a head is longer than wide
  assert yellow["BraTS19_TCGA_DU7294_1"] == 0
  assert yellow["BraTS19_TCGA_FG6692_1"] > 50
