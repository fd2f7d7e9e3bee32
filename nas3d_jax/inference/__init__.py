"""From a trained network to label volumes of whole cases.

Rooms: `predict` is the way in, `cross_validation` gives each case the fold that did not see it; `config` (choices of
inference), `volume` (one case by patches), `ensemble` (the mean of networks), `postprocessing` (small components),
`jobs` (many cases, read ahead and written behind), `prediction_folder` (what lies on disk), `prediction_record` (its
record), `shards` (several processes that share it).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
