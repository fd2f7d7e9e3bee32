"""Checkpoints, format version 1: written by Orbax, whole or not at all, and checked when they are read.

Rooms: `checkpoints` (of a run), `orbax_items` (the one that knows Orbax), `step_folders` (which steps there are and
stay), `integrity` (checksums of what is read), `serialization` (state as plain trees), `metadata` (all but the arrays),
`restore` (a network from a checkpoint), `quiet` (what Orbax would print).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
