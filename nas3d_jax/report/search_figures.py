"""How a search and the trainings went: Fig. 7, weights, entropy, operations, learning rates, throughput."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.genotype_statistics import parameter_free_share
from nas3d_jax.models.search_space import CELLS, direction_of, family
from nas3d_jax.report.cell_figures import families_of
from nas3d_jax.report.gallery import BLUE, GREEN, GREY, INK, NETWORK_COLOURS, ORANGE, PURPLE, new_figure
from nas3d_jax.report.run_contents import NETWORKS, History

_DASHES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)))


_COLLAPSED = 0.5
"""Part of the operations; of genotypes drawn at random from the paper's search space 1 in 200 has more."""


def stop_reason(search: History) -> str:
  """Why the search ended, or that it has not."""
  epochs, counts = len(search.records), search.settings["min_count"]
  if search.genotype is None:
    return f"not over yet: {epochs} of at most {search.settings['epochs']} epochs"
  if epochs >= search.settings["epochs"]:
    return f"stopped after epoch {epochs}, the last that was allowed: the most common genotype was taken"
  return f"stopped after epoch {epochs}: a genotype was counted {counts} times"


def history_figure(search: History) -> Figure:
  """Losses and counts of the genotype over the epochs, the stop marked (Fig. 7)."""
  epochs = search.column("epoch")
  figure = new_figure(5.0)
  upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
  names = (("hybrid_loss", BLUE, "-"), ("kernel_loss", ORANGE, "--"), ("validation_loss", GREEN, "-."))
  for name, colour, style in names:
    marker = _marker(epochs)
    upper.plot(epochs, search.column(name), color=colour, linestyle=style, marker=marker, label=name.replace("_", " "))
  upper.set(ylabel=_loss_of([search]), title=stop_reason(search))
  counted = "times that the epoch's genotype was counted"
  lower.step(epochs, search.column("count"), where="mid", color=INK, marker=_marker(epochs), label=counted)
  limit = search.settings["min_count"]
  lower.axhline(limit, color=PURPLE, linestyle=":", label=f"limit, {limit}")
  lower.set(xlabel="epoch", ylabel="count", ylim=(0, limit * 1.08))
  for axes in (upper, lower):
    if search.genotype is not None:
      axes.axvline(epochs[-1], color=GREY, linewidth=1.5, label="stop" if axes is upper else None)
    legend = axes.legend(loc="best" if axes is upper else "center left", ncols=2 if axes is upper else 1, frameon=True)
    legend.get_frame().set(edgecolor="none", alpha=0.85)
    _whole_epochs(axes, epochs)
  return figure


