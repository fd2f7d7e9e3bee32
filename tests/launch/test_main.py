"""The command line: what is listed, what is refused and how, what reaches the library."""

import dataclasses
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from absl import flags

from launch import demo, phantom, search
from launch.__main__ import STAGES, again, main
from launch.flags import build
from nas3d_jax.errors import InputError
from nas3d_jax.runtime.stopping import Stopped
from nas3d_jax.training.config import SearchConfig

ROOT = Path(phantom.__file__).parents[1]
RECIPE = (
  "sampling foreground_share steps_per_epoch recipe loss dice_over optimizer weight_decay schedule warmup clip_norm "
  "augmentation mirror modality_dropout output"
)
# What is newer than the paper about searches.
SEARCH = "method temperature operations cost_weight cost warmup_epochs"
FLAGS = {
  "phantom": "out cases seed shape",
  "inspect": "data_dir schema workers json",
  "preprocess": "data_dir workdir schema folds seed orientation spacing foreground normalization overwrite",
  "search": f"workdir fold {SEARCH} patch_size epochs min_count batch_size kernels nodes depth variant "
  "hybrid_learning_rate kernel_learning_rate dropout seed skip_empty augment data_placement "
  f"{RECIPE} precision skip_nonfinite checkpoint_minutes tracker overwrite platform devices coordinator processes "
  "process",
  "train": "workdir fold network genotype init_from init_partial patch_size epochs batch_size kernels nodes depth "
  f"variant filters levels learning_rate dropout ema seed skip_empty augment data_placement {RECIPE} precision "
  "skip_nonfinite checkpoint_minutes tracker overwrite platform devices coordinator processes process",
  "predict": "workdir fold cross_validation network checkpoint data_dir schema cases out patch_size tta tta_axes "
  "overlap gaussian whole_volume patch_batch min_component_ml probabilities overwrite shard platform devices",
  "evaluate": "predictions data_dir out schema cases only_predicted tolerance overwrite",
  "report": "workdir out portal_csv test_dir schema seed overwrite",
  "experiment": "workdir data_dir test_dir schema test_schema portal_csv folds orientation spacing foreground "
  f"normalization nested seeds random retrain_seeds cost_weights {SEARCH} search_patch_size "
  "search_epochs min_count hybrid_learning_rate kernel_learning_rate search_dropout patch_size epochs batch_size "
  "kernels nodes depth variant filters levels learning_rate dropout unet3d_learning_rate unet3d_dropout "
  "plain_unet_learning_rate plain_unet_dropout baseline skip_empty "
  f"augment {RECIPE} ema tta tta_axes overlap gaussian whole_volume patch_batch min_component_ml choose_min_component "
  "data_placement precision skip_nonfinite checkpoint_minutes tracker overwrite dry_run platform devices",
  "demo": "workdir platform",
  "export": "checkpoint out format platform",
  "convert": "from out schema modalities regions genotype patch_size foreground normalization xi lam platform",
  "watch": "workdir out every once",
}


def values(stage, *arguments):
  got = flags.FlagValues()
  stage.define(got)
  got(["stage", *arguments])
  return got


def refused(capsys, *arguments):
  """The message of a command that must be refused: exit code 2, one message, no traceback."""
  assert main(arguments) == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert err.startswith("error: ")
  assert err.count("error: ") == 1
  assert "Traceback" not in err
  return err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--helpfull"]])
def test_stages_are_listed_with_one_line_each(capsys, arguments):
  assert main(arguments) == 0
  lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
  listed = {line[0]: line[1] for line in lines if line and line[0] in STAGES}
  assert tuple(listed) == tuple(FLAGS)
  assert all(text.endswith(".") for text in listed.values())


@pytest.mark.parametrize("stage", FLAGS)
def test_help_shows_the_stages_own_flags_only(capsys, stage):
  assert main([stage, "--help"]) == 0
  lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
  listed = [line.removeprefix("--").split(":")[0] for line in lines if line.startswith("--")]
  assert sorted(name.removeprefix("[no]") for name in listed) == sorted(FLAGS[stage].split())


def test_helpfull_shows_the_flags_for_flags_as_well(capsys):
  assert main(["phantom", "--helpfull"]) == 0
  text = capsys.readouterr().out
  assert "--flagfile" in text
  assert "--cases" in text


