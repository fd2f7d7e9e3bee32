"""Every reader of a file that somebody else may have written: a value or an InputError, whatever stands in it.

NAS3D_FUZZ_EXAMPLES=N tries N changes of each file, other ones each time; without it a few, always the same.
"""

import copy
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap

import nibabel as nib
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.checkpointing.restore import build_network
from nas3d_jax.data.cases.detect_schema import find_schema
from nas3d_jax.data.cases.find_and_read import find_cases, read_case
from nas3d_jax.data.cases.nifti import VolumeError, read_affine, read_volume
from nas3d_jax.data.dataset.dataset import Dataset
from nas3d_jax.data.dataset.reference import open_dataset, write_reference
from nas3d_jax.errors import InputError
from nas3d_jax.evaluation import metrics
from nas3d_jax.evaluation.portal import read_portal
from nas3d_jax.evaluation.scores import Scores
from nas3d_jax.experiment import status
from nas3d_jax.files.strict_json import check_plain, parse_json, write_json
from nas3d_jax.inference.prediction_folder import PredictionFolder
from nas3d_jax.models.config import NetworkConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import variable_shapes
from nas3d_jax.report.run_contents import History
from nas3d_jax.schema import yaml_file
from nas3d_jax.schema.builtin import BRATS2019
from nas3d_jax.schema.geometry import Geometry
from nas3d_jax.schema.schema import Schema
from nas3d_jax.training.run_directory import Run
from tests.support.layouts import write_layout

LONG = int(os.environ.get("NAS3D_FUZZ_EXAMPLES", "0"))
few = settings(
  max_examples=LONG or 40,
  derandomize=not LONG,
  database=None,
  deadline=None,
  suppress_health_check=list(HealthCheck),
)
GENOTYPE = Genotype(down=(("max_pool", 1), ("down_conv", 0)), up=(("identity", 0), ("up_conv", 1)))
YAML = """
name: two
modalities: {flair: _flair, t1ce: [_t1ce, _t1gd]}
segmentation: _seg
labels: {1: oedema, 2: tumour core}
regions:
  WT: {labels: [1, 2], paint: 1}
  TC: [2]
"""
SETTINGS = {"schema": {"name": "s"}, "patch_size": 16, "checkpoints": {"aa": "a"}, "probabilities": False}


# What stands for any number, text or list in a file: each has stopped some reader.
class Raw(str):
  """JSON as it is to be written."""

  __slots__ = ()


SPECIAL = [
  None, True, False, 0, -1, 1, 2, 3, 2**31, 2**63, -(2**63) - 1, 10**17, 10**400, 0.5, -0.0, 1e308, float("nan"),
  float("inf"), -float("inf"), "", "x", "..", "../x", "/", "a/b", "\0", "\ud800", "\udc80", "é", "\ufeff", "x" * 5000,
  [], [[]], {}, {"": 0}, [None], [0] * 300, [[0, 1]] * 4, Raw("1e400"), Raw("9" * 5000), Raw('{"a":1,"a":2}'),
  Raw("[" * 60 + "]" * 60), Raw("[" * 900 + "]" * 900), Raw("[" * 100_000 + "]" * 100_000), Raw("[" * 100_000),
  Raw('{"a":' * 500 + "1" + "}" * 500),
]  # fmt: skip


def to_text(value):
  """JSON of a value in which anything may stand."""
  if isinstance(value, Raw):
    return str(value)
  if isinstance(value, dict):
    return "{" + ",".join(f"{json.dumps(name)}:{to_text(entry)}" for name, entry in value.items()) + "}"
  if isinstance(value, (list, tuple)):
    return "[" + ",".join(map(to_text, value)) + "]"
  return json.dumps(value)


def places(value, path=()):
  """The paths of all that is in a value."""
  yield path
  if isinstance(value, dict):
    for name, entry in value.items():
      yield from places(entry, (*path, name))
  elif isinstance(value, list):
    for index, entry in enumerate(value):
      yield from places(entry, (*path, index))


def changed(value, rng):
  """A value with one to three things in it replaced, removed, renamed or doubled."""
  value = copy.deepcopy(value)
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    *parents, name = rng.choice(list(places(value))) or (None,)
    special = copy.deepcopy(rng.choice(SPECIAL))
    if name is None:
      if rng.random() < 0.1:
        return special
      continue
    entry = value
    for key in parents:
      entry = entry[key]
    how = rng.random()
    if how < 0.7:
      entry[name] = special
    elif how < 0.8:
      del entry[name]
    elif isinstance(entry, list):
      entry.insert(name, copy.deepcopy(rng.choice(entry)))
    else:
      entry[rng.choice(["", "x", "\ud800", "../x", str(name) + "_"])] = entry.pop(name)
  return value


