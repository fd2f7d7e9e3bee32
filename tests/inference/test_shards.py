"""Shards: each case in one of them, all together what one run leaves, in whatever order and however they end."""

import functools
import os
import threading

import pytest

from launch.__main__ import main
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation.evaluate import evaluate
from nas3d_jax.files.locks import locked
from nas3d_jax.inference import predict, shards
from nas3d_jax.inference.predict import predict_cases
from nas3d_jax.inference.prediction_folder import PredictionFolder
from nas3d_jax.inference.shards import Shard, Share, parse_shard, shard_of_array, writing_to
from tests.inference.test_predict import config, workdir, write_case  # noqa: F401
from tests.inference.test_prediction_folder import SETTINGS


def test_each_case_is_in_one_shard_whatever_the_order():
  assert [Shard(k, 3).of("dbaec") for k in (1, 2, 3)] == [{"a", "d"}, {"b", "e"}, {"c"}]
  assert Shard(4, 5).of("cab") == set()


@pytest.mark.parametrize("text", ["0/8", "9/8", "2/0", "a/b", "2", "-1/3", "1/99999999", "", "1/2/3", "1.0/2", "²/3"])
def test_what_is_no_shard_is_refused(capsys, text, tmp_path):
  with pytest.raises(InputError, match=r"^shard must be K/N, the part K, from 1 to N, of N parts"):
    parse_shard(text)
  given = [f"--data_dir={tmp_path}", f"--out={tmp_path / 'out'}", f"--checkpoint={tmp_path}", f"--shard={text}"]
  assert main(["predict", *given]) == 2
  assert capsys.readouterr().err.count("error: ") == 1


def array(task, low, high, count, step=1):
  values = dict(ID=task, MIN=low, MAX=high, COUNT=count, STEP=step)
  return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items() if value is not None}


@pytest.mark.parametrize(
  ("environ", "shard"),
  [
    ({}, None),
    (array(0, 0, 7, 8), (1, 8)),
    (array(7, 0, 7, 8), (8, 8)),
    (array(13, 1, 15, 8, 2), (7, 8)),  # --array=1-15:2
    (array(5, 5, 5, 1), None),
  ],
)
def test_a_task_of_an_array_is_a_shard(environ, shard):
  assert shard_of_array(environ) == shard


@pytest.mark.parametrize(
  "environ",
  [
    array(3, 1, 7, 3),  # --array=1,3,7
    array(2, 1, 7, 4, 2),
    array(9, 0, 7, 8),
    array(1, 2, 7, 6),
    array("x", 0, 7, 8),
    array(-1, 0, 7, 8),
    array(0, 0, 7, None),
    array(0, 0, 7, 0),
    array(0, 0, 7, 8, 0),
    array(0, 0, 99999998, 99999999),
    array("9" * 30, 0, 7, 8),
  ],
)
def test_absurd_arrays_are_refused_with_the_remedy(environ):
  with pytest.raises(InputError, match=r"SLURM_ARRAY_TASK_.*give --shard=K/N, or --shard=1/1 to predict all cases"):
    shard_of_array(environ)


@pytest.fixture(scope="module")
def networks():
  """Networks are restored and compiled once."""
  return functools.cache(predict.restore_ensemble)


@pytest.fixture(autouse=True)
def _quickly(networks, monkeypatch):
  monkeypatch.setattr(predict, "restore_ensemble", networks)
  monkeypatch.setattr(shards, "WAIT", 0.1)


def contents(folder):
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def data(tmp_path):
  folder = tmp_path / "data"
  for index, name in enumerate("abcde"):
    write_case(folder, name, index)
  return folder


@pytest.fixture
def whole(data, workdir):  # noqa: F811
  """What one run leaves."""
  return contents(predict_cases(config(data, workdir, out=data.parent / "whole")).out)


