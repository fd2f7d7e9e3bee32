"""From files of cases to batches of patches.

Packages, in the order in which data flows: `cases` (NIfTI files, as they lie), `inspection` (what is wrong or strange
in them), `dataset` (cases checked, cropped and dealt into folds), `patches` (what a step takes). Beside them: `brain`
(the brain cube and the intensities in it), `intensities` (foreground and normalisation; `intensity_names`), `conform`
(another orientation and voxel size, and back), `phantom` (cases that are made up).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
