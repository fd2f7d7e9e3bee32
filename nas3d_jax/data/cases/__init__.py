"""Cases as files: finds them in any of the known layouts, detects their schema, reads and checks them.

Rooms: `find_and_read` is the way in; `case_folders` and `shared_folders` know a layout each, `dataset_json` the file
that names channels, `detect_schema` which schema fits, `segmentations` the truths alone; `case_files` (the files of a
case, and faults), `nifti` (checked reading).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
