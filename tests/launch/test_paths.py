"""Flags that are paths: which they are, what `~` becomes, what no path can be."""

import importlib
import os
import pwd

import pytest
from absl import flags

from launch.__main__ import STAGES, main
from launch.flags import build, named_path
from nas3d_jax.errors import InputError
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.inference.config import PredictConfig
from nas3d_jax.training.config import SearchConfig, TrainConfig

PATHS = {
  "phantom": {"out"},
  "inspect": {"data_dir", "schema", "json"},
  "preprocess": {"data_dir", "workdir", "schema"},
  "search": {"workdir"},
  "train": {"workdir", "genotype", "init_from"},
  "predict": {"workdir", "checkpoint", "data_dir", "schema", "out"},
  "evaluate": {"predictions", "data_dir", "out", "schema"},
  "report": {"workdir", "out", "portal_csv", "test_dir", "schema"},
  "experiment": {"workdir", "data_dir", "test_dir", "schema", "test_schema", "portal_csv"},
  "demo": {"workdir"},
  "export": {"checkpoint", "out"},
  "convert": {"from", "out", "schema", "genotype"},
  "watch": {"workdir", "out"},
}
CASES = [(stage, name) for stage, names in PATHS.items() for name in sorted(names)]


def parsed(stage, *arguments):
  values = flags.FlagValues()
  importlib.import_module(f"launch.{stage}").define(values)
  values([stage, *arguments])
  return values


