"""The sections of the report but those of single cases; each works with what is there, and names what is not."""

from __future__ import annotations

import functools

from nas3d_jax.data.dataset.case import Case
from nas3d_jax.evaluation import metrics
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.search_space import CELLS
from nas3d_jax.report import cell_figures, network_figures, result_tables, score_figures, search_figures
from nas3d_jax.report.case_figures import modalities_figure, patches_figure
from nas3d_jax.report.case_views import dataset_view
from nas3d_jax.report.context import Context
from nas3d_jax.report.control_contents import verdict
from nas3d_jax.report.gallery import size_text
from nas3d_jax.report.run_contents import SPLITS
from nas3d_jax.validation import PatchSize, patch_size_of

_OPTIMISTIC = (
  "The genotype was searched on cases that later serve as test folds of the cross-validation, so that the "
  "cross-validated scores of the searched network may be too good; unseen test cases are not touched by this. "
  "`experiment --nested` searches once a fold, on the other folds alone."
)
_NESTED = (
  "The genotype of each fold was searched on the other folds alone, so that no case had a part in choosing its network."
)
_TRAINED_ON = "The network was trained on these very cases: they tell how well it fits, not how well it will do."


def summary(c: Context) -> None:
  """The scores in short, and what they cost."""
  c.page.section("In short")
  material = c.material
  if sentence := verdict(material.control, c.seed):
    c.page.text(sentence)
  if not material.splits():
    c.missing("There are no scores yet. They come from", f"experiment {c.run}")
  else:
    c.table(result_tables.means_table(material))
    c.page.text(_NESTED if material.experiment.get("nested") else _OPTIMISTIC)
  if material.costs:
    c.table(result_tables.costs_table(material))
  else:
    c.missing("What the networks cost was not measured. It is by", f"experiment {c.run}")


def data(c: Context) -> None:
  """The data set, one case of it, its patches (Figs. 1 and 2)."""
  c.page.section("Data")
  dataset = c.material.dataset
  c.table(result_tables.dataset_table(c.material))
  inner = dataset.schema.regions[dataset.schema.innermost].labels
  case = max(dataset.cases, key=functools.partial(_tumour, inner=inner))
  view = functools.partial(dataset_view, dataset, case.name, {})
  caption = f"Figure 1. The modalities of {case.name}, and the truth over {dataset.schema.modality_names[0]}."
  inputs = [dataset.fingerprint, case.name]
  c.figure("fig1_modalities", caption, inputs, lambda: modalities_figure(view()), photograph=True)
  patch = _patch_size(c)
  if patch is None:
    c.missing("The patch size is settled by", f"search {c.run}")
    return
  caption = f"Figure 2. Brain cube and auto-fitted patches of {case.name}, numbered; each in its own colour of two."
  draw = functools.partial(_patches, view, case, patch)
  c.figure("fig2_patches", caption, [dataset.fingerprint, case.name, patch], draw)


def network(c: Context) -> None:
  """Backbone, hybrid modules, search cells (Figs. 3, 4, 5)."""
  c.page.section("Network")
  config, patch = c.material.network, _patch_size(c)
  if config is None or patch is None:
    c.missing("There is no network yet. Its size is settled by", f"search {c.run}")
    return
  size = size_text(patch)
  caption = f"Figure 3. The backbone for patches of {size} voxels: channels x voxels of the output of every stage."
  c.figure("fig3_backbone", caption, [config.to_dict(), patch], lambda: network_figures.backbone_figure(config, patch))
  search = c.material.search
  if search and search.records:
    last = search.records[-1]
    caption = "Figure 4. A hybrid module of each kind: all candidate operations, mixed by their softmax weights."
    c.figure("fig4_hybrid_modules", caption, last, lambda: network_figures.hybrid_modules_figure(last, search.space))
  caption = "Figure 5. The search cells: a node sums one hybrid module over each state before it."
  inputs = [config.nodes, config.space.to_dict()]
  draw = functools.partial(cell_figures.search_cells_figure, config.nodes, config.space)
  c.figure("fig5_search_cells", caption, inputs, draw)


