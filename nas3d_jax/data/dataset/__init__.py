"""A preprocessed data set: how it is made, what lies on disk, how it is opened.

Rooms: `preprocess` makes one, by way of `common_geometry`, `choose_intensities`, `folds` and `staging`; `dataset` opens
it, `case` is one record of its manifest, `verify` compares checksums, `reference` finds the data set of a work
directory, `suggest` tells what patch and network it suggests.
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
