"""The names of the files and folders of a run, which nothing else spells.

    dataset/             manifest.json, config.json, verified.json, cases/<name>/{image,labels}.npy
    dataset.json         instead of dataset/: the data set of another run
    search/              a run directory, see below, of the search with seed 0
    seeds/<seed>/search/, nested/<fold>/search/    further searches of an experiment
    train/<fold>/, unet3d/<fold>/, plain_unet/<fold>/    run directories of trainings; <fold> may be "all"
    predictions/<network>/<split>/                 label volumes and predictions.json
    predictions/<network>/min_component.json       the least component that is kept
    scores/<network>/<split>/                      scores.json, scores.csv
    control/<group>/<number>/<seed>/               a training of the control, with predictions and scores
    control/random/<number>/search/                what a random genotype was drawn with
    control/cost_<weight>/<seed>/search/           a search with that weight of the cost
    control/supernet/<seed>.json                   losses of the genotypes in the supernet of a search
    costs.json, experiment.json
    report/              index.html, figures/, tables/
    watch/               the same of what is in progress

A run directory holds config.json, metrics.jsonl, checkpoints/<step>/, genotype.json once a search is over,
events.out.tfevents.* for TensorBoard where they were asked for, and nonfinite/ where a step was reported.
"""

from __future__ import annotations

import types
from collections.abc import Mapping

DATASET = "dataset"
DATASET_REFERENCE = "dataset.json"
MANIFEST = "manifest.json"
VERIFIED = "verified.json"
CASES = "cases"
IMAGE, LABELS = "image.npy", "labels.npy"
RECORDS = "records"
"""Of a data set that is being made: what each finished case came from."""

SEARCH = "search"
SEEDS, NESTED, CONTROL = "seeds", "nested", "control"
SUPERNET, RANDOM, COST = "supernet", "random", "cost_"
"""In `control/`: what supernets say of its genotypes; random ones; with a weight, searches that mind the cost."""
TRAIN_FOLDERS: Mapping[str, str] = types.MappingProxyType(
  {"searched": "train", "unet3d": "unet3d", "plain_unet": "plain_unet"}
)
"""Where the trainings of each architecture lie, a folder a fold."""

CONFIG = "config.json"
"""Of a run directory, and of a data set."""
METRICS = "metrics.jsonl"
EVENTS = "events"
"""With what such names begin; the rest is TensorBoard's."""
GENOTYPE = "genotype.json"
CHECKPOINTS = "checkpoints"
NONFINITE = "nonfinite"

PREDICTIONS = "predictions"
PREDICTIONS_JSON = "predictions.json"
PROBABILITIES = "probabilities"
"""Beside it, a folder."""
MIN_COMPONENT = "min_component.json"
SCORES = "scores"
SCORES_JSON, SCORES_CSV = "scores.json", "scores.csv"

COSTS = "costs.json"
EXPERIMENT = "experiment.json"
REPORT = "report"
WATCH = "watch"
PAGE = "index.html"
FIGURES, TABLES = "figures", "tables"
MADE = "made.json"
"""Beside the figures: what each was drawn from."""

WRITTEN_FOLDERS = tuple(map(frozenset, ((MANIFEST, CONFIG), (IMAGE,), (CONFIG, CHECKPOINTS))))
"""Names that together mark a folder as written by this library, with all that is in it: it holds no cases."""
WRITTEN_AMONG: Mapping[frozenset[str], frozenset[str]] = types.MappingProxyType({
  frozenset({PREDICTIONS_JSON}): frozenset({PROBABILITIES}),
  frozenset({SCORES_JSON}): frozenset(),
  frozenset({PAGE, FIGURES}): frozenset({FIGURES, TABLES}),
})
"""Names that mark a folder that is written to by this library, and its own folders in it; others may hold cases."""
WRITTEN_ENDINGS = (".lock", ".partial", ".former", ".removed")
"""Of hidden files and folders that stand for work in progress."""