def search(c: Context) -> None:
  """What was found and how (Figs. 6 and 7), weights, entropy, operations, stability over seeds."""
  c.page.section("Search")
  found = c.material.search
  if found is not None and found.genotype and found.settings.get("method") == "random":
    c.page.text("Nothing was searched: the genotype was drawn at random.")
    _searched_cells(c, found.genotype)
    return
  if found is None or not found.records:
    what = "There is no search yet. It is made by" if found is None else "The search has no epoch yet. It goes on with"
    c.missing(what, f"search {c.run}")
    return
  if found.genotype is None:
    c.missing("The search is not over. It goes on with", f"search {c.run}")
  else:
    _searched_cells(c, found.genotype)
  records = [found.records, dict(found.settings), found.genotype is None]
  caption = "Figure 7. The history of the search. Hybrid loss: on the hybrid part; kernel loss: on the kernel part."
  c.figure("fig7_history", caption, records, lambda: search_figures.history_figure(found))
  caption = "Does the search collapse? Entropy of the weights, and operations of each epoch's genotype."
  c.figure("entropy", caption, records, lambda: search_figures.entropy_figure(found))
  if warning := search_figures.collapse(found):
    c.page.text(warning)
  for cell in CELLS:
    caption = f"Softmax weights of the {cell}ward cell's hybrid modules at the start of each epoch."
    c.figure(f"weights_{cell}", caption, records, functools.partial(search_figures.weights_figure, found, cell))
  c.page.heading("Operations, and stability over searches")
  if found.genotype:
    c.table(result_tables.genotypes_table(c.material))
  if not c.material.seeds:
    c.missing("Whether another seed finds the same is told by further searches:", f"experiment {c.run} --seeds=3")


def _searched_cells(c: Context, genotype: Genotype) -> None:
  caption = "Figure 6. The searched cells: a node sums two operations."
  c.figure("fig6_searched_cells", caption, str(genotype), lambda: cell_figures.searched_cells_figure(genotype))
  c.page.code(str(genotype))


def training(c: Context) -> None:
  """Losses, learning rates, throughput of the trainings."""
  c.page.section("Training")
  material = c.material
  trainings = {key: history for key, history in material.trainings.items() if history.records}
  if not trainings:
    c.missing("There is no training yet. It is made by", f"train {c.run} --fold=0")
    return
  records = [[key, history.records] for key, history in trainings.items()]
  c.figure("trainings", "Losses of every fold.", records, lambda: search_figures.trainings_figure(trainings))
  inputs = [records, material.search.records if material.search else None]
  caption = "Learning rates and throughput of the search and the trainings."
  c.figure("rates", caption, inputs, lambda: search_figures.rates_figure(material.search, trainings))
  started = {history.settings.get("init_from") for history in trainings.values()} - {None}
  if started:
    c.page.text(f"Trainings that began with the parameters of another: from {', '.join(sorted(map(str, started)))}.")


