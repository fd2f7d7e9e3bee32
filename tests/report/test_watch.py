"""Watching a run: what is drawn of it, when, and that it only reads."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from launch.__main__ import main
from nas3d_jax.errors import InputError
from nas3d_jax.files.locks import locked
from nas3d_jax.report import watch as module
from nas3d_jax.report.watch import watch
from tests.report.test_build import fake_training

SEARCH_FIGURES = {"fig7_history", "entropy", "weights_down", "weights_up"}


class Over(BaseException):
  """Ends a watch that would go on."""


@pytest.fixture
def run(searched, tmp_path):
  """A search that is not over, whose last line is half written."""
  folder = tmp_path / "run" / "search"
  folder.mkdir(parents=True)
  lines = (searched / "search" / "metrics.jsonl").read_text().splitlines(keepends=True)
  (folder / "metrics.jsonl").write_text(lines[0] + lines[1][:40])
  shutil.copy(searched / "search" / "config.json", folder)
  return folder.parent


def tree(folder):
  return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "watch" not in path.parts}


def drawn(page):
  return set(json.loads((page.parent / "figures" / "made.json").read_text()))


def test_once_draws_what_there_is_and_only_reads_it(run, capsys):
  fake_training(run / "unet3d" / "all", epochs=3)
  before = tree(run)
  with locked(run / "search"), locked(run / "unet3d" / "all"):  # as the stages that are under way
    assert main(["watch", f"--workdir={run}", "--once", "--every=7.5"]) == 0
  out, err = capsys.readouterr()
  page = run / "watch" / "index.html"
  assert out == f"{page}\n"
  loss = json.loads((run / "search" / "metrics.jsonl").read_text().splitlines()[0])["validation_loss"]
  assert "search: epoch 1 of 3, hybrid loss 0." in err
  assert f"validation loss {loss:.4f}; unet3d/all: epoch 3 of 3, over, loss 0.8100\n" in err
  assert tree(run) == before
  assert drawn(page) == {*SEARCH_FIGURES, "trainings", "rates"}
  for name in drawn(page):
    with Image.open(page.parent / "figures" / f"{name}.png") as picture:
      assert picture.width == 1080
  text = page.read_text("utf-8")
  assert '<meta http-equiv="refresh" content="8">' in text
  assert text.count("<img ") == 6
  assert "src=\"http" not in text


def test_it_waits_draws_and_draws_again_when_a_run_has_come_further(tmp_path, monkeypatch, capsys):
  run = tmp_path / "run"
  folder = run / "train" / "0"
  run.mkdir()
  path = folder / "metrics.jsonl"
  pages = []

  def begin():
    fake_training(folder, epochs=1)

  def nothing():
    pages.append((run / "watch" / "index.html").read_text("utf-8"))

  def further():
    line = path.read_text().splitlines()[0]
    path.write_text(line + "\n" + line.replace('"epoch": 1', '"epoch": 2') + "\n")

  def damaged():
    nothing()
    path.write_text("{}\n")

  def end():
    nothing()
    raise Over

  looks = iter([lambda: None, begin, nothing, further, damaged, end])
  monkeypatch.setattr(module.time, "sleep", lambda seconds: next(looks)())
  with pytest.raises(Over):
    watch(run, every=5)
  said = capsys.readouterr().err.splitlines()
  assert [line.partition(" ")[2].partition(",")[0] for line in said] == [
    f"no search or training has begun in {run}; waiting for one", "train/0: epoch 1 of 1", "train/0: epoch 2 of 1",
    f"not drawn: {path} is damaged: in line 1 there is no epoch; run with --overwrite",
  ]  # fmt: skip
  assert "epoch 1 of 1" in pages[0]
  # What could be drawn last stays.
  assert "epoch 2 of 1" in pages[1]
  assert pages[1] == pages[2]


def test_a_run_without_an_epoch_has_a_page_already(run):
  (run / "search" / "metrics.jsonl").unlink()
  text = watch(run, once=True).read_text("utf-8")
  assert "search: epoch 0 of 3\n" in text
  assert "There is no search yet" not in text
  assert "The search has no epoch yet" in text


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--workdir={tmp}/none", "--once"], "workdir must be a run directory, got '{tmp}/none'; is it mistyped?"),
    (["--workdir={tmp}/empty", "--once"], "no search or training has begun in {tmp}/empty; start one, as by "),
    (["--workdir={tmp}/empty", "--every=0"], "every must be a number of seconds above 0 and at most 86400, got 0.0"),
    (["--workdir={tmp}/empty", "--every=nan"], "every must be a number of seconds above 0 and at most 86400, got nan"),
    (["--workdir={tmp}/empty", "--out={tmp}/full"], "{tmp}/full holds something else than a report"),
    ([], "--workdir is missing"),
  ],
)
def test_wrong_input(tmp_path, capsys, flags, message):
  (tmp_path / "empty").mkdir()
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "thesis.txt").write_text("x")
  assert main(["watch", *(flag.format(tmp=tmp_path) for flag in flags)]) == 2
  err = capsys.readouterr().err
  assert err.startswith(f"error: {message.format(tmp=tmp_path)}")
  assert err.count("\n") == 1
  assert not list((tmp_path / "empty").iterdir())


def test_once_says_what_is_damaged(run):
  (run / "search" / "metrics.jsonl").write_text('{"epoch": 1}\n')
  with pytest.raises(InputError, match=r"metrics.jsonl is damaged: in line 1 there is no hybrid_loss"):
    watch(run, once=True)


def test_it_needs_no_jax_and_ends_by_a_signal(tmp_path):
  """A process of its own: JAX would take the memory of the GPU that the run computes on."""
  run = tmp_path / "run"
  fake_training(run / "train" / "0")
  script = "import sys; sys.modules['jaxlib'] = None; from launch.__main__ import command; "
  script += f"command(['watch', {f'--workdir={run}'!r}, '--every=0.1'])"
  root = Path(module.__file__).parents[2]
  process = subprocess.Popen([sys.executable, "-c", script], cwd=root, stderr=subprocess.PIPE, text=True)
  try:
    page = run / "watch" / "index.html"
    until = time.monotonic() + 60
    while not page.exists() and process.poll() is None and time.monotonic() < until:
      time.sleep(0.05)
    process.terminate()
    said = process.communicate(timeout=20)[1]
  finally:
    process.kill()
  assert page.exists(), said
  assert process.returncode == 143, said
  assert said.splitlines()[-1].startswith("stopped by SIGTERM; nothing was left to save. To go on: ")
