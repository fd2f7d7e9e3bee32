"""Flags that take several values, and flags that would have no effect."""

import pytest
from absl import flags

from launch import phantom, preprocess, report
from launch.__main__ import main
from launch.flags import build, define_options
from nas3d_jax.errors import InputError
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.inference.config import InferenceChoices, PredictConfig
from nas3d_jax.options import options_of

SOURCE = ("--data_dir=d", "--out=o", "--checkpoint=run")


def parsed(define, *arguments):
  values = flags.FlagValues()
  define(values)
  values(["stage", *arguments])
  return values


def lists():
  """Every flag of several values: what defines it, and its name."""
  for config in (PredictConfig, ExperimentConfig):
    for name, option in options_of(config).items():
      if option.kind is tuple:
        yield (lambda values, config=config: define_options(values, config)), name
  yield from ((phantom.define, "shape"), (preprocess.define, "spacing"), (report.define, "portal_csv"))


@pytest.mark.parametrize(("define", "name"), list(lists()))
@pytest.mark.parametrize("given", [("A,B,C",), ("A", "B", "C"), ("A", "B, C"), ("A,B", "C")])
def test_given_again_and_with_commas_mean_the_same(define, name, given):
  assert parsed(define, *(f"--{name}={text}" for text in given))[name].value == ["A", "B", "C"]


def test_the_cases_and_folds_of_a_prediction():
  values = parsed(lambda values: define_options(values, PredictConfig), *SOURCE, "--cases=A", "--cases=B,C")
  assert build(PredictConfig, values).cases == ("A", "B", "C")
  assert build(PredictConfig, values).checkpoint == ("run",)


def test_a_path_with_a_comma_that_is_there_is_one(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a,b").mkdir()
  values = parsed(lambda values: define_options(values, PredictConfig), "--checkpoint=a,b", "--checkpoint=c,d")
  assert values["checkpoint"].value == ["a,b", "c", "d"]
  values = parsed(report.define, "--portal_csv=searched/test=a,b")
  assert values["portal_csv"].value == ["searched/test=a,b"]


@pytest.mark.parametrize("network", ["searched", "unet3d"])
def test_a_network_beside_a_checkpoint_is_refused(network, capsys):
  assert main(["predict", *SOURCE, f"--network={network}"]) == 2
  assert "checkpoint names a network itself" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(network="unet3d"), "checkpoint names a network itself, got network='unet3d'; leave out one$"),
    (
      dict(patch_size=64, choices=InferenceChoices(whole_volume=True)),
      "^whole_volume takes no patches, got patch_size=64; leave out one$",
    ),
  ],
)
def test_options_of_a_prediction_that_have_no_effect_are_refused(fields, message):
  with pytest.raises(InputError, match=message):
    PredictConfig(checkpoint=("run",), data_dir="d", out="o", **fields)


@pytest.mark.parametrize(
  ("flag", "network", "of"),
  [
    ("--kernels=4", "unet3d", "searched"),
    ("--variant=paper", "unet3d", "searched"),
    ("--levels=5", "searched", "unet3d or plain_unet"),
  ],
)
def test_options_of_another_network_are_refused(flag, network, of, capsys):
  assert main(["train", "--workdir=w", f"--network={network}", flag]) == 2
  name = flag.partition("=")[0]
  assert f"{name} is of --network={of}, got it with --network={network}; leave out one" in capsys.readouterr().err