def weights_figure(search: History, cell: str) -> Figure:
  """Softmax weights of every hybrid module of a cell over the epochs, as heat maps."""
  modules = search.records[0]["hybrid_weights"][cell]
  epochs = search.column("epoch")
  columns = 2 if len(modules) > 1 else 1
  rows = -(-len(modules) // columns)
  figure = new_figure(1.72 * rows + 0.55)
  places = figure.subplots(rows, columns, squeeze=False, sharex=True)
  every = [record["hybrid_weights"][cell] for record in search.records]
  top = max(weight for epoch in every for module in epoch for weight in module["weights"])
  for axes in places.flat[len(modules) :]:
    axes.set_axis_off()
  for index, (axes, module) in enumerate(zip(places.flat, modules, strict=False)):
    names = search.space.candidates[direction_of(cell, module["state"])]
    drawn = axes.imshow(
      np.array([epoch[index]["weights"] for epoch in every]).T,
      aspect="auto",
      interpolation="nearest",
      vmin=0,
      vmax=top,
      extent=(epochs[0] - 0.5, epochs[-1] + 0.5, len(names) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title(f"{_state(module['state'])} to node {module['node']}", fontsize=9)
    axes.grid(False)
    _whole_epochs(axes, epochs)
  for axes in places.flat[max(0, len(modules) - columns) : len(modules)]:  # the lowest of each column
    axes.set_xlabel("epoch")
    axes.tick_params(labelbottom=True)
  figure.colorbar(drawn, ax=places, label="softmax weight", shrink=0.6, aspect=30)
  return figure


def entropy_figure(search: History) -> Figure:
  """Mean entropy of the hybrid modules; of each epoch's genotype, the share without parameters and all families."""
  epochs = search.column("epoch")
  figure = new_figure(6.6)
  upper, middle, lower = figure.subplots(3, 1, height_ratios=(4, 3, 6))
  for cell, colour, style in zip(CELLS, (BLUE, ORANGE), ("-", "--"), strict=True):
    modules = search.records[0]["hybrid_weights"][cell]
    even = float(np.mean([np.log(len(module["weights"])) for module in modules]))
    entropy = [record["entropy"][cell] for record in search.records]
    marker = _marker(epochs)
    upper.plot(epochs, entropy, color=colour, linestyle=style, marker=marker, label=f"{cell}ward cell")
    upper.axhline(even, color=colour, linestyle=":", linewidth=1, label=f"{cell}ward cell, all weights equal")
  upper.set_title("entropy of the softmax weights; 0 where one operation has all the weight")
  upper.set_ylabel("mean entropy (nats)")
  upper.legend(loc="best", ncols=2)
  shares = [parameter_free_share(Genotype(**record["genotype"], space=search.space)) for record in search.records]
  middle.plot(epochs, shares, color=BLUE, marker=_marker(epochs))
  middle.axhline(_COLLAPSED, color=GREY, linestyle=":", linewidth=1)
  middle.set(title="part of the operations without parameters; above the line: collapse", ylim=(0, 1))
  families = families_of(search.space)
  counts = np.array([operation_families(record["genotype"], families) for record in search.records]).T
  drawn = lower.imshow(
    counts, aspect="auto", interpolation="nearest", cmap="cividis", vmin=0,
    extent=(epochs[0] - 0.5, epochs[-1] + 0.5, len(families) - 0.5, -0.5),
  )
  lower.set_yticks(range(len(families)), families)
  lower.set(xlabel="epoch", title="operations in the genotype of each epoch, both cells")
  lower.grid(False)
  bar = figure.colorbar(drawn, ax=lower, label="times")
  bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
  for axes in (upper, middle, lower):
    _whole_epochs(axes, epochs)
  return figure


def collapse(search: History) -> str | None:
  """A warning where operations without parameters take more than half of the last genotype; None where not.

  Such a search has found what learns fastest at its start, not what segments best (Zela et al. 2020).
  """
  share = parameter_free_share(Genotype(**search.records[-1]["genotype"], space=search.space))
  if share <= _COLLAPSED:
    return None
  return (
    f"Warning: {share:.0%} of the operations of the last genotype are pools and identity, which have no kernel. The "
    "search has collapsed, or has hardly begun: of equal weights the first candidates are taken, which are these. A "
    "warm-up (warmup_epochs) or another hybrid_learning_rate may help."
  )


def operation_families(rows: Mapping[str, Sequence[Sequence]], families: Sequence[str]) -> list[int]:
  """How often each family stands in the rows of both cells."""
  found = [family(name) for cell in CELLS for name, _ in rows[cell]]
  return [found.count(name) for name in families]


def rates_figure(search: History | None, trainings: Mapping[tuple[str, str], History]) -> Figure:
  """Learning rates and throughput of the search and of every training."""
  figure = new_figure(4.6)
  upper, lower = figure.subplots(2, 1, sharex=True)
  if search and search.records:
    epochs = search.column("epoch")
    for name, style in (("hybrid_learning_rate", "-"), ("kernel_learning_rate", "--")):
      label = f"search, {name.split('_')[0]}"
      upper.plot(epochs, search.column(name), color=INK, linestyle=style, marker=_marker(epochs), label=label)
    lower.plot(epochs, search.column("patches_per_second"), color=INK, marker=_marker(epochs), label="search")
  for label, colour, style, training in _lines(trainings):
    epochs = training.column("epoch")
    look = dict(color=colour, linestyle=style, marker=_marker(epochs))
    upper.plot(epochs, training.column("learning_rate"), **look, label=label)
    lower.plot(epochs, training.column("patches_per_second"), **look)
  upper.set(ylabel="learning rate", yscale="log")
  lower.set(ylabel="patches a second", xlabel="epoch", ylim=(0, None))
  lower.xaxis.set_major_locator(_whole_numbers())
  figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=4)
  return figure


def trainings_figure(trainings: Mapping[tuple[str, str], History]) -> Figure:
  """Training and validation loss of every fold, a panel for each network."""
  networks = [network for network in NETWORKS if any(name == network for name, _ in trainings)]
  figure = new_figure(3.2 + 0.1 * len(trainings))
  places = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
  for axes, network in zip(places, networks, strict=True):
    own = {key: training for key, training in trainings.items() if key[0] == network}
    for (label, _, style, training), colour in zip(
      _lines(own), (BLUE, ORANGE, GREEN, PURPLE, GREY, INK) * len(own), strict=False
    ):
      epochs = training.column("epoch")
      look = dict(color=colour, linestyle=style, marker=_marker(epochs))
      axes.plot(epochs, training.column("loss"), **look, linewidth=1.0, alpha=0.6)
      validation = [np.nan if value is None else value for value in training.column("validation_loss")]
      known = not np.all(np.isnan(validation))
      shown = validation if known else training.column("loss")
      text = label.partition(", ")[2] + ("" if known else " (training loss)")
      axes.plot(epochs, shown, **look, linewidth=2.0, label=text)
    axes.set(title=NETWORKS[network], xlabel="epoch")
    axes.legend(loc="best")
    axes.xaxis.set_major_locator(_whole_numbers())
  places[0].set_ylabel(f"{_loss_of(trainings.values())}\nthick: validation, thin: training")
  return figure


def _lines(trainings: Mapping[tuple[str, str], History]):
  """Name, colour, dashes and training of each that has an epoch."""
  folds = list(dict.fromkeys(fold for _, fold in trainings))
  for (network, fold), training in trainings.items():
    if training.records:
      name = "all cases" if fold == "all" else f"fold {fold}"
      dashes = _DASHES[folds.index(fold) % len(_DASHES)]
      yield f"{NETWORKS[network]}, {name}", NETWORK_COLOURS[network], dashes, training


def _loss_of(runs: Iterable[History]) -> str:
  """What the losses of some runs are, for an axis."""
  words = {"dice": "1 - soft Dice", "dice_ce": "Dice and cross-entropy", "dice_focal": "Dice and focal"}
  names = {run.settings.get("loss", "dice") for run in runs}
  return f"loss ({words.get(names.pop(), 'several')})" if len(names) == 1 else "loss (several)"


def _state(state: int) -> str:
  return f"X{state}" if state < 2 else f"node {state - 2}"


def _whole_epochs(axes: Axes, epochs: Sequence[int]) -> None:
  axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
  axes.xaxis.set_major_locator(_whole_numbers())


def _whole_numbers() -> MaxNLocator:
  """Ticks at whole numbers alone, also where one epoch is all there is."""
  return MaxNLocator(integer=True, min_n_ticks=1)


def _marker(epochs: Sequence[int]) -> str | None:
  """Of a line, which takes two epochs to be seen."""
  return "o" if len(epochs) == 1 else None
