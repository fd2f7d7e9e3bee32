"""Commands: `python -m launch STAGE --flags`. Flags in, one call into nas3d_jax, results out."""