def test_help_tells_how_empty_regions_count(capsys):
  assert main(["evaluate", "--help"]) == 0
  assert "373.13" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["serach"], "no stage 'serach'; did you mean search?"),
    (["frobnicate"], "no stage 'frobnicate'; there are phantom, inspect, preprocess, search, train"),
    (["search", "--epoch=3"], "Unknown command line flag 'epoch'. Did you mean: epochs ?"),
    (["search", "--wrokdir=x"], "Unknown command line flag 'wrokdir'. Did you mean: workdir ?"),
    (["train", "--min_count=3"], "Unknown command line flag 'min_count'"),
    (["search", "--patch_size=autos"], "flag --patch_size=autos: a whole number, or three with commas, or auto"),
    (["search", "--epochs=many"], "flag --epochs=many: invalid literal for int()"),
    (["search", "--patch_size=0"], "flag --patch_size=0: 0 is not a positive integer"),
    (["search", "--variant=other"], "flag --variant=other: value should be one of"),
    (["search", "run"], "what is 'run'? Flags are written --name=value"),
    (["search"], "--workdir is missing (python -m launch search --help)"),
    (["predict", "--out=x"], "--data_dir is missing"),
    (["search", "--flagfile=/none/such"], "Unable to open flagfile"),
    (["train", "--workdir=x", "--fold=al"], "--fold must be the number of a fold, from 0, or all"),
    (["predict", "--data_dir=x", "--out=y", "--fold=-1"], "--fold must be the number of a fold"),
    (
      ["search", "--workdir=x", "--method=random", "--epochs=3", "--batch_size=2", "--nodes=2", "--seed=1"],
      "--method=random draws a genotype without training and does not use --batch_size, --epochs; leave them out",
    ),
    (["phantom", "--out=x", "--shape=64,64"], "--shape must be three whole numbers, D,H,W, got"),
    (["phantom", "--out=x", "--shape=64,x,64"], "--shape must be three whole numbers, D,H,W, got"),
  ],
)
def test_wrong_commands_are_refused_with_one_message(capsys, arguments, message):
  assert refused(capsys, *arguments).startswith(message)


def test_what_a_full_disk_says_is_one_message(capsys, tmp_path, monkeypatch):
  def fail(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))

  monkeypatch.setattr("launch.phantom.main", fail)
  message = refused(capsys, "phantom", f"--out={tmp_path}")
  assert f"({tmp_path / 'x'}: No space left on device); make room" in message


def test_a_folder_that_was_deleted_is_not_run_in(capsys, tmp_path, monkeypatch):
  (tmp_path / "gone").mkdir()
  monkeypatch.chdir(tmp_path / "gone")
  (tmp_path / "gone").rmdir()
  assert main(["train", "--workdir=run"]) == 2
  said = "error: the current folder is not there (No such file or directory); cd to one that is, and run it again\n"
  assert capsys.readouterr().err == said


def test_what_the_library_refuses_is_one_message(capsys, tmp_path):
  message = refused(capsys, "preprocess", f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'run'}")
  assert str(tmp_path) in message


def test_phantom_preprocess_and_a_flagfile(capsys, tmp_path):
  file = tmp_path / "phantom.flags"
  file.write_text(f"# a comment\n--out={tmp_path / 'data'}\n--cases=2\n--shape=24,20,16\n", "utf-8-sig")
  assert main(["phantom", f"--flagfile={file}", "--seed=3"]) == 0
  assert len(list((tmp_path / "data").glob("*/*/*_seg.nii.gz"))) == 2
  data = f"--data_dir={tmp_path / 'data'}"
  assert main(["preprocess", data, f"--workdir={tmp_path / 'run'}", "--folds=2"]) == 0
  assert "2 cases, 2 folds in" in capsys.readouterr().out
  assert (tmp_path / "run" / "dataset" / "manifest.json").exists()


def test_evaluate_prints_the_summary(capsys, tmp_path):
  data = tmp_path / "data"
  assert main(["phantom", f"--out={data}", "--cases=1", "--shape=24,24,24"]) == 0
  (truth,) = data.glob("*/*/*_seg.nii.gz")
  (tmp_path / "predictions").mkdir()
  name = truth.name.replace("_seg", "")
  (tmp_path / "predictions" / name).write_bytes(truth.read_bytes())
  where = [f"--predictions={tmp_path / 'predictions'}", f"--data_dir={data}"]
  assert main(["evaluate", *where, f"--out={tmp_path / 'scores'}"]) == 0
  assert "WT" in capsys.readouterr().out
  # The truth itself as the prediction: Dice 1 for every region.
  rows = (tmp_path / "scores" / "scores.csv").read_text().splitlines()
  header = rows[0].split(",")
  assert {float(row.split(",")[header.index("dice")]) for row in rows[1:]} == {1.0}


