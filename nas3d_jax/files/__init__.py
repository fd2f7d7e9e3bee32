"""Files and folders, whatever they hold.

Rooms: `atomic` (files that appear whole or not at all, errors of a full disk), `locks` (one writer a folder),
`strict_json` (JSON, read strictly), `hashing` (the checksum of a file), `run_layout` (the names of all files and
folders of a run).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
