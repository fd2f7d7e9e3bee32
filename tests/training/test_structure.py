"""What the steps are lowered to: so many convolutions and no others, none of a kind without a fast form."""

import re

import jax
import pytest

from nas3d_jax.models.packing import PackedNet
from nas3d_jax.training.optimizers import adam
from nas3d_jax.training.steps import SearchState, make_search_step

# Depth 2, 1 node: 5 cells of 2 states, each read by a dense and a dilated convolution; and one of the stem.
FORWARD = 5 * 2 * 2 + 1


def convolutions(text):
  return re.findall(r"stablehlo\.convolution.*", text)


def forward_pass(tiny, platforms):
  def forward(variables, image):  # a new function: JAX would remember how the same one was traced
    return tiny.net.apply(variables, image)

  return jax.jit(forward).trace(tiny.variables, tiny.image).lower(lowering_platforms=platforms).as_text()


@pytest.fixture
def as_convolutions(monkeypatch):
  """Traces as where no volume gathers its taps; nothing is compiled."""
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr("nas3d_jax.models.gathered_convolutions._GATHER_FROM", {})


@pytest.fixture
def lowered(tiny):
  def lower(rolled):
    packed, optimizer = PackedNet(tiny.net, tiny.variables), adam(1e-3)
    state = SearchState.create(packed.pack(tiny.variables), optimizer, optimizer, jax.random.key(0))
    batch = tiny.image, tiny.target
    step = make_search_step(packed, optimizer, optimizer, rolled=rolled)
    return step.trace(state, batch, batch).lower(lowering_platforms=("cuda",)).as_text()

  return lower


@pytest.mark.usefixtures("as_convolutions")
def test_a_forward_pass_has_two_convolutions_a_state(tiny):
  assert len(convolutions(forward_pass(tiny, ("cuda",)))) == FORWARD


@pytest.mark.usefixtures("as_convolutions")
def test_a_search_step_has_the_convolutions_that_two_gradients_take(lowered):
  """The kernel's pass has every convolution forward, for its kernel, and, but for the stem, for its input; the hybrid
  pass neither the kernels' nor those for the inputs of the first downward cell, which no hybrid parameter precedes."""
  both = len(convolutions(lowered(False)))
  kernel_pass = FORWARD + FORWARD + (FORWARD - 1)
  assert kernel_pass < both <= kernel_pass + 2 * FORWARD - 1
  assert len(convolutions(lowered(True))) == kernel_pass


@pytest.mark.usefixtures("as_convolutions")
def test_no_convolution_is_strided_dilated_or_grouped(lowered):
  for line in convolutions(lowered(False)):
    for name in ("stride", "lhs_dilate", "rhs_dilate"):
      assert not re.search(rf"\b{name} = \[(?!1, 1, 1\])", line), line
    for name in ("feature_group_count", "batch_group_count"):
      assert f"{name} = 1 " in line, line


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_large_volumes_take_no_convolution_on_cpus_and_gpus(tiny, monkeypatch, backend):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  monkeypatch.setattr("nas3d_jax.models.gathered_convolutions._GATHER_FROM", {backend: 1})
  assert not convolutions(forward_pass(tiny, ({"gpu": "cuda"}.get(backend, backend),)))


@pytest.mark.parametrize("gathering", [{}, {"gpu": 2048}, {"gpu": 1}])
def test_no_slice_with_strides_is_the_factor_of_a_matrix_product(lowered, monkeypatch, gathering):
  """XLA's compiler for GPUs aborts on one (openxla/xla issue 47381)."""
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr("nas3d_jax.models.gathered_convolutions._GATHER_FROM", gathering)
  product = False
  for body in lowered(False).split("func.func")[1:]:
    made = dict(re.findall(r"(%\S+) = (.*)", body))

    def comes_from(name, made=made):
      """The first operation behind a value that is not one of single elements or a mere change of shape."""
      text = made.get(name, "")
      passing = re.match(r"stablehlo\.(?:reshape|transpose|convert|maximum) (%\w+)", text)
      return comes_from(passing[1]) if passing else text

    for text in made.values():
      if text.startswith("stablehlo.dot_general"):
        product = True
        for factor in re.findall(r"%\w+", text)[:2]:
          source = comes_from(factor)
          assert not re.match(r"stablehlo\.slice .*:\d+:[2-9]", source), source
  assert product
