"""Confidences of whole volumes: auto-fitted patches, forward pass, averaged overlaps (section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nas3d_jax.data.normalize import normalize
from nas3d_jax.data.patches import PatchAverage, extract_patch, patch_grid
from nas3d_jax.data.preprocess import brain_cube, intensity_range
from nas3d_jax.errors import InputError
from nas3d_jax.networks import DerivedNet, Supernet

Variables = Mapping[str, Any]
PredictStep = Callable[[Variables, np.ndarray, np.ndarray, np.ndarray], jax.Array]
OnPatch = Callable[[int, int], None]


def make_predict_step(net: Supernet | DerivedNet, *, xi: float = 100.0, lam: float = 0.1) -> PredictStep:
  """Makes the forward pass of one patch; it is compiled once a patch size, so keep it for all volumes.

  Args:
    net: a supernet or a derived network.
    xi: length of the range of the normalised input (equation 2), as in training.
    lam: offset of that range, in units of `xi`.

  Returns:
    A jitted function (variables, patch, low, high) -> probabilities: `patch` float32 [p, p, p, M] raw intensities,
    `low` and `high` float32 [M] the case's least and greatest non-zero ones; float32 [p, p, p, R].
  """

  @jax.jit
  def predict_step(variables, patch, low, high):
    image = normalize(patch, xi, lam, low=low, high=high)
    return net.apply(variables, image[None])[0]

  return predict_step


def predict_volume(
  net: Supernet | DerivedNet,
  variables: Variables | Sequence[Variables],
  volume: np.ndarray,
  *,
  patch_size: int,
  step: PredictStep | None = None,
  on_patch: OnPatch | None = None,
) -> np.ndarray:
  """Probability of each region in each voxel of one case.

  Args:
    net: a supernet or a derived network.
    variables: its variables, or several (checkpoints of one network): their probabilities are averaged.
    volume: [D, H, W, M] raw intensities of the whole case, M the network's modalities in the order of training; a voxel
      that is zero in every modality is outside the brain.
    patch_size: length of a patch in voxels, a multiple of 2 ** (depth + 1); best that of the training.
    step: a step of `make_predict_step(net)`, so that many volumes share one compilation, or with another range; None
      compiles one.
    on_patch: called with the patches done and their number after each.

  Returns:
    float32 [D, H, W, R] between 0 and 1, R the network's regions; 0 outside the brain. `schema.decode` makes labels of
    it.

  Raises:
    InputError: the volume or the patch size does not fit the network, the volume holds NaN, infinite or no non-zero
      voxels, or the network gives NaN.
  """
  channels = net.config.in_channels
  volume = np.asarray(volume)
  if volume.ndim != 4 or volume.shape[3] != channels or volume.dtype.kind not in "iuf":
    raise InputError(f"volume must be real numbers [D, H, W, {channels}], got {volume.dtype} of shape {volume.shape}")
  if volume.dtype.kind == "f" and not np.isfinite(volume).all():
    raise InputError("volume must be finite, got NaN or infinite voxels; replace them by 0")
  net.config.check_patch_size(patch_size)
  trees = [variables] if isinstance(variables, Mapping) else list(variables)
  if not trees:
    raise InputError("variables must be at least one tree of variables, got none")
  step = step or make_predict_step(net)
  members = [(step, tree) for tree in trees]
  return predict_mean(members, volume, patch_size=patch_size, regions=net.config.out_channels, on_patch=on_patch)


def predict_mean(
  members: Sequence[tuple[PredictStep, Variables]],
  volume: np.ndarray,
  *,
  patch_size: int,
  regions: int,
  on_patch: OnPatch | None = None,
) -> np.ndarray:
  """The mean probability over several networks, which may differ in all but their channels; else as `predict_volume`.

  Args:
    members: step and variables of each network.
    volume: [D, H, W, M] raw intensities, finite.
    patch_size: length of a patch in voxels.
    regions: R, the channels that the steps return.
    on_patch: as in `predict_volume`.
  """
  low, high = intensity_range(volume)
  box = tuple(slice(*bounds) for bounds in brain_cube(volume))
  cube = np.ascontiguousarray(volume[box])
  starts = patch_grid(cube.shape[:3], patch_size)
  average = PatchAverage(cube.shape[:3], regions)
  for done, start in enumerate(starts, 1):
    patch = extract_patch(cube, start, patch_size).astype(np.float32)
    total = sum(step(variables, patch, low, high) for step, variables in members)
    average.add(start, np.asarray(total) / len(members))
    if on_patch is not None:
      on_patch(done, len(starts))
  mean = average.result()
  if not np.isfinite(mean).all():
    raise InputError("the network's probabilities are not finite: its training diverged; use another checkpoint")
  probabilities = np.zeros((*volume.shape[:3], regions), np.float32)
  np.multiply(mean, (cube != 0).any(axis=-1, keepdims=True), out=probabilities[box])
  return probabilities
