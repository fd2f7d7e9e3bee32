"""Options: a line in a configuration is a flag, a check, a line of config.json and one of what a run compares."""

import dataclasses
import json
import math
from typing import Literal

import pytest
from absl import flags

from launch.flags import build, define_options
from nas3d_jax.data.phantom import write_phantoms
from nas3d_jax.errors import InputError
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.inference.config import InferenceChoices, PredictConfig
from nas3d_jax.models.config import Variant
from nas3d_jax.options import Option, check_options, from_options, option, options_of, part
from nas3d_jax.training.config import SearchConfig, TrainConfig
from nas3d_jax.training.setup import RunSetup

SIZES = dict(patch_size=8, nodes=1, depth=2)


@dataclasses.dataclass(frozen=True)
class NewSearch(SearchConfig):
  norm_layer: Literal["group", "instance"] = option("after each convolution", "group")


@dataclasses.dataclass(frozen=True)
class NewTrain(TrainConfig):
  norm_layer: Literal["group", "instance"] = option("after each convolution", "group")
  tumour_share: float = option("least share of patches about a tumour", 0.25, least=0, below=1)
  label_smoothing: int | None = option("not given: none", None, least=2, changeable=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewExperiment(ExperimentConfig):
  """Its parts are the new ones; all else of their fields stays."""

  search_template: NewSearch = part(
    without=("fold", "seed", "overwrite"),
    patch_size=("search_patch_size", "in the search"),
    epochs=("search_epochs", "of a search"),
    dropout=("search_dropout", "in the search"),
  )
  searched_template: NewTrain = part(without=("fold", "seed", "overwrite", "network", "genotype", "init_from"))
  unet3d_template: NewTrain = part(
    without=("fold", "seed", "overwrite", "genotype", "init_from"), fixed={"network": "unet3d"}
  )
  plain_unet_template: NewTrain = part(
    without=("fold", "seed", "overwrite", "genotype", "init_from"), fixed={"network": "plain_unet"}
  )


def parsed(config, *arguments):
  values = flags.FlagValues()
  define_options(values, config)
  values(["stage", *arguments])
  return values


def test_a_new_option_is_a_flag():
  config = build(NewTrain, parsed(NewTrain, "--workdir=w", "--norm_layer=instance", "--tumour_share=0.5"), fold=0)
  assert (config.norm_layer, config.tumour_share, config.label_smoothing) == ("instance", 0.5, None)
  help_text = parsed(NewTrain).get_help()
  assert "--norm_layer: <group|instance>: after each convolution\n    (default: 'group')" in help_text
  assert "--tumour_share: least share of patches about a tumour\n    (default: '0.25')" in help_text
  assert "--label_smoothing: not given: none\n    (integer >= 2)" in help_text


@pytest.mark.parametrize(
  ("field", "value", "library", "command_line"),
  [
    ("norm_layer", "batch", "one of group, instance, got 'batch'", "value should be one of <group|instance>"),
    ("tumour_share", -0.5, "a number of at least 0 and below 1, got -0.5", "-0.5 is not a number in the range"),
    ("label_smoothing", 1, "a whole number of at least 2, or None, got 1", "1 is not integer >= 2"),
  ],
)
def test_flag_and_library_refuse_the_same_values(field, value, library, command_line):
  with pytest.raises(InputError) as error:
    NewTrain("w", **{field: value})
  assert str(error.value) == f"{field} must be {library}"
  with pytest.raises(flags.IllegalFlagValueError, match=f"flag --{field}={value}: {command_line}"):
    parsed(NewTrain, "--workdir=w", f"--{field}={value}")


def test_a_new_option_of_search_and_training_is_one_flag_of_the_experiment():
  values = parsed(NewExperiment, "--workdir=w", "--norm_layer=instance", "--tumour_share=0.5")
  config = build(NewExperiment, values)
  assert config.search(1).norm_layer == "instance"
  for network in ("searched", "unet3d", "plain_unet"):
    assert (config.train(network, 2).norm_layer, config.train(network, 2).tumour_share) == ("instance", 0.5)
  assert config.train("unet3d", 2).network == "unet3d"
  with pytest.raises(TypeError, match=r"NewExperiment has no option epoch$"):
    NewExperiment.of(workdir="w", epoch=3)


def test_the_size_of_the_network_is_one():
  config = ExperimentConfig.of(workdir="w")
  with pytest.raises(InputError, match="nodes must be the same in search and training, got 2 and 3"):
    dataclasses.replace(config, search_template=SearchConfig("w", nodes=2))
  # Its defaults would be those of the other network.
  with pytest.raises(InputError, match="unet3d_template must be of network='unet3d', got 'searched'"):
    dataclasses.replace(config, unet3d_template=TrainConfig("w"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  from nas3d_jax.data.dataset.preprocess import preprocess

  folder = tmp_path_factory.mktemp("options")
  write_phantoms(folder / "data", cases=2, seed=0, shape=(16, 16, 16))
  preprocess(folder / "data", folder / "dataset", folds=2)
  return folder


def test_a_new_option_is_stored_and_compared(dataset):
  def begin(make, name="search", **changes):
    with RunSetup.of(make(dataset, **SIZES, **changes)).open_run(dataset / name):
      return json.loads((dataset / name / "config.json").read_text())["settings"]

  # The run is older than the option: it goes on with the default alone, from then on by name.
  assert "norm_layer" not in begin(SearchConfig)
  with pytest.raises(InputError, match=r"other settings: norm_layer was 'group', is 'instance'\. Run with the same"):
    begin(NewSearch, norm_layer="instance")
  assert begin(NewSearch)["norm_layer"] == "group"
  with pytest.raises(InputError, match="norm_layer was 'group', is 'instance'"):
    begin(NewSearch, norm_layer="instance")
  # What may differ when a run goes on is declared at the field.
  begin(NewTrain, "train")
  assert begin(NewTrain, "train", label_smoothing=3)["label_smoothing"] == 3
  with pytest.raises(InputError, match=r"tumour_share was 0\.25, is 0\.5"):
    begin(NewTrain, "train", tumour_share=0.5)


def test_options_of_the_other_network_may_differ():
  search = {"workdir", "epochs", "min_count", "checkpoint_minutes", "overwrite", "data_placement", "devices", "tracker"}
  train = (search - {"min_count"}) | {"network", "skip_nonfinite"}
  assert SearchConfig("w").changeable == search | {"skip_nonfinite"}
  assert TrainConfig("w").changeable == train | {"filters", "levels"}
  assert TrainConfig("w", network="unet3d").changeable == train | {"genotype", "kernels", "nodes", "depth", "variant"}


def test_parts_share_an_option_only_with_one_default():
  @dataclasses.dataclass(frozen=True)
  class Both:
    search: SearchConfig = part()
    train: TrainConfig = part()

  with pytest.raises(TypeError, match=r"^patch_size has several defaults in Both; call patch_size of train otherwise$"):
    options_of(Both)


def test_a_part_takes_what_is_its_own():
  config = from_options(PredictConfig, dict(data_dir="d", out="o", checkpoint=("c",), tta=True, overlap=0.5))
  assert config.choices == InferenceChoices(tta=True, overlap=0.5)
  assert "choices" not in options_of(PredictConfig)


@pytest.mark.parametrize(
  ("hint", "expected"),
  [
    (int, (int, (), False)),
    (float | None, (float, (), True)),
    (bool, (bool, (), False)),
    (Variant, (str, ("paper", "released"), False)),
    (Literal["a", "b"] | None, (str, ("a", "b"), True)),
    (int | Literal["all"], (str, (), False)),
    (tuple[str, ...] | None, (tuple, (), True)),
  ],
)
def test_what_a_type_tells(hint, expected):
  typed = Option("", None).typed(hint)
  assert (typed.kind, typed.choices, typed.optional) == expected


@dataclasses.dataclass
class Numbers:
  count: int = option("", 1, least=1)
  rate: float = option("", 0.5, above=0)
  flag: bool = option("", False)
  whole: int = option("", 0)
  maybe: float | None = option("", None, below=2)


@pytest.mark.parametrize(
  ("field", "value", "wanted"),
  [
    ("count", 0, "a whole number of at least 1"),
    ("count", True, "a whole number of at least 1"),
    ("count", None, "a whole number of at least 1"),
    ("rate", 0, "a number above 0"),
    ("rate", math.inf, "a number above 0"),
    ("flag", 1, "True or False"),
    ("whole", 0.0, "a whole number"),
    ("maybe", 2.0, "a number below 2, or None"),
    ("maybe", "1", "a number below 2, or None"),
  ],
)
def test_a_value_that_does_not_fit(field, value, wanted):
  check_options(Numbers())
  with pytest.raises(InputError) as error:
    check_options(Numbers(**{field: value}))
  assert str(error.value) == f"{field} must be {wanted}, got {value!r}"


def test_an_option_of_a_part_is_refused_by_the_name_that_it_has_in_the_whole():
  with pytest.raises(InputError, match=r"^unet3d_learning_rate must be a number above 0, got 0$"):
    ExperimentConfig.of(workdir="w", unet3d_learning_rate=0)
