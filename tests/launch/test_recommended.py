"""What messages recommend exists: every flag and stage that they name, and some that are done as they say."""

import ast
import importlib
import re
import subprocess

import pytest
from absl import flags

from launch.__main__ import STAGES, main
from tests.house.test_house import FILES, OURS, TREES, module_name

FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9_]*)")
STAGE = "|".join(STAGES)
COMMAND = re.compile(
  rf"(?:python -m launch (\w+)|`(\w+)|\b({STAGE})(?= (?:\{{\}} )?--))((?: (?:--[\w-]+(?:=[^\s`]*)?|\{{\}}))*)"
)
# Of absl, of other programs, and stand-ins.
OTHERS = {"help", "helpshort", "helpfull", "flags", "name", "version"}


def defined(stage):
  values = flags.FlagValues()
  importlib.import_module(f"launch.{stage}").define(values)
  return set(values)


FLAGS = {stage: defined(stage) for stage in STAGES}


def reached(module):
  found, new = set(), {module}
  while new:
    found |= new
    new = set().union(*(OURS[name] for name in new)) - found
  return found


REACHED = {stage: reached(f"launch.{stage}") for stage in STAGES}


def texts(tree):
  """Strings that a program may show, with {} for what is filled in; docstrings are for readers of the code."""
  nodes = (ast.Module, ast.FunctionDef, ast.ClassDef)
  silent = {id(s.value) for node in ast.walk(tree) if isinstance(node, nodes) for s in node.body
            if isinstance(s, ast.Expr)}  # fmt: skip
  for node in ast.walk(tree):
    if isinstance(node, ast.JoinedStr):
      silent |= {id(part) for part in ast.walk(node)}
      yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
      yield node.value


def commands(tree):
  """Stage and flags of each command that a text names, or that the report gives for what is missing."""
  found = [match for text in texts(tree) for match in COMMAND.findall(text)]
  for node in ast.walk(tree):
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "missing" and len(node.args) == 2:
      found += [match for text in texts(node.args[1]) for match in COMMAND.findall(f"`{text}")]
  return [("".join(stage), said) for *stage, said in found]


def unknown(names, known):
  return {name for name in names if name not in known and name.removeprefix("no") not in known}


# Of a flag alone, the stage is the one that runs; a command names its own.
ALONE = {
  name: {flag for text in texts(tree) for flag in FLAG.findall(COMMAND.sub("", text))} - OTHERS
  for name, tree in TREES.items() if name != "launch.demo"
}  # fmt: skip


@pytest.mark.parametrize("module", sorted(name for name, named in ALONE.items() if named))
def test_flags_that_messages_name_are_flags_of_a_stage_that_can_say_it(module):
  can_say_it = [stage for stage in STAGES if module in REACHED[stage] and module != "launch.__main__"] or STAGES
  assert not unknown(ALONE[module], set().union(*(FLAGS[stage] for stage in can_say_it))), can_say_it


def test_commands_that_messages_give_are_stages_with_these_flags():
  found = [(module_name(path), *found) for path in FILES for found in commands(TREES[module_name(path)])]
  found = [(name, stage, said) for name, stage, said in found if said or stage in STAGES]
  assert {stage for _, stage, _ in found} >= {"preprocess", "search", "train", "experiment", "report"}
  for name, stage, said in found:
    assert stage in (*STAGES, "STAGE"), name
    assert stage == "STAGE" or not unknown(set(FLAG.findall(said)) - OTHERS, FLAGS[stage]), (name, stage, said)
    # Values that are given are such as the flag takes.
    words = [word.rstrip("),.;") for word in said.split()]
    given = [word for word in words if "=" in word and not re.search(r"\{|\.\.\.|=[A-Z]+\b|=$", word)]
    if given and stage != "STAGE":
      values = flags.FlagValues()
      importlib.import_module(f"launch.{stage}").define(values)
      values([stage, *given])


def test_cases_that_were_not_predicted_are_left_out_as_the_message_says(tmp_path, capsys):
  data, predictions = tmp_path / "data", tmp_path / "predictions"
  assert main(["phantom", f"--out={data}", "--cases=3", "--shape=16,16,16"]) == 0
  predictions.mkdir()
  names = ["Phantom_0001", "Phantom_0003"]
  for name in names:
    (truth,) = data.glob(f"*/{name}/*_seg.nii.gz")
    (predictions / f"{name}.nii.gz").write_bytes(truth.read_bytes())
  command = ["evaluate", f"--predictions={predictions}", f"--data_dir={data}", f"--out={tmp_path / 'scores'}"]
  assert main(command) == 2
  said = capsys.readouterr().err
  assert "Phantom_0002: no prediction" in said
  assert "predict it, or name the cases to score with --cases" in said
  assert main([*command, f"--cases={names[0]}", f"--cases={names[1]}"]) == 0
  table = (tmp_path / "scores" / "scores.csv").read_text()
  assert [name in table for name in (*names, "Phantom_0002")] == [True, True, False]
  # Repeated or with commas, they are the same.
  assert main([*command, f"--cases={','.join(names)}"]) == 0
  assert "reused" in capsys.readouterr().err
  assert "or leave out all like it with --only_predicted" in said
  assert main([*command, "--only_predicted"]) == 0
  assert "reused" in capsys.readouterr().err
  assert main([*command, "--cases="]) == 2
  assert "there is no case to score in cases" in capsys.readouterr().err


def test_a_run_that_cannot_be_written_to_is_reported_elsewhere(workdir, small_disk, tmp_path, capsys):
  subprocess.run(["cp", "-r", workdir, small_disk / "run"], check=True)
  subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
  command = ["report", f"--workdir={small_disk / 'run'}"]
  assert main(command) == 2
  assert "report cannot be written to" in (said := capsys.readouterr().err)
  assert "--out=FOLDER" in said
  assert main([*command, f"--out={tmp_path / 'elsewhere'}"]) == 0
  assert (tmp_path / "elsewhere" / "index.html").exists()


def test_a_single_case_is_enough_to_train_on_all(tmp_path, capsys):
  data, run = f"--data_dir={tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}"
  assert main(["phantom", f"--out={tmp_path / 'data'}", "--cases=1", "--shape=16,16,16"]) == 0
  assert main(["preprocess", data, run]) == 2
  assert "or use --folds=1, which is enough for train --fold=all" in capsys.readouterr().err
  assert main(["preprocess", data, run, "--folds=1"]) == 0
  size = ["--network=unet3d", "--filters=1", "--levels=2", "--patch_size=16", "--epochs=1", "--platform=cpu"]
  assert main(["train", run, "--fold=all", *size]) == 0
  assert (tmp_path / "run" / "unet3d" / "all" / "checkpoints").is_dir()
  assert main(["train", run, "--fold=0", *size]) == 2
  assert "fold 0 leaves no case for the training part" in capsys.readouterr().err
