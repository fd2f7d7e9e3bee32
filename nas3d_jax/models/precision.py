"""The precision of convolutions. Parameters, statistics, losses and optimisers are always float32."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp

from nas3d_jax.errors import InputError
from nas3d_jax.models.config import PRECISIONS, Precision


def activation_dtype(precision: Precision) -> jnp.dtype:
  """The dtype of arrays of voxels between the layers: bfloat16 for "bfloat16", else float32."""
  return jnp.dtype(jnp.bfloat16 if precision == "bfloat16" else jnp.float32)


def computing(precision: Precision) -> contextlib.AbstractContextManager:
  """A context within which programs are compiled to multiply in that precision.

  "float32" is full precision everywhere. "tf32", the default of JAX, rounds the factors to 10 bits of mantissa on GPUs
  that have it, and is float32 elsewhere. "bfloat16" multiplies what is still float32 as "tf32" does.

  Raises:
    InputError: no such precision.
  """
  if precision not in PRECISIONS:
    raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
  return jax.default_matmul_precision("float32" if precision == "float32" else "tensorfloat32")
