"""Flags with values of every sort: each stage takes them, or refuses with one message that names the flag, at the door.

Nothing long is done: where a stage would begin its work, `AtTheDoor` is raised. All checks before it are the true ones.
"""

import functools
import importlib
import os
import random
import re
import shutil
import signal
import types
from pathlib import Path

import pytest
from absl import flags

from launch.__main__ import STAGES, main

SEED = 11


def words(text):
  return text.split()


NUMBERS = words(
  f"0 -1 1 2 7 {2**31} {2**63} {2**64} {-(2**63)} {'9' * 400} 1e400 -1e400 nan inf -inf 0.5 1e-320 1.0 1e6 0x10 \uff11"
)
NO_NUMBER = {"9" * 400, "1e400", "-1e400", "nan", "inf", "-inf"}
NO_WHOLE = {str(2**63), str(2**64), str(-(2**63))} | NO_NUMBER
TEXTS = ["", " ", "\udce9", "a\0b", "a\nb", "\x1b[2J"]
TEXTS += words("é - -- = , ,, a,b all None ' {} %s 1,1 1,1,1 16,16,16")
WORDS = words("nan,1,1 -1,1,1 inf,1,1 100000,100000,100000 LPS LPX lps cpu tpu brats2019 nnunet auto true false")
PLACES = words("none none/none file file/below empty loop loop/x nowhere nowhere/x pipe [1] a*b back\\slash caf\udce9")
PLACES += ["n" * 300, "n/" * 2000, *words("data run run/dataset bad.yaml bad.json bad.csv")]
PATHS = [f"{{tmp}}/{name}" for name in PLACES]
PATHS += words("/dev/null /dev/null/x ~ ~/none ~nobody.known ~nobody.known/x . .. / //")
PATHS += ["searched/test={tmp}/bad.csv", "other/test={tmp}/bad.csv"]
# What else a flag is called in a message, where it is that of the library's argument.
ALSO = {"predictions": ("predictions_dir",), "coordinator": ("processes",)}


class AtTheDoor(BaseException):
  """The stage was about to begin its work."""


@pytest.fixture(scope="module")
def places(tmp_path_factory, phantom_dataset):
  """A folder of places to point at, of which nothing may change."""
  folder = tmp_path_factory.mktemp("places")
  shutil.copytree(phantom_dataset.folder.parent / "data", folder / "data")
  shutil.copytree(phantom_dataset.folder, folder / "run" / "dataset")
  for name in ("empty", "home", "predictions"):
    (folder / name).mkdir()
  for truth in (folder / "data").glob("*/*/*_seg.nii.gz"):
    shutil.copy(truth, folder / "predictions" / truth.name.replace("_seg", ""))
  (folder / "file").write_text("no folder")
  for name in ("bad.yaml", "bad.json", "bad.csv"):
    (folder / name).write_bytes(b"\xff{[\x00")
  (folder / "loop").symlink_to("loop")
  (folder / "nowhere").symlink_to("none")
  os.mkfifo(folder / "pipe")
  return folder


@pytest.fixture
def door(monkeypatch, places, phantom_dataset):
  """Every stage stops where its long work would begin."""
  import jax

  from nas3d_jax.convert import write as convert
  from nas3d_jax.export import write
  from nas3d_jax.inference import predict

  def stop(*_, **__):
    raise AtTheDoor

  def restored(runs, *arguments, **options):
    trained = [*runs] == [places / "empty"]  # stands for a training here
    stands = types.SimpleNamespace(schema=phantom_dataset.schema, settings={}, incomplete=False)
    return stands if trained else real(runs, *arguments)

  def opened(run, **options):
    if Path(run) == places / "empty":
      raise AtTheDoor
    return restore(run, **options)

  monkeypatch.setenv("HOME", str(places / "home"))
  monkeypatch.chdir(places / "empty")
  real, restore, read = predict.restore_ensemble, write.restore, convert.read_torch_file
  monkeypatch.setattr(write, "restore", opened)
  monkeypatch.setattr(predict, "restore_ensemble", restored)
  monkeypatch.setattr(convert, "state_dict_of", stop)
  monkeypatch.setattr(convert, "read_torch_file", lambda path: None if Path(path) == places / "file" else read(path))
  monkeypatch.setattr(jax.distributed, "initialize", stop)
  for place in (
    "data.phantom.ProgressBar", "data.inspection.inspect_cases.each", "data.dataset.preprocess.common_geometry",
    "data.dataset.preprocess._reuse", "training.search.SearchSession", "training.train.TrainSession",
    "inference.predict.PredictionFolder", "inference.predict.cross_validation_jobs", "evaluation.evaluate.each",
    "report.build._write", "report.watch._watch",
  ):  # fmt: skip
    module, _, name = place.rpartition(".")
    monkeypatch.setattr(importlib.import_module(f"nas3d_jax.{module}"), name, stop)
  monkeypatch.setattr("launch.demo.commands", stop)
  for name in ("set_xla_flags", "enable_compilation_cache", "keep_freed_memory"):
    monkeypatch.setattr(f"nas3d_jax.runtime.devices.{name}", lambda *_: None)


