"""Exported networks give what `predict` gives: on drawn networks, and on a real case from files to labels."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest

import nas3d_jax
from launch.__main__ import main
from nas3d_jax.checkpointing.checkpoints import Checkpoints
from nas3d_jax.checkpointing.metadata import RunMetadata
from nas3d_jax.checkpointing.restore import build_network
from nas3d_jax.data.intensities import Intensities, Window
from nas3d_jax.export.config import ExportConfig
from nas3d_jax.export.write import export_network
from nas3d_jax.inference.volume import make_predict_step
from nas3d_jax.models.config import NetworkConfig, PlainUNetConfig, UNetConfig
from nas3d_jax.models.genotype import Genotype
from nas3d_jax.models.networks import DerivedNet, variable_shapes
from nas3d_jax.models.operations import Operation
from nas3d_jax.models.search_space import CANDIDATES, SearchSpace, operation_direction
from nas3d_jax.schema.builtin import BRATS2019
from tests.models.test_search_space import DEPTHWISE

ROOT = Path(nas3d_jax.__file__).parents[1]
PRETRAINED = ROOT / "pretrained" / "task04_hippocampus"
GENOTYPE = Genotype(
  down=(("max_pool", 0), ("down_conv", 1), ("dil_conv", 2), ("down_se_conv", 1)),
  up=(("se_conv", 0), ("up_dep_conv", 1), ("identity", 2), ("up_conv", 1)),
)
DERIVED = NetworkConfig(kernels=2, nodes=2, depth=2)
NETWORKS = {
  "derived": ("searched", DERIVED, GENOTYPE),
  "unet3d": ("unet3d", UNetConfig(filters=2, levels=3), None),
  "plain_unet": ("plain_unet", PlainUNetConfig(filters=2, levels=3, output="softmax"), None),
}


def drawn(shapes, seed=11):
  """Parameters of which none is 0 or 1, so that each counts; with this seed the glioma gets several labels."""
  random = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: random.normal(0, 0.7, leaf.shape).astype(np.float32), shapes)


def made(name, **changes):
  architecture, network, genotype = NETWORKS[name]
  fields = dict(
    kind="train", architecture=architecture, network=network, genotype=genotype, dropout_rate=0.0, schema=BRATS2019,
    patch_size=32, epoch=1, step=1, versions={}, device={}, dataset={"fingerprint": "ab"},
  )
  metadata = RunMetadata(**fields | changes)
  net = build_network(metadata)
  return net, drawn(variable_shapes(net)), metadata


def save_run(folder, variables, metadata):
  with Checkpoints(folder / "checkpoints") as store:
    items = dict(variables=variables, training={"step": np.int32(1)}, iterators={})
    store.save(1, metadata=metadata.to_dict(), best_metric=0.5, **items)
  return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  _, variables, metadata = made("derived")
  return save_run(tmp_path_factory.mktemp("run"), variables, metadata)


def export(checkpoint, out, form):
  return main(["export", f"--checkpoint={checkpoint}", f"--out={out}", f"--format={form}", "--platform=cpu"])


def session(model):
  """A session of onnxruntime of a model, a file or a ModelProto."""
  runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
  return runtime.InferenceSession(str(model) if isinstance(model, Path) else model.SerializeToString())


def normal(*shape):
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_each_operation_is_the_same_in_onnx(variant):
  pytest.importorskip("onnx", reason="onnx is not installed")
  from nas3d_jax.export.onnx_graph import Graph
  from nas3d_jax.export.onnx_networks import _operation

  channels, x = 32, normal(2, 6, 4, 8, 32)  # two groups of the norm
  modules = {name: Operation(name, channels, variant) for names in CANDIDATES.values() for name in names}
  params = {
    name: drawn(jax.eval_shape(module.init, jax.random.key(0), x), seed)
    for seed, (name, module) in enumerate(modules.items())
  }
  apply = jax.jit(lambda params, x: {name: module.apply(params[name], x) for name, module in modules.items()})
  expected = apply(params, x)
  for name in modules:
    graph, direction = Graph(), operation_direction(name)
    y = graph.add("Transpose", "x", perm=(0, 4, 1, 2, 3))
    y = _operation(graph, name, y, params[name].get("params", {}), direction, variant)
    y = graph.add("Transpose", y, perm=(0, 2, 3, 4, 1))
    any_size = ("N", "D", "H", "W", channels)
    model = graph.model(name, ("x", any_size), y, ("y", ("N", "D2", "H2", "W2", channels)))
    got = session(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_is_the_same_in_onnx(name):
  pytest.importorskip("onnx", reason="onnx is not installed")
  from nas3d_jax.export.onnx_networks import network_model

  net, variables, metadata = made(name)
  network = session(network_model(metadata, variables))
  x = normal(2, 16, 8, 24, 4)
  both = network.run(None, {"image": x})[0]
  expected = jax.jit(net.apply)(variables, x)
  assert expected.std() > 0.01
  np.testing.assert_allclose(both, expected, atol=1e-4)
  np.testing.assert_allclose(network.run(None, {"image": x[1:]})[0], both[1:], atol=1e-5)


def volume(background):
  image = np.random.default_rng(2).gamma(2, 300, (9, 10, 11, 2)).astype(np.float32) - 100
  image[:2], image[:, :2], image[:, :, :3], image[-1:], image[:, -1:] = (background,) * 5
  return image


@pytest.mark.parametrize(
  ("intensities", "background"),
  [
    (Intensities("all", ("zscore", "percentile")), 3.0),
    (Intensities("constant", ("zscore", "range")), -7.5),
    (Intensities("nonzero", ("percentile", "none")), 0.0),
    (Intensities("all", ("window", "zscore"), (Window(0, 900, 400, 250), None)), 0.0),
  ],
)
def test_a_volume_is_normalised_as_in_training(intensities, background):
  pytest.importorskip("onnx", reason="onnx is not installed")
  from nas3d_jax.export.onnx_normalization import normalization_model

  image = volume(background)
  got = session(normalization_model(intensities, 2)).run(None, {"volume": image})[0]
  np.testing.assert_allclose(got, intensities.prepare(image), rtol=1e-6, atol=1e-6)


def test_a_constant_foreground_without_a_border_value_is_all():
  pytest.importorskip("onnx", reason="onnx is not installed")
  from nas3d_jax.export.onnx_normalization import normalization_model

  image, intensities = normal(5, 6, 7, 1), Intensities("constant", ("zscore",))
  got = session(normalization_model(intensities, 1)).run(None, {"volume": image})[0]
  np.testing.assert_allclose(got, intensities.prepare(image), rtol=1e-6)


def test_for_jax_it_runs_without_the_networks_code(run, tmp_path, monkeypatch, capsys):
  assert export(run, tmp_path / "out", "jax") == 0
  assert "multiples of 8" in capsys.readouterr().out
  net, variables, metadata = nas3d_jax.restore(run)
  x = volume(0.0).clip(0)[:8, :8, :8]
  x = np.concatenate([x, x + 1], axis=-1)
  how = dict(patch_size=8, intensities=metadata.intensities)
  expected = nas3d_jax.predict_volume(net, variables, x, **how)

  def refuse(*_, **__):
    raise AssertionError("the network was constructed")

  monkeypatch.setattr(DerivedNet, "__call__", refuse)
  exported = nas3d_jax.load_exported(tmp_path / "out")
  assert exported.function.platforms == ("cpu", "cuda")
  assert exported.metadata["modalities"] == list(BRATS2019.modality_names)
  assert exported.schema == BRATS2019 and exported.metadata["multiple"] == 8
  low, high = metadata.intensities.bounds(x)
  np.testing.assert_allclose(exported(x[None], low, high)[0] * (x != 0).any(-1)[..., None], expected, atol=1e-4)
  # Another batch and other lengths.
  assert exported(np.tile(x, (2, 1, 1, 2, 1, 1)).reshape(2, 16, 8, 8, 4), low, high).shape == (2, 16, 8, 8, 3)
  with pytest.raises(nas3d_jax.InputError, match="multiples of 8, got shape"):
    exported(x[None, :7], low, high)


def script(exported, out, images):
  """What the example, which knows nothing of this program, writes."""
  command = [sys.executable, str(ROOT / "examples" / "predict_onnx.py"), exported, out, *images]
  done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=out.parent)
  assert done.returncode == 0, done.stderr
  return nib.load(out)


def assert_parity(checkpoint, data, case, images, raw, folder):
  """Of both formats and the script with `predict`: probabilities within 1e-4, labels but for 1 voxel in 100,000."""
  pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
  pytest.importorskip("onnx", reason="onnx is not installed")
  where = [f"--data_dir={data}", f"--out={folder / 'predicted'}", "--probabilities", "--platform=cpu"]
  assert main(["predict", f"--checkpoint={checkpoint}", *where]) == 0
  expected = nib.load(folder / "predicted" / f"{case}.nii.gz")
  labels = np.asarray(expected.dataobj)
  assert np.unique(labels).size > 1
  assert export(checkpoint, folder / "jax", "jax") == 0
  assert export(checkpoint, folder / "onnx", "onnx") == 0
  exported = nas3d_jax.load_exported(folder / "jax")
  probabilities = exported.predict_volume(raw)
  net, variables, metadata = nas3d_jax.restore(checkpoint)
  how = dict(patch_size=metadata.patch_size, intensities=metadata.intensities)
  np.testing.assert_allclose(probabilities, nas3d_jax.predict_volume(net, variables, raw, **how), atol=1e-4)
  got = script(folder / "onnx", folder / "script.nii.gz", images)
  np.testing.assert_array_equal(got.affine, expected.affine)
  for other in (np.asarray(got.dataobj), exported.schema.decode(probabilities)):
    assert np.count_nonzero(other != labels) <= labels.size / 1e5
  # The network in ONNX beside ours, on a patch of the case.
  image = session(folder / "onnx" / "normalize.onnx").run(None, {"volume": raw})[0]
  unit, own = metadata.network.multiple, []
  for length, patch in zip(raw.shape, exported.metadata["patch_size"], strict=False):
    inside = min(length, patch) // unit * unit
    own.append(slice((length - inside) // 2, (length + inside) // 2))
  answer = session(folder / "onnx" / "network.onnx").run(None, {"image": image[tuple(own)][None]})[0][0]
  low, high = metadata.intensities.bounds(metadata.intensities.prepare(raw))
  prepared = metadata.intensities.prepare(raw)[tuple(own)][None]
  np.testing.assert_allclose(answer, exported(prepared, low, high)[0], atol=1e-4)


def test_the_hippocampus_of_a_real_case(shared, tmp_path):
  source, name = shared / "real" / "Task04_Hippocampus", "hippocampus_001.nii.gz"
  for kind in ("imagesTr", "labelsTr"):
    (tmp_path / "data" / kind).mkdir(parents=True)
    shutil.copy(source / kind / name, tmp_path / "data" / kind)
  shutil.copy(source / "dataset.json", tmp_path / "data")
  image = tmp_path / "data" / "imagesTr" / name
  raw = nib.load(image).get_fdata(dtype=np.float32)[..., None]
  assert_parity(PRETRAINED, tmp_path / "data", "hippocampus_001", [image], raw, tmp_path)


def test_a_glioma_in_four_modalities(real_cases, run, tmp_path):
  """Cut out about the tumour: the whole head takes minutes where XLA optimises little."""
  case, images = real_cases / "HGG" / "BraTS19_TCGA_FG6692_1", []
  (tmp_path / "data" / case.name).mkdir(parents=True)
  for name in BRATS2019.modality_names:
    image = next(case.glob(f"*_{name}.nii*"))
    images.append(tmp_path / "data" / case.name / f"{case.name}_{name}.nii.gz")
    nib.save(nib.load(image).slicer[90:138, 90:130, 60:100], images[-1])
  raw = np.stack([nib.load(image).get_fdata(dtype=np.float32) for image in images], axis=-1)
  assert_parity(run, tmp_path / "data", case.name, images, raw, tmp_path)


@pytest.mark.parametrize("form", ["jax", "onnx"])
def test_a_search_is_refused(tiny, tmp_path, capsys, form):
  if form == "onnx":
    pytest.importorskip("onnx", reason="onnx is not installed")
  _, _, metadata = made("derived", kind="search", genotype=None, network=tiny.config)
  save_run(tmp_path / "search", tiny.variables, metadata)
  assert export(tmp_path / "search", tmp_path / "out", form) == 2
  assert "a search, whose supernet mixes all operations" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_what_is_there_stays(run, tmp_path, capsys):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "mine").write_text("kept")
  assert export(run, tmp_path / "out", "jax") == 2
  assert "out must be a folder that is not there yet" in capsys.readouterr().err
  assert (tmp_path / "out" / "mine").read_text() == "kept"


def test_other_wrong_inputs(run, tmp_path, capsys, monkeypatch):
  assert export(run, tmp_path / "out", "torch") == 2
  assert "torch" in capsys.readouterr().err
  (tmp_path / "empty").mkdir()
  assert export(tmp_path / "empty", tmp_path / "out", "jax") == 2
  assert str(tmp_path / "empty") in capsys.readouterr().err
  monkeypatch.setitem(sys.modules, "onnx", None)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  assert export(run, tmp_path / "out", "onnx") == 2
  assert 'the extra of that name, in the folder of this program: pip install ".[onnx]"' in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_export(run, tmp_path):
  with pytest.raises(nas3d_jax.InputError, match=r"is no exported network, it has no metadata\.json"):
    nas3d_jax.load_exported(run)
  export(run, tmp_path / "out", "jax")
  (tmp_path / "out" / "network.jaxexport").write_bytes(b"damaged")
  with pytest.raises(nas3d_jax.InputError, match="cannot be read"):
    nas3d_jax.load_exported(tmp_path / "out")


def test_operations_of_ones_own_are_exported_for_jax_alone(tmp_path, capsys):
  space = SearchSpace.of((), (DEPTHWISE,))
  genotype = Genotype((("max_pool", 0), ("avg_pool", 1)), (("depthwise5", 0), ("up_conv", 1)), space=space)
  network = NetworkConfig(kernels=2, nodes=1, depth=2, space=space)
  net, variables, metadata = made("derived", network=network, genotype=genotype)
  save_run(tmp_path / "run", variables, metadata)
  where = dict(checkpoint=tmp_path / "run", out=tmp_path / "out")
  assert export(*where.values(), "jax") == 2
  assert "operation 'depthwise5' is not one of Table 1; give its CustomOperation in" in capsys.readouterr().err
  if importlib.util.find_spec("onnx"):
    said = "operation 'depthwise5' of your own has no ONNX operator; export it with format 'jax'"
    with pytest.raises(nas3d_jax.InputError, match=said):
      export_network(ExportConfig(**where, format="onnx"), operations=[DEPTHWISE])
  assert not (tmp_path / "out").exists()
  export_network(ExportConfig(**where), operations=[DEPTHWISE])
  lines = [line.partition(" ")[0] for line in capsys.readouterr().err.splitlines()]
  assert lines[-3:] == ["restoring", "lowering", "writing"]
  patches, low, high = abs(normal(1, 8, 8, 8, 4)), np.zeros(4, np.float32), np.ones(4, np.float32)
  expected = make_predict_step(net, xi=metadata.xi, lam=metadata.lam)(variables, patches, low, high)
  np.testing.assert_allclose(nas3d_jax.load_exported(tmp_path / "out")(patches, low, high), expected, atol=1e-5)
