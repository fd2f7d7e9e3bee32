"""What a damaged or unreadable file of a run says: which file it is, and what helps with that one."""

import errno
import json
import os
from pathlib import Path

import pytest

from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.errors import InputError, Unreadable
from nas3d_jax.files import strict_json
from nas3d_jax.report.run_contents import History, Material
from nas3d_jax.training.train import read_genotype


@pytest.fixture
def run(tmp_path):
  """A folder of a run with its three files."""
  folder = tmp_path / "search"
  folder.mkdir()
  (folder / "config.json").write_text('{"settings": {}, "sessions": []}')
  (folder / "metrics.jsonl").write_text('{"epoch": 1}\n')
  return folder


def test_a_damaged_configuration_of_a_run_is_not_mended_by_preprocess(run):
  (run / "config.json").write_text("{")
  with pytest.raises(InputError, match=r"search/config\.json is no JSON: .*; put back a copy of it, or move"):
    History.read(run)


def test_a_damaged_genotype_is_named(run):
  for content in ("{", '{"format": "x"}'):
    (run / "genotype.json").write_text(content)
    with pytest.raises(InputError, match=r"search/genotype\.json: .*; put back a copy"):
      History.read(run)
    with pytest.raises(InputError, match=r"search/genotype\.json: .*; run the search first"):
      read_genotype(run / "genotype.json")


@pytest.mark.parametrize(
  ("name", "remedy"),
  [
    ("dataset/manifest.json", "make the data set anew with `python -m launch preprocess --overwrite`"),
    ("costs.json", "remove it, and run experiment again"),
    ("experiment.json", "remove it, and run experiment again"),
    ("search/config.json", "put back a copy of it, or move "),
  ],
)
def test_the_remedy_is_of_the_file(workdir, name, remedy):
  (workdir / "search").mkdir()
  (workdir / name).write_text("[]")
  with pytest.raises(InputError, match=name) as caught:
    Material.read(workdir)
  assert remedy in str(caught.value)


@pytest.fixture
def refused(monkeypatch):
  """Makes the system refuse to read a file, also to those who may read everything."""

  def refuse(path, number=errno.EACCES):
    def checked(call):
      def read(self, *arguments, **options):
        if Path(self) == path:
          raise OSError(number, os.strerror(number), str(path))
        return call(self, *arguments, **options)

      return read

    monkeypatch.setattr(Path, "read_bytes", checked(Path.read_bytes))
    monkeypatch.setattr(Path, "open", checked(Path.open))

  return refuse


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "genotype.json"])
def test_a_file_without_permission_is_not_damaged(run, refused, name):
  (run / name).touch()
  refused(run / name)
  with pytest.raises(Unreadable, match=rf"{name} cannot be read \(Permission denied\); correct the") as error:
    History.read(run)
  assert "damaged" not in str(error.value)


@pytest.mark.parametrize(("number", "remedy"), [(errno.EACCES, "correct the perm"), (errno.EMFILE, "allow the pro")])
def test_an_array_that_is_not_let_be_read_is_not_changed(workdir, refused, number, remedy):
  path = workdir / "dataset" / "cases" / "Phantom_0001" / "image.npy"
  (workdir / "dataset" / "verified.json").unlink(missing_ok=True)
  refused(path, number)
  with pytest.raises(Unreadable, match=rf"image\.npy cannot be read \({os.strerror(number)}\); {remedy}"):
    Dataset.open(workdir / "dataset")


def test_a_file_that_is_missing_says_what_makes_it(tmp_path):
  with pytest.raises(InputError, match=r"a\.json is missing; bake it"):
    strict_json.read_json(tmp_path / "a.json", "mend it", missing="bake it")


@pytest.mark.parametrize("cost", [3, {"flops": "many"}])
def test_costs_that_are_none_are_named(workdir, cost):
  (workdir / "costs.json").write_text(json.dumps({"unet3d": cost}))
  with pytest.raises(InputError, match=r"costs\.json is damaged: of unet3d, (all|flops) cannot be so; remove it"):
    Material.read(workdir)
