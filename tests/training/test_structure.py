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
def on_gpu(monkeypatch):
  """Traces as for a GPU, whose forms are convolutions; nothing is compiled."""
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.fixture
def lowered(tiny):
  def lower(rolled):
    packed, optimizer = PackedNet(tiny.net, tiny.variables), adam(1e-3)
    state = SearchState.create(packed.pack(tiny.variables), optimizer, optimizer, jax.random.key(0))
    batch = tiny.image, tiny.target
    step = make_search_step(packed, optimizer, optimizer, rolled=rolled)
    return step.trace(state, batch, batch).lower(lowering_platforms=("cuda",)).as_text()

  return lower


@pytest.mark.usefixtures("on_gpu")
def test_a_forward_pass_has_two_convolutions_a_state(tiny):
  assert len(convolutions(forward_pass(tiny, ("cuda",)))) == FORWARD


@pytest.mark.usefixtures("on_gpu")
def test_a_search_step_has_the_convolutions_that_two_gradients_take(lowered):
  """The kernel's pass has every convolution forward, for its kernel, and, but for the stem, for its input; the hybrid
  pass neither the kernels' nor those for the inputs of the first downward cell, which no hybrid parameter precedes."""
  both = len(convolutions(lowered(False)))
  kernel_pass = FORWARD + FORWARD + (FORWARD - 1)
  assert kernel_pass < both <= kernel_pass + 2 * FORWARD - 1
  assert len(convolutions(lowered(True))) == kernel_pass


@pytest.mark.usefixtures("on_gpu")
def test_no_convolution_is_strided_dilated_or_grouped(lowered):
  for line in convolutions(lowered(False)):
    for name in ("stride", "lhs_dilate", "rhs_dilate"):
      assert not re.search(rf"\b{name} = \[(?!1, 1, 1\])", line), line
    for name in ("feature_group_count", "batch_group_count"):
      assert f"{name} = 1 " in line, line


def test_large_volumes_take_no_convolution_on_a_cpu(tiny, monkeypatch):
  if jax.default_backend() != "cpu":
    pytest.skip("taps are gathered on CPU alone")
  monkeypatch.setattr("nas3d_jax.models.cpu_convolutions._GATHER_VOXELS", 1)
  assert not convolutions(forward_pass(tiny, ("cpu",)))
