"""How good label volumes are: metrics, tables of them, comparisons.

Rooms: `evaluate` is the way in; `metrics` (all metrics of a case), `surfaces` (eq. 7) and `lesions` under it, `scores`
(the file of all cases), `comparison` (two networks on the same cases), `portal` (scores of a challenge),
`component_threshold` (the least component that is kept, chosen on scores).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