def damaged(content, rng):
  """Bytes with some of them flipped, cut off, left out, doubled or put in."""
  content = bytearray(content)
  for _ in range(rng.choice((1, 1, 2, 4, 16))):
    place, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 8, 64))
    how = rng.randrange(6)
    if how == 0 and place < len(content):
      content[place] ^= 1 << rng.randrange(8)
    elif how == 1:
      content[place : place + length] = rng.randbytes(length)
    elif how == 2:
      del content[place:]
    elif how == 3:
      del content[place : place + length]
    elif how == 4:
      content[place:place] = content[place : place + length]
    else:
      content[place : place + length] = rng.choice((b"\xff", b"\0", b'"', b"[", b"9", b"\xef\xbb\xbf")) * length
  return bytes(content)


def value_or_refusal(read, *arguments):
  """What a reader gives, None where it refuses as it should; all else goes through."""
  try:
    return read(*arguments)
  except InputError as error:
    assert str(error)
    str(error).encode("utf-8", "backslashreplace")
    return None


def metadata(**changes):
  fields = dict(
    kind="train", network=NetworkConfig(kernels=2, nodes=1, depth=2), genotype=GENOTYPE, dropout_rate=0.5,
    schema=BRATS2019, patch_size=16, epoch=3, step=12, versions={"jax": "1"}, device={"platform": "cpu"},
    dataset={"fingerprint": "ab"}, geometry=Geometry("LPS", (1, 1, 1.5)),
  )
  return RunMetadata(**fields | changes).to_dict()


def read_metadata(content):
  stored = RunMetadata.from_dict(content)
  assert RunMetadata.from_dict(json.loads(json.dumps(stored.to_dict()))) == stored
  return stored


def read_schema(content):
  schema = Schema.from_dict(content)
  assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
  return schema


def read_layout(path):
  """Through all that makes use of a dataset.json."""
  schema = find_schema(path.parent, labels=True)
  value_or_refusal(find_schema, path.parent, "decathlon")
  cases, _ = find_cases(path.parent, schema)
  for case in cases:
    value_or_refusal(read_case, case, schema)
  return schema


def read_genotype(path):
  genotype = Genotype.from_json(path.read_bytes())
  assert Genotype.from_json(genotype.to_json()) == genotype
  return genotype


def read_scores(path):
  found = Scores.load(path.parent)
  found.to_csv().encode("utf-8")
  return found


def read_run(path):
  with Run(path.parent, {"seed": 0}, device={}, overwrite=False) as run:
    return run.resume(variables={}, training={}) or run