def test_a_configuration_has_all_flags_but_those_of_the_platform():
  got = dataclasses.asdict(build(SearchConfig, values(search, "--workdir=w", "--noaugment", "--epochs=2")))
  assert got.keys() == set(FLAGS["search"].split()) - {"platform", "coordinator", "processes", "process"}
  assert (got["workdir"], got["augment"], got["epochs"]) == ("w", False, 2)
  # The paper's own figures, sections 3.4 and 3.5, N_E and N_C not swapped.
  paper = {"patch_size": 64, "min_count": 40, "batch_size": 1, "nodes": 3, "depth": 4}
  assert {name: got[name] for name in paper} == paper


@pytest.mark.parametrize(
  ("raised", "code", "said"),
  [
    (KeyboardInterrupt(), 130, "interrupted"),
    (Stopped(15, "sail on"), 143, "stopped by SIGTERM; all that was done is saved. To go on: sail on\n"),
    (InputError("fold must be below 5, got 9"), 2, "error: fold must be below 5, got 9\n"),
    (MemoryError(), 2, "error: memory is used up; let the process have more (ulimit -v, "),
    (ImportError("libx.so: failed to map segment from shared object"), 2, "error: memory is used up (libx.so: failed"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nmore"), 2, "used up (RESOURCE_EXHAUSTED: 9 bytes); let"),
  ],
)
def test_how_a_stage_ends_is_its_exit_code(monkeypatch, capsys, raised, code, said):
  def stop(_):
    raise raised

  monkeypatch.setattr(phantom, "main", stop)
  assert main(["phantom", "--out=x"]) == code
  assert said in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ("search --workdir=a", "search --workdir=a"),
    ("train --workdir=a --overwrite --epochs=3", "train --workdir=a --epochs=3 --nooverwrite"),
    ("search --overwrite=true --workdir=a", "search --workdir=a --nooverwrite"),
    ("train --flagfile=f", "train --flagfile=f --nooverwrite"),
    ("preprocess --workdir=a --overwrite", "preprocess --workdir=a --overwrite"),
    ("", ""),
  ],
)
def test_how_to_go_on_loses_nothing(arguments, expected):
  first = arguments if arguments.startswith(("search", "train")) else expected
  # What --overwrite deletes may still be there until something is saved; predictions are saved one by one.
  assert again(arguments.split()) == tuple(f"python -m launch {command}".strip() for command in (first, expected))


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
  monkeypatch.setattr(phantom, "main", lambda _: {}["x"])
  with pytest.raises(KeyError):
    main(["phantom", "--out=x"])


def test_the_demos_commands_parse():
  commands = demo.commands("w", "cpu")
  stages = list(dict.fromkeys(command[0] for command in commands))
  assert stages == [stage for stage in STAGES[:8] if stage != "inspect"]
  for name, *arguments in commands:
    values(sys.modules[f"launch.{name}"], *arguments)
  assert all("--platform=cpu" in command for command in commands if command[0] in ("search", "train", "predict"))


def test_xla_is_quiet_unless_told_otherwise(monkeypatch, capsys):
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
  main([])
  assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
  monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
  main([])
  assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
  capsys.readouterr()


def test_stages_are_listed_without_texts_too():
  done = subprocess.run([sys.executable, "-OO", "-m", "launch"], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.splitlines()[2:-2] == [f"  {name}" for name in STAGES]
  assert done.stderr == ""


def test_nothing_slow_is_imported_for_help():
  """The help of evaluate defines metrics, for which NumPy is imported; no other help may."""
  stages = [[], *([stage, "--help"] for stage in STAGES if stage != "evaluate"), ["evaluate", "--help"]]
  script = "import sys; from launch.__main__ import main\n"
  script += f"for arguments in {stages}: print(arguments, [m for m in ('numpy', 'jax', 'rich') if m in sys.modules], "
  script += "main(arguments), file=sys.stderr)\nprint('jax' in sys.modules, file=sys.stderr)"
  done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
  assert done.stderr.splitlines() == [*(f"{arguments} [] 0" for arguments in stages), "False"]


def test_as_a_process_help_comes_without_jax():
  script = "import sys; from launch.__main__ import main; main(['search', '--help']); "
  script += "sys.exit('jax' in sys.modules)"
  start = time.monotonic()
  subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
  assert time.monotonic() - start < 5
  wrong = subprocess.run(
    [sys.executable, "-m", "launch", "search", "--epoch=3"],
    cwd=ROOT, check=False, capture_output=True, text=True,
  )
  assert (wrong.returncode, wrong.stdout) == (2, "")
  assert wrong.stderr.count("\n") == 1
