"""Computes probabilities of whole volumes: auto-fitted patches, forward pass, averaged overlaps (section 2.3)."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas3d_jax.data.brain import brain_cube, intensity_range
from nas3d_jax.data.intensities import PAPER_INTENSITIES, Intensities
from nas3d_jax.data.intensity_names import LAM, XI
from nas3d_jax.data.patches.grid import PatchAverage, extract_patch, gaussian_weights, patch_grid
from nas3d_jax.data.patches.normalize import normalize
from nas3d_jax.errors import InputError
from nas3d_jax.inference.config import PAPER, Axes, InferenceChoices
from nas3d_jax.models.config import Precision
from nas3d_jax.models.networks import Network, NetworkKey
from nas3d_jax.models.precision import computing
from nas3d_jax.runtime.compiling import shared
from nas3d_jax.runtime.data_parallel import ONE_DEVICE, SPLIT, WHOLE, Replicas
from nas3d_jax.validation import PatchSize, patch_size_of

Variables = Mapping[str, Any]
PredictStep = Callable[[Variables, np.ndarray, np.ndarray, np.ndarray], jax.Array]
Bounds = tuple[np.ndarray, np.ndarray]
OnPatch = Callable[[int, int], None]
Forward = Callable[[np.ndarray], np.ndarray]

_AXES = types.MappingProxyType({"D": -4, "H": -3, "W": -2})
"""Spatial axes of an array [..., D, H, W, C]."""


def make_predict_step(
  net: Network,
  *,
  xi: float = XI,
  lam: float = LAM,
  precision: Precision = "float32",
  replicas: Replicas = ONE_DEVICE,
) -> PredictStep:
  """Makes the forward pass of one patch; it is compiled once a patch size, so keep it for all volumes.

  Args:
    net: a network.
    xi: length of the range of the normalised input (equation 2), as in training.
    lam: offset of that range, in units of `xi`.
    precision: in which convolutions multiply; the arrays between them are of the network's `dtype`.
    replicas: devices that share a batch, which then has as many patches for each.

  Returns:
    A jitted function (variables, patch, low, high) -> probabilities: `patch` float32 [d, h, w, M] raw intensities,
    `low` and `high` float32 [M] the case's least and greatest non-zero ones; float32 [d, h, w, R]. Of a batch
    [N, d, h, w, M] of patches of one case, [N, d, h, w, R].
  """

  def predict(variables, patch, low, high):
    image = normalize(patch.astype(jnp.float32), xi, lam, low=low, high=high)
    with computing(precision):
      return net.apply(variables, image) if image.ndim == 5 else net.apply(variables, image[None])[0]

  predict_one, predict_batch = jax.jit(predict), replicas.jit(predict, (WHOLE, SPLIT, WHOLE, WHOLE), SPLIT)

  def predict_step(variables, patch, low, high):
    return (predict_batch if patch.ndim == 5 else predict_one)(variables, patch, low, high)

  return predict_one if replicas.mesh is None else predict_step


def shared_predict_step(net: Network, **options: Any) -> PredictStep:
  """`make_predict_step`: for the same network and options the same step, which is compiled once a process."""
  key = NetworkKey.of(net)
  return make_predict_step(net, **options) if key is None else shared(_predict_step, key, **options)


def _predict_step(key: NetworkKey, **options: Any) -> PredictStep:
  return make_predict_step(key.net, **options)


def mirrored(step: PredictStep, along: Axes = "DHW") -> PredictStep:
  """The mean of a step's outputs for the mirrored inputs, 8 along three axes, each mirrored back; else like `step`."""
  axes = [_AXES[name] for name in along]
  flips = [flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count)]

  def mean_of_flips(variables, patch, low, high):
    patch = jnp.asarray(patch)
    answers = (jnp.flip(step(variables, jnp.flip(patch, flip), low, high), flip) for flip in flips)
    return sum(answers) / len(flips)

  return mean_of_flips