def read_predictions(path):
  case = find_cases(path.parent / "data")[0][0]
  anew = len(path.read_bytes()) % 2 == 0
  folder = PredictionFolder(path.parent, settings=SETTINGS, cases=[case.name], overwrite=anew)
  folder.is_done(case)
  return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory, phantom_dataset):
  """A valid file of each kind by name, and what reads it."""
  root = tmp_path_factory.mktemp("fuzz")
  found = {}

  def add(name, file, text, read):
    path = root / name / file
    path.parent.mkdir(exist_ok=True)
    if text is not None:
      path.write_text(text)
    found[name] = (path, path.read_bytes(), read)

  add("genotype", "genotype.json", GENOTYPE.to_json(), read_genotype)
  shutil.copytree(phantom_dataset.folder, root / "manifest")
  add("manifest", "manifest.json", None, lambda path: Dataset.open(path.parent))
  shutil.copytree(phantom_dataset.folder, root / "image")
  array = f"cases/{phantom_dataset.cases[0].name}/image.npy"
  add("image", array, None, lambda _: Dataset.open(root / "image"))
  write_reference(root / "reference", root / "image", without_fold=1)
  add("reference", "dataset.json", None, lambda path: open_dataset(path.parent))
  record = {
    "epoch": 1, "step": 2, "loss": 0.5, "seconds": 1.5, "genotype": {"down": [["conv", 0]], "up": []}, "hybrid": [0.1]
  }
  config = {"settings": {"seed": 0}, "sessions": [{"platform": "cpu"}]}
  add("config", "config.json", json.dumps(config), read_run)
  add("history", "config.json", json.dumps(config), lambda path: History.read(path.parent))
  (root / "records").mkdir()
  write_json(root / "records" / "config.json", config)
  lines = "".join(json.dumps({**record, "epoch": epoch}) + "\n" for epoch in (1, 2))
  add("records", "metrics.jsonl", lines, lambda path: (History.read(path.parent), status.history(path.parent)))
  add("run", "metrics.jsonl", lines, lambda path: (write_json(path.with_name("config.json"), config), read_run(path)))
  scores = {region: dict.fromkeys(metrics.METRICS, 0.5) for region in BRATS2019.region_names}
  sums = {"prediction": "a" * 64, "truth": "b" * 64}
  Scores(BRATS2019, {"a": scores, "b": scores}, {"a": sums, "b": sums}).write(root / "scores")
  add("scores", "scores.json", None, read_scores)
  add("scores_status", "scores.json", (root / "scores" / "scores.json").read_text(),
      lambda path: status.scores_status(path.parent, root, {"a": "b" * 64}))
  shutil.copytree(phantom_dataset.folder.parent / "data" / "HGG", root / "predictions" / "data")
  record = {"settings": SETTINGS, "cases": {"Phantom_0001": {"x": "0"}, "b": None}}
  text = json.dumps({"format": "nas3d_jax.predictions", "version": 1, **record})
  add("predictions", "predictions.json", text, read_predictions)
  header = "Label," + ",".join(f"{name}_{region}" for region in BRATS2019.region_names for name in (
    "Dice", "Sensitivity", "Specificity", "Hausdorff95"))
  add("portal", "portal.csv", f"{header}\na,{'0.5,' * 11}0.5\nMean,{'0.5,' * 11}0.5\n",
      lambda path: read_portal(path, BRATS2019))
  add("yaml", "schema.yaml", YAML, lambda path: read_schema(yaml_file.read_schema(path).to_dict()))
  for layout in ("decathlon", "nnunet"):
    write_layout(layout, root / layout, 1, (16, 16, 16))
    add(layout, "dataset.json", None, read_layout)
  for name in ("metadata", "schema"):
    content, read = {"metadata": (metadata(), read_metadata), "schema": (BRATS2019.to_dict(), read_schema)}[name]
    add(name, f"{name}.json", json.dumps(content), lambda path, read=read: read(parse_json(path.read_bytes())))
  return found


JSON = (
  "genotype", "manifest", "reference", "config", "history", "scores", "scores_status", "predictions", "metadata",
  "schema", "decathlon", "nnunet",
)  # fmt: skip
FILES = (*JSON, "image", "records", "run", "portal", "yaml")


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_right_as_long_as_nothing_is_changed(files, name):
  path, _, read = files[name]
  assert read(path) is not None


@pytest.mark.parametrize("name", FILES)
def test_flipped_and_missing_bytes(files, name):
  path, content, read = files[name]

  @few
  @given(st.integers(0, 2**64))
  def check(seed):
    path.write_bytes(damaged(content, random.Random(seed)))
    value_or_refusal(read, path)

  try:
    check()
  finally:
    path.write_bytes(content)


@pytest.mark.parametrize("name", (*JSON, "records", "run", "yaml"))
def test_values_of_another_kind(files, name):
  path, content, read = files[name]
  if name in ("records", "run"):
    values = [json.loads(line) for line in content.splitlines()]
  else:
    values = yaml.safe_load(content)  # JSON is YAML

  @few
  @given(st.integers(0, 2**64))
  def check(seed):
    value = changed(values, random.Random(seed))
    lines = isinstance(value, list) and name in ("records", "run")
    text = "".join(to_text(line) + "\n" for line in value) if lines else to_text(value)
    path.write_text(text)
    value_or_refusal(read, path)

  try:
    check()
  finally:
    path.write_bytes(content)


def read_geometry(content):
  geometry = Geometry.from_dict(content)
  assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry
  return geometry


PLAIN = st.recursive(
  st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
  lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
  max_leaves=12,
)


