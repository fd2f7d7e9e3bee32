"""Checkpoints of the authors' released program, brought to the format of this one; nothing in their files is run.

Rooms: `write` is the way in, `config` (what only the user knows), `torch_file` (the archive and its arrays),
`plain_pickle` (the values of a pickle), `released_file` (what network the arrays are of).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
