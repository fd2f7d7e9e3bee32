"""A work directory that stands on another run's data set."""

import shutil

import pytest

from nas3d_jax.data.dataset.reference import open_dataset, without_fold, write_reference
from nas3d_jax.data.patches.host_batches import PatchSource, patch_index
from nas3d_jax.errors import InputError


def test_a_work_directorys_own_data_set(workdir, phantom_dataset):
  assert open_dataset(workdir).fingerprint == phantom_dataset.fingerprint


def test_all_cases_of_another_run_wherever_both_are_moved_to(workdir, tmp_path):
  write_reference(workdir / "seeds" / "1", workdir / "dataset")
  before = open_dataset(workdir / "seeds" / "1")
  moved = shutil.move(workdir, tmp_path / "elsewhere")
  assert open_dataset(moved / "seeds" / "1").cases == before.cases == open_dataset(moved).cases


def test_the_cases_of_a_fold_are_gone(workdir):
  whole = open_dataset(workdir)
  write_reference(workdir / "nested" / "1", workdir / "dataset", without_fold=1)
  rest = open_dataset(workdir / "nested" / "1")
  assert {case.name for case in rest.cases} == {case.name for case in whole.cases if case.fold == 0}
  assert (rest.folds, rest.fold_cases(1), rest.fold_cases(0)) == (whole.folds, (), whole.fold_cases(0))
  assert rest.fingerprint != whole.fingerprint
  # Patches count the cases that are left, and are theirs.
  refs = patch_index(rest, rest.cases, 16)
  cases = {rest.cases[ref.case_index].name for ref in refs}
  assert cases == {case.name for case in rest.cases}
  patch = PatchSource(rest, refs, 16)[len(refs) - 1]
  assert patch["high"].tolist() == pytest.approx(list(rest.cases[refs[-1].case_index].high))


def test_a_fold_that_is_not_there(phantom_dataset):
  with pytest.raises(InputError, match="fold must be from 0 to 1, got 2"):
    without_fold(phantom_dataset, 2)


def test_a_reference_is_written_once(workdir):
  folder = workdir / "nested" / "0"
  write_reference(folder, workdir / "dataset", without_fold=0)
  written = (folder / "dataset.json").stat().st_mtime_ns
  write_reference(folder, workdir / "dataset", without_fold=0)
  assert (folder / "dataset.json").stat().st_mtime_ns == written
  with pytest.raises(InputError, match="refers to other cases"):
    write_reference(folder, workdir / "dataset", without_fold=1)
  with pytest.raises(InputError, match="has a data set of its own"):
    write_reference(workdir, workdir / "dataset")


@pytest.mark.parametrize("text", ["{}", '{"dataset": 3, "without_fold": null}', "no json"])
def test_a_damaged_reference(tmp_path, text):
  (tmp_path / "dataset.json").write_text(text)
  with pytest.raises(InputError, match=r"dataset\.json"):
    open_dataset(tmp_path)


def test_nothing_at_all(tmp_path):
  with pytest.raises(InputError, match=r"manifest\.json is missing; run preprocess"):
    open_dataset(tmp_path)