@pytest.mark.parametrize(
  ("read", "valid"),
  [(read_metadata, metadata()), (read_metadata, metadata(kind="search", genotype=None)),
   (read_schema, BRATS2019.to_dict()), (read_geometry, Geometry("LPS", (1, 1, 1.5)).to_dict())],
)  # fmt: skip
def test_values_that_come_from_elsewhere(read, valid):
  """Also those that no strict reader has seen: the metadata of a checkpoint come from Orbax."""

  @few
  @given(PLAIN, st.integers(0, 2**64))
  def check(value, seed):
    rng = random.Random(seed)
    content = copy.deepcopy(valid)
    *parents, name = rng.choice(list(places(content))[1:])
    entry = content
    for key in parents:
      entry = entry[key]
    entry[name] = value
    for given_ in (content, value):
      value_or_refusal(read, given_)

  check()


@given(PLAIN)
@few
def test_what_is_called_plain_can_be_written_and_read_again(value):
  try:
    check_plain(value)
  except InputError:
    return
  assert parse_json(json.dumps(value, allow_nan=False).encode()) == value
  assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_a_record_of_predictions_removes_nothing_elsewhere(tmp_path):
  other = tmp_path / "precious.nii.gz"
  other.write_bytes(b"x")
  record = {"format": "nas3d_jax.predictions", "version": 1, "settings": {}, "cases": {"../precious": None}}
  (tmp_path / "out").mkdir()
  write_json(tmp_path / "out" / "predictions.json", record)
  with pytest.raises(InputError, match=r"names a case '\.\./precious', which is no file name"):
    PredictionFolder(tmp_path / "out", settings=SETTINGS, cases=[], overwrite=True)
  assert other.exists()


@pytest.mark.parametrize(
  "changes",
  [{"nodes": 10**9}, {"depth": 10**12}, {"depth": 40}, {"kernels": 10**30}, {"in_channels": 10**9}],
)
def test_a_checkpoint_cannot_claim_a_network_without_end(changes):
  content = metadata(kind="search", genotype=None)
  content["network"].update(changes)
  with pytest.raises(InputError, match=f"{next(iter(changes))} must be at most"):
    RunMetadata.from_dict(content)


# Arrays and volumes


class Malicious:
  """Makes a file when it is unpickled."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return open, (self.path, "w")


@pytest.mark.parametrize("name", ["image", "labels"])
@pytest.mark.parametrize("save", [np.save, np.savez, lambda path, array: array.dump(path)])
def test_an_array_cannot_run_code(tmp_path, phantom_dataset, name, save):
  folder = tmp_path / "dataset"
  shutil.copytree(phantom_dataset.folder, folder)
  path = folder / "cases" / phantom_dataset.cases[0].name / f"{name}.npy"
  array = np.empty((2,), object)
  array[:] = [Malicious(tmp_path / "executed"), None]
  with path.open("wb") as file:
    save(file, array)
  # The file does what is said of it, where it is let.
  np.load(path, allow_pickle=True) if save is not np.savez else np.load(path, allow_pickle=True)["arr_0"]
  assert (tmp_path / "executed").exists()
  (tmp_path / "executed").unlink()
  with pytest.raises(InputError, match=rf"{name}\.npy cannot be opened"):
    Dataset.open(folder)
  assert not (tmp_path / "executed").exists()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
  """A case of 4x5x6 voxels: its folder and the plain bytes of each file."""
  folder = tmp_path_factory.mktemp("case") / "c"
  folder.mkdir()
  rng = np.random.default_rng(0)
  for modality in (*BRATS2019.modality_names, "seg"):
    data = rng.integers(0, 3 if modality == "seg" else 900, (4, 5, 6)).astype(np.int16)
    image = nib.Nifti1Image(data, np.diag([-1.0, 2, 3, 1]))
    image.header.set_slope_inter(1, 0)
    nib.save(image, folder / f"c_{modality}.nii")
  return folder


def read_volumes(folder):
  cases, faults = find_cases(folder)
  assert not faults
  for path in cases[0].images:
    value_or_refusal(read_affine, path)
  raw = read_case(cases[0])
  assert raw.image.shape == (4, 5, 6, 4)
  return raw


@pytest.mark.parametrize("packed", [False, True], ids=["nii", "nii.gz"])
@pytest.mark.parametrize("whole", [False, True], ids=["header", "file"])
def test_a_damaged_volume(tmp_path, case, packed, whole):
  folder = tmp_path / "c"
  shutil.copytree(case, folder)
  content = (folder / "c_t1.nii").read_bytes()
  (folder / "c_t1.nii").unlink()
  path = folder / ("c_t1.nii.gz" if packed else "c_t1.nii")
  path.write_bytes(gzip.compress(content, 1) if packed else content)
  assert read_volumes(folder) is not None

  @few
  @given(st.integers(0, 2**64))
  def check(seed):
    rng = random.Random(seed)
    if whole:
      path.write_bytes(damaged(gzip.compress(content, 1, mtime=0) if packed else content, rng))
    else:
      # A header that gzip vouches for.
      head = damaged(content[:352], rng)
      path.write_bytes(gzip.compress(head + content[352:], 1) if packed else head + content[352:])
    value_or_refusal(read_volumes, folder)

  with np.errstate(all="ignore"):
    check()


def claiming(shape, dtype=np.int16, offset=352):
  """A header that claims so many voxels."""
  header = nib.Nifti1Header()
  header.set_data_dtype(dtype)
  header["dim"][: len(shape) + 1] = [len(shape), *shape]
  header["vox_offset"] = offset
  header["magic"] = b"n+1"
  return header.binaryblock + bytes(4)


# 2 MB of packed zeros are 2 GB.
LIMITED = """
  import pathlib, resource, sys, zlib
  import numpy as np
  from nas3d_jax.data.cases.nifti import read_volume
  from nas3d_jax.errors import InputError
  import gzip
  path = pathlib.Path(sys.argv[1])
  used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20), resource.RLIM_INFINITY))
  try:
    read_volume(path)
  except InputError as error:
    print(error)
