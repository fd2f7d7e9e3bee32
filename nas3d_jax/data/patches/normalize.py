"""Intensities to the network's range (equations 1 and 2 of the paper)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from nas3d_jax.data.intensity_names import LAM, XI
from nas3d_jax.errors import InputError

_SPACE = (-4, -3, -2)


def normalize(
  volume: ArrayLike,
  xi: float = XI,
  lam: float = LAM,
  *,
  low: ArrayLike | None = None,
  high: ArrayLike | None = None,
) -> jax.Array:
  """Scales the non-zero voxels of each modality to [xi lam, xi (1 + lam)]; zero stays zero.

  The paper first standardises, z = (A - mean) / deviation (equation 1), then scales by the range,
  B = xi ((z - min z) / (max z - min z) + lam) (equation 2). The second step undoes the first,
  whatever the mean and the positive deviation, so B = xi ((A - min A) / (max A - min A) + lam),
  which is what is computed. Works under `jit`, `grad`, `vmap` and `eval_shape`.

  Args:
    volume: [..., D, H, W, M] raw intensities, integer or float; zero is background.
    xi: length of the range.
    lam: its offset, in units of `xi`; it keeps the darkest voxel apart from the background.
    low: [..., M] least intensity over the case's non-zero voxels, the leading axes as the volume's
      or absent. By default the volume's own: right for a whole case, wrong for a patch of one.
    high: [..., M] greatest intensity of the same.

  Returns:
    float32, or float64 where `volume` is, of the volume's shape. Where `high` equals `low` there
    is no range and the fraction is 0: those voxels become xi lam.

  Raises:
    InputError: `volume` has fewer than four axes.
  """
  volume = jnp.asarray(volume)
  if volume.ndim < 4:
    raise InputError(f"volume must be [..., D, H, W, modality], got shape {volume.shape}")
  present = volume != 0
  values = volume.astype(jnp.float64 if volume.dtype == jnp.float64 else jnp.float32)
  least = _bound(jnp.min, values, present, low)
  greatest = _bound(jnp.max, values, present, high)
  # Halves, which are exact, because the range itself may be beyond single precision.
  values, least, greatest = values / 2, least / 2, greatest / 2
  span = jnp.where(greatest > least, greatest - least, 1)
  return jnp.where(present, (values - least) * (xi / span) + xi * lam, 0)


def _bound(
  reduce: Callable, values: jax.Array, present: jax.Array, given: ArrayLike | None
) -> jax.Array:
  """The bound given, or else that of the voxels present: [..., 1, 1, 1, M]."""
  if given is not None:
    given = jnp.expand_dims(jnp.asarray(given, values.dtype), _SPACE)
    return jnp.expand_dims(given, range(values.ndim - given.ndim))
  # Absent voxels take the value of a present one, so that no infinity meets the gradient.
  filler = jnp.max(jnp.where(present, values, -jnp.inf), axis=_SPACE, keepdims=True)
  filler = jax.lax.stop_gradient(jnp.where(jnp.isfinite(filler), filler, 0))
  return reduce(jnp.where(present, values, filler), axis=_SPACE, keepdims=True)
