"""The released program's checkpoints as runs of this one; parameters are compared with what it computed."""

import json

import jax
import numpy as np
import pytest

from launch.__main__ import main
from nas3d_jax.checkpointing.restore import restore
from nas3d_jax.models.genotype import Genotype
from tests.convert.torch_archive import save

KNOWN = ("--schema=brats2019", "--modalities=flair,t1,t1ce,t2", "--regions=WT,TC,ET", "--patch_size=16")


@pytest.fixture(scope="module", params=["supernet", "derived"])
def released(request, golden, tmp_path_factory):
  """The arrays of a network, its file, and flags that it needs."""
  with np.load(golden(f"depth2_{request.param}.npz"), allow_pickle=False) as file:
    arrays = dict(file)
  folder = tmp_path_factory.mktemp(request.param)
  state = {name.removeprefix("sd/"): array for name, array in arrays.items() if name.startswith("sd/")}
  save(folder / "model.pt", {"epoch": 3, "state_dict": state})
  (folder / "genotype.json").write_text(str(arrays["genotype"]))
  more = [f"--genotype={folder / 'genotype.json'}"] if request.param == "derived" else []
  return arrays, state, folder / "model.pt", more


def convert(source, out, *more):
  return main(["convert", f"--from={source}", f"--out={out}", "--platform=cpu", *more])


def test_probabilities_are_those_of_the_released_program(released, tmp_path):
  arrays, _, source, more = released
  # The file's channels are called in another order than the schema's: input and output are turned alike.
  order = ("--modalities=t2,flair,t1,t1ce", "--regions=ET,WT,TC")
  assert convert(source, tmp_path / "run", KNOWN[0], *order, KNOWN[3], *more) == 0
  net, variables, metadata = restore(tmp_path / "run")
  with jax.default_matmul_precision("float32"):
    got = jax.jit(net.apply)(variables, arrays["x"][..., [1, 2, 3, 0]])
  np.testing.assert_allclose(got, arrays["probabilities"][..., [1, 2, 0]], rtol=0, atol=1e-4)
  assert metadata.network.variant == "released"
  expected = Genotype(**json.loads(str(arrays["genotype"])))
  assert Genotype.from_json((tmp_path / "run" / "genotype.json").read_text()) == expected
  assert metadata.genotype == (expected if more else None)


def test_what_the_file_does_not_hold_is_asked_for(released, tmp_path, capsys):
  _, state, source, more = released
  cases = [
    (KNOWN[1:], "schema must be given"),
    ((KNOWN[0], *KNOWN[2:]), "modalities must name"),
    ((*KNOWN[:2], KNOWN[3]), "regions must name"),
    (("--normalization=window", *KNOWN), "normalization of flair, t1, t1ce, t2 must be given with its window"),
    (("--patch_size=12", *KNOWN[:3]), "patch_size must be a multiple of 8"),
    (("--normalization=zscore", "--xi=50", *KNOWN), "xi and lam are of normalization=range"),
    (("--schema=brats2024", KNOWN[1], "--regions=WT,TC,ET,RC"), "its network has 3 regions"),
  ]
  said = "does not hold its genotype; give it as --genotype=FILE" if more else "leave out genotype"
  genotype = source.with_name("genotype.json")
  for given, message in cases:
    assert convert(source, tmp_path / "run", *given, *more) == 2
    assert message in capsys.readouterr().err
  assert convert(source, tmp_path / "run", *KNOWN, *([] if more else [f"--genotype={genotype}"])) == 2
  assert said in capsys.readouterr().err
  prefix = "" if more else "kernel."
  wrong = dict(state)
  wrong[f"{prefix}stem1.conv.bias"] = np.zeros(5, np.float32)
  wrong["extra"] = wrong.pop(f"{prefix}stem0.norm.bias")
  save(tmp_path / "wrong.pt", wrong)
  assert convert(tmp_path / "wrong.pt", tmp_path / "run", *KNOWN, *more) == 2
  err = capsys.readouterr().err
  assert "3 faults" in err
  assert "surplus extra" in err
  assert not (tmp_path / "run").exists()
  assert not list(tmp_path.glob(".*"))