@pytest.fixture
def home(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  return tmp_path / "home"


def test_every_flag_of_a_path_is_in_the_list():
  for stage in STAGES:
    own = parsed(stage).flags_by_module_dict()[f"launch.{stage}"]
    assert {flag.name for flag in own if type(flag.parser).__name__ == "PathParser"} == PATHS[stage]
    # One of another kind whose help speaks of a file or folder is a path that was forgotten.
    others = [flag for flag in own if flag.name not in PATHS[stage] and flag.parser.flag_type() == "string"]
    assert not [flag.name for flag in others if {"file", "folder", "directory"} & set(flag.help.split())]


@pytest.mark.parametrize(("stage", "name"), CASES)
def test_the_home_is_expanded_once(stage, name, home):
  account = pwd.getpwuid(os.getuid())
  cases = {"~": home, "~/a ~b": home / "a ~b", f"~{account.pw_name}/a": f"{account.pw_dir}/a"}
  for given, expected in {**cases, "./~/a": "./~/a", "a~": "a~"}.items():
    value = parsed(stage, f"--{name}={given}")[name].value
    assert value in (str(expected), [str(expected)])
  with pytest.raises(flags.Error, match=rf"--{name}=~nobody.known/a: no home is known of ~nobody.known; .* \./~nobody"):
    parsed(stage, f"--{name}=~nobody.known/a")


def test_the_table_of_a_portal_may_have_a_name(home):
  values = parsed("report", "--portal_csv=searched/test=~/a.csv", "--portal_csv=~/b.csv")
  assert values["portal_csv"].value == [f"searched/test={home}/a.csv", f"{home}/b.csv"]


def test_configurations_get_what_was_expanded(home):
  search = build(SearchConfig, parsed("search", "--workdir=~/run"))
  assert search.workdir == f"{home}/run"
  train = build(TrainConfig, parsed("train", "--workdir=~/run", "--init_from=~/other", "--genotype=~/g.json"), fold=0)
  assert (train.init_from, train.genotype) == (f"{home}/other", f"{home}/g.json")
  given = ("--checkpoint=~/a", "--checkpoint=~/b", "--data_dir=~/data", "--out=~/out", "--schema=~/s.yaml")
  predict = build(PredictConfig, parsed("predict", *given), fold=())
  assert predict.checkpoint == (f"{home}/a", f"{home}/b")
  assert (predict.data_dir, predict.out, predict.schema) == (f"{home}/data", f"{home}/out", f"{home}/s.yaml")


def test_phantoms_come_to_the_home(home, monkeypatch, tmp_path, capsys):
  monkeypatch.chdir(tmp_path)
  assert main(["phantom", "--out=~/made", "--cases=1", "--shape=16,16,16"]) == 0
  assert capsys.readouterr().out == f"1 cases in {home}/made\n"
  assert len(list((home / "made").glob("*/*/*.nii.gz"))) == 5
  assert not (tmp_path / "~").exists()


WRONG = [
  ("", "it is empty; give a path"),
  ("a\0b", "it has the character NUL, which no path can have; leave it out"),
  (os.fsdecode(b"caf\xe9"), "is not UTF-8 on this disk; rename that folder, or give a link to it"),
  ("n" * 231, "a name may have 230 bytes and a path 3800; give a shorter one"),
  ("n/" * 2000, "a name may have 230 bytes and a path 3800; give a shorter one"),
]


@pytest.mark.parametrize(("path", "reason"), WRONG)
def test_what_no_path_can_be_is_refused_by_the_flag_and_by_the_library(path, reason):
  for stage, name in CASES:
    with pytest.raises(flags.Error) as error:
      parsed(stage, f"--{name}={path}")
    assert str(error.value).startswith(f"flag --{name}=")
    assert reason in str(error.value)
  for make in (
    lambda: SearchConfig(path),
    lambda: TrainConfig("w", init_from=path),
    lambda: PredictConfig(checkpoint=("a", path), data_dir="d", out="o"),
    lambda: ExperimentConfig.of(workdir="w", test_dir=path),
  ):
    with pytest.raises(InputError, match="must be a path that can be used, got '") as error:
      make()
    assert reason in str(error.value)


def test_a_folder_above_counts_as_well(tmp_path, monkeypatch):
  above = tmp_path / os.fsdecode(b"caf\xe9")
  above.mkdir()
  monkeypatch.chdir(above)
  with pytest.raises(flags.Error, match=r"flag --workdir=run: .*is not UTF-8 on this disk"):
    parsed("search", "--workdir=run")
  # A link is the way out.
  (tmp_path / "link").symlink_to(above)
  assert parsed("search", f"--workdir={tmp_path / 'link'}")["workdir"].value == f"{tmp_path / 'link'}"


def test_what_stands_in_the_way_is_said_before_anything_is_made(tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "nowhere").symlink_to("none")
  (tmp_path / "loop").symlink_to("loop")
  for path, reason in (
    ("file/below", f"{tmp_path}/file is a file, in which nothing can be"),
    ("file/far/below", f"{tmp_path}/file is a file, in which nothing can be"),
    ("nowhere", f"{tmp_path}/nowhere is a link to nowhere; make what it leads to"),
    ("nowhere/below", f"{tmp_path}/nowhere is a link to nowhere"),
    ("loop", "its links lead in a circle"),
    ("loop/below", "its links lead in a circle"),
  ):
    with pytest.raises(flags.Error) as error:
      parsed("phantom", f"--out={tmp_path / path}")
    assert reason in str(error.value)
  assert parsed("phantom", f"--out={tmp_path}/new/below")["out"].value == f"{tmp_path}/new/below"


def test_a_message_of_the_library_gets_the_flag_of_its_path(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  for workdir, shown in (("run", "run"), (f"{tmp_path}/run", f"{tmp_path}/run"), (".", str(tmp_path))):
    assert main(["report", f"--workdir={workdir}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {shown}/dataset/manifest.json is missing; ")
    assert said.endswith(" (--workdir)\n")
  values = parsed("train", "--workdir=run", "--init_from=run")
  assert named_path(values, "no checkpoint in run/x") == "--workdir or --init_from"
  # It names the flag, or no path at all.
  assert named_path(values, "init_from must be another than run/x") is None
  assert named_path(values, "epochs must be a number; run again") is None
