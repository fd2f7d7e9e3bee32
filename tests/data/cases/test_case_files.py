"""How records call the files of a case."""

from pathlib import Path

import pytest

from nas3d_jax.data.cases.case_files import CaseFiles, is_truth
from nas3d_jax.schema.builtin import BRATS2019, DECATHLON

FOLDER = Path("data") / "imagesTr"


def test_files_of_a_folder_go_by_their_names():
  paths = [Path("a") / f"a_{name}.nii" for name in ("t2", "t1", "seg")]
  files = CaseFiles("a", None, Path("a"), tuple(paths[:2]), paths[2])
  assert list(files.named_images) == ["a_t2.nii", "a_t1.nii"]
  assert files.named == {path.name: path for path in paths}


def test_images_and_segmentations_of_one_name_are_told_apart():
  files = CaseFiles("a", None, FOLDER, (FOLDER / "a.nii.gz",), FOLDER.parent / "labelsTr" / "a.nii.gz", ("t2", "t1"))
  assert list(files.named) == ["a.nii.gz[t2,t1]", "labelsTr/a.nii.gz"]


@pytest.mark.parametrize(
  ("name", "schema", "expected"),
  [
    ("a_seg.nii", BRATS2019, True), ("a_seg.NII.gz", BRATS2019, True), ("a_t1.nii.gz", BRATS2019, False),
    ("a_seg_seg.nii.gz", BRATS2019, False), ("labelsTr/a.nii.gz", DECATHLON, True),
    ("a.nii.gz[flair,t1]", DECATHLON, False),
  ],
)
def test_is_truth(name, schema, expected):
  assert is_truth(name, "a", schema) == expected
