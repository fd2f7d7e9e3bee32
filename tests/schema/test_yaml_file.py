"""Schemas in YAML: what one says, and every wrong one refused in one message, quickly."""

import pytest

from nas3d_jax.errors import InputError
from nas3d_jax.schema.schema import Modality, Region, Schema
from nas3d_jax.schema.yaml_file import read_schema

GOOD = """
name: two
modalities:
  flair: _flair
  t1ce: [_t1ce, _t1gd]
segmentation: _truth
labels:
  1: oedema
  2: tumour core
regions:
  WT: {labels: [1, 2], paint: 1}
  TC: [2]
"""


def read(tmp_path, text):
  path = tmp_path / "own.yaml"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return read_schema(path)


def test_a_schema(tmp_path):
  assert read(tmp_path, GOOD) == Schema(
    name="two",
    modalities=(Modality("flair", ("_flair",)), Modality("t1ce", ("_t1ce", "_t1gd"))),
    labels=((0, "background"), (1, "oedema"), (2, "tumour core")),
    regions=(Region("WT", (1, 2), 1), Region("TC", (2,), 2)),
    segmentation=("_truth",),
  )


def test_layout_and_background(tmp_path):
  text = "layout: nnunet\n" + GOOD.replace("labels:\n", "labels:\n  0: rest\n", 1).replace("segmentation: _truth\n", "")
  schema = read(tmp_path, text)
  assert (schema.layout, schema.labels[0], schema.segmentation) == ("nnunet", (0, "rest"), ("_seg",))


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("name: two", "name: 2", "name must be a text of at most 64 characters, got 2; put it in quotes"),
    ("name: two", "name: BraTS2019", "name must be none of a built-in schema, got 'BraTS2019'"),
    ("name: two", "nmae: two", "it must have labels, modalities, name, regions, and may have layout, segmentation, g"),
    ("name: two", "name: two\nmore: 1", "it must have .* got name, more"),
    ("name: two", "name: two\nlayout: flat", "layout must be one of folders, decathlon, nnunet, got 'flat'"),
    ("name: two", "name: two\nname: three", "line 2: a key is there twice"),
    ("  2: tumour", "  0x1: tumour", "line 8: a key is there twice"),
    ("  flair: _flair", "  on: _flair", "a modality must be a text .* got True; put it in quotes"),
    ("_flair", "_t1ce", "file suffixes must be given, none empty and none twice"),
    ("_flair", "[]", "each modality needs a file suffix"),
    ("_flair", "{a: b}", "modality flair must be suffixes, or have suffixes and normalization"),
    ("flair:", "segmentation:", "no modality may be called segmentation"),
    ("  1: oedema", "  one: oedema", "a label must be a whole number, got 'one'"),
    ("  1: oedema", "  256: oedema", "labels must be values from 0 to 255"),
    ("[2]", "[3]", r"region 'TC' has labels \[3\]"),
    ("[2]", "2", r"region TC: labels must be a list of values, as \[1, 2\], got 2"),
    ("paint: 1", "paint: 3", "region 'WT' paints 3, which is none of its labels"),
    ("paint: 1", "colour: 1", "region WT must be a list of labels, or have labels and paint"),
    ("paint: 1", "paint: 2", "label 1 lies in regions"),
    ("[1, 2]", "&a [1, 2]", "line 11 has an anchor or alias, which is refused here"),
    ("  TC: [2]", "  TC: *a", "no YAML|anchor or alias"),
    ("[2]", "!!set {2}", "has the tag 'tag:yaml.org,2002:set'"),
    ("[2]", "!!python/object/apply:os.getcwd []", "has the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'"),
    ("tumour core", "2020-99-99", "it is no YAML .month must be in 1..12"),
    ("[2]", "[2", "it is no YAML"),
    ("[2]", "[[[[[[[[2]]]]]]]]", "nested deeper than 8 levels"),
    ("tumour core", "9" * 5000, "a value of 5000 characters"),
  ],
)
def test_wrong_files(tmp_path, old, new, message):
  assert old in GOOD
  with pytest.raises(InputError, match=f"schema .*own.yaml: .*({message})"):
    read(tmp_path, GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
  "text",
  [b"", b"- 1", b"\xff\xfe", b"\0", b"a: 1\n---\nb: 2", b"[" * 65536, b"- " * 32768, b"? " * 32768, b"{[1]: 2}",
   b"<<: {name: a}\nname: b", b"a: 1" + b":1" * 100 + b".5", b"x" * 65537],
  ids=lambda text: repr(text[:8]),
)
def test_hostile_files_are_refused(tmp_path, text):
  with pytest.raises(InputError, match=r"own\.yaml"):
    read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(InputError, match=r"none\.yaml cannot be read .No such file"):
    read_schema(tmp_path / "none.yaml")