def defaults(stage, places):
  """What must be given, and more where it lets the stage come further; all of it is right."""
  run, data, out = f"--workdir={places / 'run'}", f"--data_dir={places / 'data'}", f"--out={places / 'new'}"
  small = ["--nodes=1", "--depth=2", "--patch_size=8", "--kernels=1"]
  return {
    "phantom": [out],
    "inspect": [data],
    "preprocess": [data, f"--workdir={places / 'new'}", "--folds=2"],
    "search": [run, *small],
    "train": [run, "--patch_size=8", "--network=unet3d", "--levels=2"],
    "predict": [data, out, f"--checkpoint={places / 'empty'}"],
    "evaluate": [f"--predictions={places / 'predictions'}", data, out],
    "report": [run],
    "experiment": [run, data, "--dry_run"],
    "demo": [f"--workdir={places / 'new'}"],
    "export": [f"--checkpoint={places / 'empty'}", out],
    "convert": [
      f"--from={places / 'file'}", out, "--schema=brats2019", "--modalities=flair,t1,t1ce,t2", "--regions=WT,TC,ET"
    ],
    "watch": [run],
  }[stage]


def kind(flag):
  """number, switch or text."""
  if flag.boolean:
    return "switch"
  return "number" if flag.parser.flag_type() in ("int", "float") else "text"


def drawn(stage, flag, generator):
  """Values for a flag: all of its kind, and some of the others."""
  if type(flag.parser).__name__ == "PathParser":
    return PATHS + generator.sample(WORDS, 4) + generator.sample(TEXTS, 8) + generator.sample(NUMBERS, 3)
  if kind(flag) == "number":
    # The experiment has those of search and training once more.
    numbers = generator.sample(NUMBERS, 9) if stage == "experiment" else NUMBERS
    return numbers + generator.sample(TEXTS, 6) + generator.sample(PATHS, 2)
  return TEXTS + WORDS + generator.sample(NUMBERS, 8) + generator.sample(PATHS, 4)


def outcome(arguments, capsys):
  """The exit code and what stderr says, or what was raised."""
  import jax

  platforms = jax.config.jax_platforms
  signal.setitimer(signal.ITIMER_REAL, 5)
  try:
    code = main(arguments)
  except AtTheDoor:
    code = "door"
  except BaseException as error:
    code = f"{type(error).__name__}: {error!s:.200}"
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    jax.config.update("jax_platforms", platforms)
  return code, capsys.readouterr().err


def tree(folder):
  return {path for path in folder.rglob("*")}


def cleared(folder, before):
  """Removes what a stage made before it stopped."""
  for path in sorted(tree(folder) - before, reverse=True):
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize("stage", STAGES)
def test_flags(stage, door, places, capsys, request):
  def late(*_):
    raise TimeoutError("longer than 5 s")

  request.addfinalizer(functools.partial(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, late)))
  values, generator, before = flags.FlagValues(), random.Random(f"{SEED} {stage}"), tree(places)
  module = importlib.import_module(f"launch.{stage}")
  module.define(values)
  own = {flag.name: flag for flag in values.flags_by_module_dict()[module.__name__]}
  right = defaults(stage, places)
  assert outcome([stage, *right], capsys)[0] in ("door", 0)
  wrong = []
  for name, flag in sorted(own.items()):
    for value in drawn(stage, flag, generator):
      given = value.format(tmp=places) if "{tmp}" in value else value
      if given.strip("/") == "" and given:
        continue  # a folder of the machine
      code, said = outcome([stage, *(f for f in right if not f.startswith(f"--{name}=")), f"--{name}={given}"], capsys)
      cleared(places, before)
      fine = code == 2 and said.startswith("error: ") | ("\nerror: " in said) and said.count("error: ") == 1
      # A list of cases names the folder where something is wrong with them.
      named = any(re.search(rf"\b{word}\b", said) for word in (name, *ALSO.get(name, ())))
      fine = fine and (named or ("\n  " in said and os.path.expanduser(given) in said))
      if code in (0, "door"):
        # A number that no memory holds, or none at all, is never let in.
        refused = {"int": NO_WHOLE, "float": NO_NUMBER}.get(flag.parser.flag_type(), ())
        fine = value not in refused
      if not fine:
        wrong.append((f"--{name}={value:.60}", code, said[-300:]))
  assert not wrong, "\n".join(map(str, wrong))
