"""What modalities, labels and regions are called, and on which grid voxels lie. Nothing else knows label numbers.

Rooms: `schema` (the classes), `builtin` (the schemas of known data sets), `yaml_file` (a user's own), `translation`
(labels of one schema as those of another), `geometry` (orientation and voxel size).
"""

from nas3d_jax.lazy import modules_of
from nas3d_jax.schema.builtin import BRATS2019 as BRATS2019
from nas3d_jax.schema.schema import Schema as Schema

__getattr__ = modules_of(__name__)
