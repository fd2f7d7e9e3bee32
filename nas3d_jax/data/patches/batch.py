"""What batches are, before and after they are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

RawBatch = Mapping[str, Any]
"""Patches as they are stored: image, label, low and high with a first axis of N; see `host_batches.PatchSource`."""

Batch = tuple[jax.Array, jax.Array]
"""What a step takes: image [N, D, H, W, M] and target [N, D, H, W, R], float32."""
