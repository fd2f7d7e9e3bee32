"""What an experiment stands on, when its cases and the unseen ones are laid out and labelled differently."""

import shutil

import pytest

from nas3d_jax.data.dataset.preprocess import preprocess
from nas3d_jax.errors import InputError
from nas3d_jax.experiment.config import ExperimentConfig
from nas3d_jax.experiment.inputs import ExperimentInputs
from nas3d_jax.schema.builtin import BRATS2023, BRATS2024, DECATHLON
from tests.support.layouts import write_layout

SHAPE = (16, 16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A data set from the decathlon's layout, and cases in others."""
  folder = tmp_path_factory.mktemp("inputs")
  write_layout("decathlon", folder / "data", 2, SHAPE)
  write_layout("nnunet", folder / "nnunet", 1, SHAPE, seed=1)
  write_layout("brats2023", folder / "brats2023", 1, SHAPE, seed=1)
  write_layout("brats2023", folder / "unlabelled", 1, SHAPE, seed=1, labels=False)
  shutil.copytree(folder / "data" / "imagesTr", folder / "data" / "imagesTs")
  preprocess(folder / "data", folder / "run" / "dataset", folds=2)
  return folder


def inputs(folder, **changes):
  return ExperimentInputs(ExperimentConfig.of(workdir=folder / "run", **changes))


def test_images_and_truths_of_one_name(folder):
  on = inputs(folder, test_dir=folder / "nnunet")
  assert on.schema == DECATHLON
  assert on.known_images.keys() == on.known_truths.keys() == {"BRATS_001", "BRATS_002"}
  cases = {case.name: case for case in on.dataset.cases}
  for name, sums in on.known_images.items():
    assert sums == {f"{name}.nii.gz[flair,t1,t1ce,t2]": cases[name].checksums[f"{name}.nii.gz[flair,t1,t1ce,t2]"]}
    assert on.known_truths[name] == cases[name].checksums[f"labelsTr/{name}.nii.gz"]


def test_unseen_cases_have_a_schema_of_their_own(folder):
  on = inputs(folder, test_dir=folder / "nnunet")
  assert on.test_schema.name == "nnunet"
  # The files in the order of the data set's modalities: flair is nnU-Net's last channel here.
  assert list(on.unseen_images["BraTS_0001"]) == [f"BraTS_0001_000{k}.nii.gz" for k in (3, 0, 1, 2)]
  assert list(on.unseen_truths) == ["BraTS_0001"]
  on.check_unseen()


def test_a_question_is_answered_by_test_schema(folder):
  with pytest.raises(InputError, match=r"test_dir: .* no label 4 tells which; give --test_schema=brats2023"):
    _ = inputs(folder, test_dir=folder / "brats2023").unseen
  on = inputs(folder, test_dir=folder / "brats2023", test_schema="brats2024")
  assert (on.test_schema, list(on.unseen_truths)) == (BRATS2024, ["BraTS-GLI-00000-000"])
  # Without truth there is none.
  on = inputs(folder, test_dir=folder / "unlabelled")
  assert (on.test_schema.modalities, on.unseen_truths) == (BRATS2023.modalities, {})


def test_a_case_that_was_seen(folder):
  with pytest.raises(InputError, match=r"BRATS_001 in .*imagesTs is not unseen: it has the images of BRATS_001"):
    inputs(folder, test_dir=folder / "data" / "imagesTs").check_unseen()


def test_another_schema_than_the_data_sets(folder):
  (folder / "own.yaml").write_text(
    "{name: own, layout: decathlon, modalities: {flair: FLAIR}, labels: {1: a, 2: b, 3: c}, regions: {x: [1, 2, 3]}}"
  )
  assert inputs(folder, schema="decathlon").schema == DECATHLON
  with pytest.raises(InputError, match=r"schema must be that of .*dataset, 'decathlon', got 'own', which differs"):
    _ = inputs(folder, schema=folder / "own.yaml").schema
  with pytest.raises(InputError, match="test_schema is of the cases of test_dir; give test_dir"):
    inputs(folder, test_schema="brats2023")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(orientation="RAS"), "was made with the geometry LPS, 1 x 1 x 1 mm, got orientation=RAS; leave it out, or"),
    (dict(spacing=("1", "1", "3")), r"was made with the geometry LPS, .*, got spacing=1,1,3; leave it out"),
    (dict(foreground="all"), "was made with foreground=.*, got all; leave it out, or give another --workdir"),
    (dict(normalization=("zscore",)), "was made with .*normalization: range.*, got zscore; leave it out"),
    (dict(normalization=("zscore", "range")), "normalization must be one name, or one for each of flair, .*"),
  ],
)
def test_a_data_set_that_was_made_otherwise(folder, changes, message):
  with pytest.raises(InputError, match=message):
    _ = inputs(folder, **changes).dataset


def test_a_data_set_that_was_made_so(folder):
  asked = dict(orientation="LPS", spacing=("1", "1", "1"), normalization=("range",))
  assert inputs(folder, **asked).dataset.folds == 2


def test_patches_that_the_data_set_suggests_fit_all_networks(folder, capsys):
  # Cubes of at most 16 voxels an axis; the searched network takes multiples of 8, the U-Net of 5 levels of 16.
  def chosen(**asked):
    on = inputs(folder, depth=2, **asked)
    on.choose_patches()
    return on.config

  on = chosen(patch_size="auto", search_patch_size=8)
  assert on.searched_template.patch_size == on.unet3d_template.patch_size == 16
  assert on.search_template.patch_size == 8
  assert "patches of 16 voxels, from the median brain cube" in capsys.readouterr().err
  on = chosen(patch_size=32, search_patch_size="auto")
  assert (on.search_template.patch_size, on.searched_template.patch_size) == (16, 32)
