"""Patches: where they lie, and how they become the batches of a step.

Rooms: `grid` (auto-fitted patches, section 2.3), `normalize` (eq. 2), `augment`; `host_batches` (read ahead from disk)
and `device_cases` (cut on the device), `placement` (which of the two), `patch_stream` (patches as a run takes them).
"""