def scores(c: Context) -> None:
  """Tables 3 and 4, cross-validation, box plots (Fig. 9), volumes."""
  c.page.section("Scores")
  material = c.material
  if not material.splits():
    c.missing("There are no scores yet. They come from", f"experiment {c.run}")
    return
  tolerances = sorted({found.tolerance for found in material.scores.values()})
  known = f" Tolerance of the surface Dice: {', '.join(f'{t:g} mm' for t in tolerances)}." if tolerances else ""
  c.page.text(metrics.CONVENTIONS + known)
  names = {"training": "table3_training", "test": "table4_test", "ensemble": "table4_ensemble"}
  for split, about in SPLITS.items():
    c.page.heading(score_figures.SHORT[split].capitalize())
    if not material.networks_of(split):
      need = " --test_dir=..." if split in ("test", "ensemble") else ""
      c.missing(f"There are no scores of {score_figures.SHORT[split]}. They come from", f"experiment {c.run}{need}")
      continue
    if split == "training":
      c.page.text(_TRAINED_ON)
    portal = [network for network in material.networks_of(split) if (network, split) in material.portal]
    source = f" From a challenge's portal: {', '.join(portal)}." if portal else ""
    number = {"training": "Table 3, ", "test": "Table 4, ", "ensemble": "Table 4, "}.get(split, "")
    caption = f"{number}{about}.{source}"
    c.table(result_tables.scores_table(material, names.get(split, split), split, caption[0].upper() + caption[1:]))
  inputs = _score_inputs(c)
  what = "Box: middle half of the cases; whiskers: up to 1.5 times its length; circles: cases beyond; diamonds: means."
  for name, columns, caption in (
    ("fig9_boxes", metrics.PAPER_METRICS, f"Figure 9. The paper's metrics. {what}"),
    ("boxes_more", metrics.METRICS[4:7], f"Lesion-wise metrics and surface Dice. {what}"),
  ):
    if any(material.values(n, s, r, columns[0]) for s in material.splits() for n in material.networks_of(s)
           for r in material.dataset.schema.region_names):
      c.figure(name, caption, inputs, functools.partial(score_figures.boxes_figure, material, columns))
  if material.scores:
    caption = "Volume of each region in the prediction against the truth; on the dashed line they are equal."
    c.figure("volumes", caption, inputs, lambda: score_figures.volumes_figure(material))


def comparison(c: Context) -> None:
  """Paired differences between the networks."""
  c.page.section("Comparison of the networks")
  differences = result_tables.paired_differences(c.material, seed=c.seed)
  if not differences:
    c.missing("Both networks have to be scored on the same cases, with truth. That is done by", f"experiment {c.run}")
    return
  c.page.text(f"Seed of the bootstrap: {c.seed}, {result_tables.SAMPLES:,} resamples of the cases.")
  caption = "Mean paired differences of every metric."
  inputs = [_score_inputs(c), c.seed]
  c.figure("differences", caption, inputs, lambda: score_figures.differences_figure(differences))
  c.table(result_tables.differences_table(differences))


def making(c: Context) -> None:
  """Configuration, versions, seeds and fingerprints."""
  c.page.section("How it was made")
  material = c.material
  dataset = material.dataset
  c.page.text(f"Fingerprint of the data set: {dataset.fingerprint}. Seed of its folds: {dataset.seed}.")
  runs = {"search": material.search, **{f"search, seed {seed}": h for seed, h in material.seeds.items()}}
  runs |= {f"search, nested fold {fold}": history for fold, history in material.nested.items()}
  runs |= {f"training, {network}, {fold}": history for (network, fold), history in material.trainings.items()}
  c.table(result_tables.runs_table({name: history for name, history in runs.items() if history}))
  if material.experiment:
    c.page.details("experiment", dict(material.experiment))
  for name, history in runs.items():
    if history:
      content = {"settings": history.settings, "sessions": history.sessions}
      c.page.details(f"{name}: settings, devices and versions", content)


def _score_inputs(c: Context) -> list:
  known = [[key, found.cases, found.tolerance] for key, found in c.material.scores.items()]
  return [*known, *([key, found.cases] for key, found in c.material.portal.items())]


def _tumour(case: Case, inner: tuple[int, ...]) -> int:
  """Voxels of the innermost region, fewer than none where the truth is not known."""
  return -1 if case.label_counts is None else sum(case.label_counts[value] for value in inner)


def _patch_size(c: Context) -> PatchSize | None:
  histories = [history for history in (c.material.search, *c.material.trainings.values()) if history]
  found = (history.settings["patch_size"] for history in histories if "patch_size" in history.settings)
  return patch_size_of(next(found, None))


def _patches(view, case: Case, patch: PatchSize):
  return patches_figure(view(), case.cube, case.shape, patch)
