"""Makes the picture of README.md from the run directory of `python -m launch demo`.

    python -m launch demo --workdir=demo
    python -m docs.make_pictures demo
"""

import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.report import gallery
from nas3d_jax.report.case_figures import examples_figure
from nas3d_jax.report.case_views import find_files, folder_view
from nas3d_jax.report.cell_figures import colour_of, draw_cell

PICTURE = Path(__file__).parent / "pictures" / "demo.png"


def cells_beside_each_other(genotype: Genotype) -> Figure:
  """The two searched cells in one row."""
  figure = gallery.new_figure(2.2)
  for axes, kind in zip(figure.subplots(1, 2), ("down", "up"), strict=True):
    edges = [(i // 2, state, name, colour_of(name)) for i, (name, state) in enumerate(getattr(genotype, kind))]
    draw_cell(axes, kind, genotype.nodes, edges)
    for text in axes.texts:
      if text.get_text() == "concatenate":  # one node is a short bar
        text.set(text="output", fontsize=7)
    axes.set_title(f"{kind}ward cell that was found", loc="left")
  return figure


def one_case(run: Path) -> Figure:
  """The unseen case with the best scores: image, truth, prediction."""
  scores = Scores.load(run / "scores" / "searched" / "test")
  schema, cases = scores.schema, scores.cases
  name = max(cases, key=lambda case: sum(values["dice"] for values in cases[case].values()))
  prediction = run / "predictions" / "searched" / "test" / f"{name}.nii.gz"
  files = find_files(run / "unseen", schema, schema)[name]
  view = folder_view(files, schema, {"searched": prediction}, schema)
  dice = ", ".join(f"{region} {values['dice']:.2f}" for region, values in cases[name].items())
  return examples_figure({"unseen case": view}, {"unseen case": {"searched": f"Dice: {dice}"}})


def main(run: Path) -> None:
  """Draws both figures, one above the other, on one page."""
  genotype = Genotype.from_json((run / "search" / "genotype.json").read_text("utf-8"))
  with tempfile.TemporaryDirectory() as folder:
    album = gallery.Gallery(Path(folder))
    drawn = [
      album.draw("cells", "the searched cells", None, lambda: cells_beside_each_other(genotype)),
      album.draw("case", "a predicted case", None, lambda: one_case(run)),
    ]
    parts = [Image.open(picture.png).convert("RGB") for picture in drawn]
  page = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
  top = 0
  for part in parts:
    page.paste(part, (0, top))
    top += part.height
  PICTURE.parent.mkdir(exist_ok=True)
  page.save(PICTURE, optimize=True)
  print(PICTURE, page.size, PICTURE.stat().st_size)


if __name__ == "__main__":
  main(Path(sys.argv[1]))
