"""Patches: where they lie, and how they become the batches of a step.

Rooms: `grid` (auto-fitted patches, section 2.3), `normalize` (eq. 2), `augment` (the paper's), `strong_augment`,
`augmentation` (either by name); `random_patches`; `batch` (what a step takes); `patch_order` (which patches a run
takes, and how many it took); `host_source` (batches read ahead from disk, by `host_batches`) and `device_source` (cut
on the device, by `device_cases`), `placement` (which of the two), `patch_stream` (an order with its sources).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