def test_shards_in_any_order_leave_what_one_run_leaves(data, workdir, whole, capsys):  # noqa: F811
  done = [predict_cases(config(data, workdir, shard=f"{k}/3")) for k in (3, 1, 2)]
  assert [summary.predicted for summary in done] == [("c",), ("a", "d"), ("b", "e")]
  assert [summary.pending for summary in done] == [("a", "b", "d", "e"), ("b", "e"), ()]
  assert "shard 3/3: 1 of 5 cases; the others are for" in capsys.readouterr().err
  assert str(done[0]).startswith("shard 3/3: 1 cases predicted, in ")
  assert str(done[0]).endswith("; 4 cases of all shards are not predicted by now: a, b, d, ...")
  assert str(done[2]).endswith("; all cases of all shards are predicted")
  assert contents(data.parent / "out") == whole
  # More shards than cases, again, anew, and by one process: the same.
  for changes in ({"shard": "6/6"}, {"shard": "1/2"}, {"shard": "2/2", "overwrite": True}, {"shard": "1/1"}):
    predict_cases(config(data, workdir, **changes))
    assert contents(data.parent / "out") == whole
  assert "shard 6/6 has nothing to do: there are 5 cases, fewer than shards" in capsys.readouterr().err


def test_overwriting_shards_leave_what_one_run_leaves(data, workdir):  # noqa: F811
  """Over other settings and more cases: what is left of the former run goes, what a shard of this one made stays."""
  changes = dict(cases=("b", "a", "c"), overwrite=True, probabilities=True)
  for out in ("whole", "out"):
    predict_cases(config(data, workdir, out=data.parent / out))
  one = predict_cases(config(data, workdir, out=data.parent / "whole", **changes))
  for shard in ("2/2", "1/2", "2/2"):
    predict_cases(config(data, workdir, shard=shard, **changes))
  assert contents(data.parent / "out") == contents(one.out)


def test_a_bad_case_and_cross_settings(data, workdir):  # noqa: F811
  (data / "b" / "b_t1.nii.gz").write_bytes(b"none")
  (data / "d" / "d_t2.nii.gz").unlink()
  with pytest.raises(InputError, match="2 of the cases cannot be predicted"):
    predict_cases(config(data, workdir, out=data.parent / "whole"))
  predict_cases(config(data, workdir, shard="1/2"))
  with pytest.raises(InputError, match="2 of the cases cannot be predicted; shard 2/2: 0 cases predicted"):
    predict_cases(config(data, workdir, shard="2/2"))
  assert contents(data.parent / "out") == contents(data.parent / "whole")
  with pytest.raises(InputError, match=r"was predicted with checkpoints=.*; give --overwrite to predict anew, or"):
    predict_cases(config(data, workdir, shard="2/2", fold=(1,)))


def test_evaluate_names_what_missing_shards_left(data, workdir):  # noqa: F811
  out = predict_cases(config(data, workdir, shard="1/2")).out
  for name in "abcde":
    (data / name / f"{name}_seg.nii.gz").write_bytes((out / "a.nii.gz").read_bytes())
  with pytest.raises(InputError) as error:
    evaluate(out, data, data.parent / "scores")
  for name in "bd":
    expected = f"{name}: no prediction {name}.nii.gz or .nii in {out}, whose predictions.json has it as not"
    assert expected in str(error.value)
  assert "run predict again, all its shards, or name the cases to score with --cases" in str(error.value)


