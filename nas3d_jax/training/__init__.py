"""The search (Table 2) and the training (section 3.5): from a data set to checkpoints.

Rooms: `search` and `train` are the two loops; `session` (what both hold between two steps, and how they take one),
`feed` (what a step takes its patches from), `recipe` (what it is trained with, by name), `steps` (one update, or a
chunk of them), `setup` (data set, network and devices of a run), `config` (their options), `start` (the parameters that
a training starts from), `epoch` (steps, means and checkpoints of an epoch), `losses`, `optimizers`, `genotype_counts`
(lines 8 and 9 of Table 2), `genotype_losses` (what a supernet says of genotypes), `nonfinite` (steps left out),
`run_directory` (history and checkpoints on disk).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