"""


@pytest.mark.parametrize(
  ("head", "zeros", "message"),
  [
    (claiming((32767, 32767, 32767), np.float64), 0, "are read at most"),
    (claiming((32767, 32767, 1), np.float64), 0, "are read at most"),
    (claiming((800, 800, 800), np.float64), 0, "truncated"),
    (claiming((800, 800, 800), np.float64), 300 << 20, "truncated"),
    (claiming((10, 10, 10), offset=1e30), 0, "puts its voxels at byte"),
    (claiming((10, 10, 10), offset=6e7), 0, "truncated"),
    (claiming((10, 10, 10)), 300 << 20, "far more than the 2352 bytes"),
  ],
)  # fmt: skip
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is Linux's")
def test_a_header_alone_allocates_nothing(tmp_path, head, zeros, message):
  path = tmp_path / "x.nii.gz"
  with gzip.open(path, "wb", compresslevel=1) as file:
    file.write(head)
    for _ in range(zeros >> 20):
      file.write(bytes(1 << 20))
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(LIMITED), str(path)], capture_output=True, text=True, check=False, timeout=60
  )
  assert done.returncode == 0, done.stderr
  assert message in done.stdout


@pytest.mark.parametrize("text", [
  "!!python/object/apply:builtins.open [{path}, w]",
  "name: !!python/object/apply:builtins.open [{path}, w]",
  "name: !!python/object/new:builtins.open {{args: [{path}, w]}}",
  "!!python/object/apply:os.system ['touch {path}']",
  "!<tag:yaml.org,2002:python/object/apply:builtins.open> [{path}, w]",
])  # fmt: skip
def test_a_schema_cannot_run_code(tmp_path, text):
  path = tmp_path / "schema.yaml"
  path.write_text(text.format(path=tmp_path / "executed"))
  yaml.unsafe_load(path.read_text())
  assert (tmp_path / "executed").exists()  # it does what it is for, where it is let
  (tmp_path / "executed").unlink()
  with pytest.raises(InputError, match=r"refused|no YAML"):
    yaml_file.read_schema(path)
  assert not (tmp_path / "executed").exists()


def test_a_schema_cannot_unfold_without_end(tmp_path):
  lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in range(9))}]" for i in range(1, 12)]
  (tmp_path / "schema.yaml").write_text("\n".join(lines))
  with pytest.raises(InputError, match="anchor"):
    yaml_file.read_schema(tmp_path / "schema.yaml")


def test_padding_after_the_voxels_is_passed_over(tmp_path):
  path = tmp_path / "x.nii.gz"
  path.write_bytes(gzip.compress(claiming((2, 2, 2)) + bytes(16) + bytes(5000)))
  assert read_volume(path).data.shape == (2, 2, 2)


def test_the_metadata_of_networks_at_the_bounds_can_be_used():
  net = build_network(RunMetadata.from_dict(metadata()))
  assert variable_shapes(net)
  with pytest.raises(VolumeError):
    read_volume("missing.nii")