def test_shards_at_once_leave_what_one_run_leaves(data, workdir, whole):  # noqa: F811
  """Threads open each lock anew, which are to `flock` other processes."""
  ends = []

  def work(k):
    ends.append(predict_cases(config(data, workdir, shard=f"{k}/3")).pending)

  threads = [threading.Thread(target=work, args=(k,)) for k in (1, 2, 3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(ends) == 3
  assert () in ends
  assert contents(data.parent / "out") == whole


def test_the_command_takes_the_task_of_an_array_and_says_so(data, workdir, capsys, monkeypatch):  # noqa: F811
  given = ["predict", f"--workdir={workdir}", "--fold=0", f"--data_dir={data}", f"--out={data.parent / 'out'}"]
  for name, value in array(5, 4, 6, 3).items():
    monkeypatch.setenv(name, value)
  assert main([*given, "--platform=cpu"]) == 0
  said = capsys.readouterr()
  assert "task 5 of a SLURM array: predicts part 2/3 of the cases alone (--shard=2/3); --shard=1/1" in said.err
  assert "shard 2/3: 2 cases predicted, in " in said.out
  assert main([*given, "--platform=cpu", "--shard=1/1"]) == 0
  said = capsys.readouterr()
  assert "SLURM" not in said.err
  assert said.out.splitlines()[-1].startswith("3 cases predicted, 2 reused")


def record(tmp_path, shard=None, **changes):
  given = dict(settings=SETTINGS, cases=list(NAMES)) | changes
  return PredictionFolder(tmp_path / "out", share=shard and Share(shard, shard.of(NAMES)), **given)


NAMES = [f"c{index:02}" for index in range(40)]


class Raw:
  """A case of which the record alone is of interest."""

  def __init__(self, name):
    self.files, self.checksums, self.header = self, {"x.nii": name}, None
    self.name, self.missing = name, ("t1",) * (int(name[1:]) % 3 == 0)


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no locks")
def test_no_shard_loses_what_another_records_at_the_same_time(tmp_path, monkeypatch):
  """Each thread opens the lock anew, which is to `flock` another process; all end half-way and come again."""
  monkeypatch.setattr("nas3d_jax.inference.prediction_folder.write_volume", lambda path, *_: path.write_bytes(b"x"))
  one = record(tmp_path)
  for name in NAMES:
    one.write(Raw(name), None, None)
  expected = contents(tmp_path / "out")
  for path in (tmp_path / "out").iterdir():
    path.unlink()
  faults = []

  def work(number, most):
    shard = Shard(number, 4)
    try:
      with writing_to(tmp_path / "out", shard):
        folder = record(tmp_path, shard)
        for name in sorted(shard.of(NAMES), reverse=number % 2 == 0)[:most]:
          if folder._cases[name] is None:
            folder.write(Raw(name), None, None)
    except BaseException as error:
      faults.append(error)

  for most in (3, None):
    threads = [threading.Thread(target=work, args=(number, most)) for number in (1, 2, 3, 4)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert not faults
  assert contents(tmp_path / "out") == expected


def test_who_may_write_beside_whom(tmp_path):
  out = tmp_path / "out"
  with writing_to(out, Shard(2, 4)):
    (out / ".shard-1-of-9.lock").write_text("left by one that was killed")
    with writing_to(out, Shard(3, 4)):
      pass
    assert [path.name for path in out.iterdir()] == [".shard-2-of-4.lock"]
    for other in (None, Shard(2, 4), Shard(1, 3)):
      said = rf"another process \({os.getpid()} on .* writes to .*; wait"
      with pytest.raises(InputError, match=said), writing_to(out, other):
        pass
    # The same shards with other settings, before there is any volume.
    record(tmp_path, Shard(2, 4))
    for overwrite in (False, True):
      with pytest.raises(InputError, match="patch_size=16, got 32; wait for the other shards that write to it"):
        record(tmp_path, Shard(3, 4), settings=SETTINGS | {"patch_size": 32}, overwrite=overwrite)
    (out / "predictions.json").unlink()
  with locked(out), pytest.raises(InputError, match="another process"), writing_to(out, Shard(1, 4)):
    pass


def test_without_locks_shards_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr("nas3d_jax.files.locks.fcntl", None)
  said = r"several processes cannot share .*: it is where there are no locks"
  with pytest.raises(InputError, match=said), writing_to(tmp_path / "out", Shard(1, 2)):
    pass
  assert not (tmp_path / "out").exists()
  with writing_to(tmp_path / "out", None):
    pass