def checked_volume(volume: np.ndarray, channels: int, missing: Collection[int] = ()) -> np.ndarray:
  """A volume as `Intensities.prepare` takes it: [D, H, W, channels] finite numbers, 0 where a modality is missing.

  Raises:
    InputError: it is of another shape or type, no modality is left, or it holds NaN or infinite voxels.
  """
  volume = np.asarray(volume)
  if volume.ndim != 4 or volume.shape[3] != channels or volume.dtype.kind not in "iuf":
    raise InputError(f"volume must be real numbers [D, H, W, {channels}], got {volume.dtype} of shape {volume.shape}")
  if not set(missing) < set(range(channels)):
    raise InputError(
      f"missing must be some of the modalities 0 to {channels - 1}, not all, got {sorted(missing)}; name those that "
      "the volume lacks"
    )
  if missing:
    volume = volume.copy()
    volume[..., sorted(missing)] = 0
  if volume.dtype.kind == "f" and not np.isfinite(volume).all():
    raise InputError("volume must be finite, got NaN or infinite voxels; replace them by 0")
  return volume


def predict_volume(
  net: Network,
  variables: Variables | Sequence[Variables],
  volume: np.ndarray,
  *,
  patch_size: PatchSize,
  step: PredictStep | None = None,
  intensities: Intensities = PAPER_INTENSITIES,
  missing: Collection[int] = (),
  choices: InferenceChoices = PAPER,
  on_patch: OnPatch | None = None,
) -> np.ndarray:
  """Probability of each region in each voxel of one case.

  Args:
    net: a network.
    variables: its variables, or several (checkpoints of one network): their probabilities are averaged.
    volume: [D, H, W, M] raw intensities of the whole case, M the network's modalities in the order of training, in the
      orientation and voxel size of training, which `data.conform.conform` brings it to; a voxel that is background in
      every modality is outside the brain.
    patch_size: length of a patch in voxels, one or one an axis, each a multiple of `net.config.multiple`; best that of
      the training.
    step: a step of `make_predict_step(net)`, so that many volumes share one compilation, or with another range; None
      takes the same for all volumes of a network of this library without operations of one's own, else compiles one.
    intensities: foreground and normalisation of the training, `metadata.intensities`; where the volume went through
      their `prepare` before, their `prepared`.
    missing: modalities, by their place in M, that the case lacks: what `volume` has there is not read, and the network
      gets 0. For networks trained with `modality_dropout` (`metadata.modality_dropout` is above 0).
    choices: beyond what the paper does; `min_component_ml`, which concerns labels, has no effect here.
    on_patch: called with the patches done and their number after each.

  Returns:
    float32 [D, H, W, R] between 0 and 1, R the network's regions; 0 outside the brain. `schema.decode` makes labels of
    it.

  Raises:
    InputError: the volume or the patch size does not fit the network, no modality is left, the volume holds NaN,
      infinite or no non-zero voxels, or the network gives NaN.
  """
  missing = frozenset(missing)
  volume = checked_volume(volume, net.config.in_channels, missing)
  patch_size = patch_size_of(patch_size)
  net.config.check_patch_size(patch_size)
  trees = [variables] if isinstance(variables, Mapping) else list(variables)
  if not trees:
    raise InputError("variables must be at least one tree of variables, got none")
  step = step or shared_predict_step(net)
  members = [(step, tree) for tree in trees]
  sizes = dict(patch_size=patch_size, regions=net.config.out_channels, multiple=net.config.multiple)
  volume = intensities.prepare(volume, missing)
  return predict_mean(
    members, volume, **sizes, bounds=intensities.bounds(volume, missing), choices=choices, on_patch=on_patch
  )


