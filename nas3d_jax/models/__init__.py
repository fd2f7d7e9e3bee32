"""The networks of the paper: what they consist of, how they compute, what a search chooses.

From the ground up:

- `search_space` (candidate operations, edges, section 2.2); `config`; `hybrid_parameters`; `genotype` (section 2.4)
- `convolutions`, with `gathered_convolutions` and `cpu_tuning`; `group_norm`; `dropout`; `ranks`;
  `initialization`
- `operations` (one candidate operation, Table 1); `fused_operations` (all that read one state, at once);
  `custom_operations` (of the user's own)
- `cells` (Fig. 4 to 6); `networks` (Fig. 3); `unet3d` and `plain_unet` (hand-designed networks), `architectures` (those
  by name); `output_head` (logits and probabilities)
- `packing` (parameters as one vector); `precision`; `flops`; `released_weights` (of the authors' program)
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
