"""The search (Table 2) and the training (section 3.5): from a data set to checkpoints.

Rooms: `search` and `train` are the two loops; `config` (their options), `session` (what both stand on), `epoch` (its
steps, means and checkpoints), `steps` (one update, or a chunk of them), `losses`, `optimizers`, `genotype_counts`
(lines 8 and 9 of Table 2), `nonfinite` (steps left out), `run_directory` (history and checkpoints on disk).
"""