def predict_mean(
  members: Sequence[tuple[PredictStep, Variables]],
  volume: np.ndarray,
  *,
  patch_size: PatchSize,
  regions: int,
  multiple: int = 1,
  devices: int = 1,
  bounds: Bounds | None = None,
  choices: InferenceChoices = PAPER,
  on_patch: OnPatch | None = None,
) -> np.ndarray:
  """The mean probability over several networks, which may differ in all but their channels; else as `predict_volume`.

  Args:
    members: step and variables of each network.
    volume: [D, H, W, M] intensities, finite; zero is outside.
    patch_size: length of a patch in voxels; one, or one an axis.
    regions: R, the channels that the steps return.
    multiple: what the lengths of a network's input must be multiples of; asked for whole volumes alone.
    devices: how many share the patches; a whole volume is computed by each.
    bounds: `low` and `high` for the steps; None: least and greatest intensity of the volume that are not zero.
    choices: as in `predict_volume`.
    on_patch: as in `predict_volume`.
  """
  low, high = bounds or intensity_range(volume)
  box = tuple(slice(*bounds) for bounds in brain_cube(volume))
  cube = np.ascontiguousarray(volume[box])
  members = [(mirrored(step, choices.tta_axes), tree) for step, tree in members] if choices.tta else members

  def forward(patch: np.ndarray) -> np.ndarray:
    total = sum(step(variables, patch, low, high) for step, variables in members)
    return np.asarray(total) / len(members)

  if choices.whole_volume:
    mean = in_one_pass(forward, cube, multiple)
  else:
    mean = in_patches(forward, cube, patch_size, regions, choices=choices, devices=devices, on_patch=on_patch)
  if not np.isfinite(mean).all():
    raise InputError("the network's probabilities are not finite: its training diverged; use another checkpoint")
  probabilities = np.zeros((*volume.shape[:3], regions), np.float32)
  np.multiply(mean, (cube != 0).any(axis=-1, keepdims=True), out=probabilities[box])
  return probabilities


def in_one_pass(forward: Forward, cube: np.ndarray, multiple: int) -> np.ndarray:
  """Applies a network to a whole brain cube, padded with zeros on both sides to multiples.

  A network is compiled anew for each size.

  Args:
    forward: [D, H, W, M] -> [D, H, W, R], float32.
    cube: [d, h, w, M] raw intensities.
    multiple: what D, H and W must be multiples of.

  Returns:
    float32 [d, h, w, R].
  """
  pads = [(-length % multiple // 2, -length % multiple - -length % multiple // 2) for length in cube.shape[:3]]
  answer = forward(np.pad(cube, [*pads, (0, 0)]).astype(np.float32))
  return answer[tuple(slice(before, before + n) for (before, _), n in zip(pads, cube.shape[:3], strict=True))]


def in_patches(
  forward: Forward,
  cube: np.ndarray,
  patch_size: PatchSize,
  regions: int,
  *,
  choices: InferenceChoices = PAPER,
  devices: int = 1,
  on_patch: OnPatch | None = None,
) -> np.ndarray:
  """Applies a network to the patches of a brain cube and averages where they overlap.

  Args:
    forward: [d, h, w, M] -> [d, h, w, R], float32; where `choices.patch_batch * devices` is above 1, of batches of that
      length, the last one filled up with the last patch.
    cube: [d, h, w, M] raw intensities.
    patch_size: (d, h, w) in voxels, or one length.
    regions: R.
    choices: overlap, weights and the batch of a device.
    devices: how many share a batch.
    on_patch: as in `predict_volume`.

  Returns:
    float32 [d, h, w, R].
  """
  starts = patch_grid(cube.shape[:3], patch_size, choices.overlap)
  weights = gaussian_weights(patch_size) if choices.gaussian else None
  average = PatchAverage(cube.shape[:3], regions, weights)
  batch = choices.patch_batch * devices
  for first in range(0, len(starts), batch):
    own = starts[first : first + batch]
    patches = [extract_patch(cube, start, patch_size).astype(np.float32) for start in own]
    if batch == 1:
      answers = [forward(patches[0])]
    else:
      answers = forward(np.stack(patches + patches[-1:] * (batch - len(own))))
    for start, answer in zip(own, answers, strict=False):
      average.add(start, answer)
    if on_patch is not None:
      on_patch(first + len(own), len(starts))
  return average.result()
