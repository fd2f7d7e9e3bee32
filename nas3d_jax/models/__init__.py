"""The networks of the paper: what they are made of, how they compute, what a search chooses.

Rooms, from the ground up: `config`, `search_space` (candidates, edges, hybrid parameters), `genotype` (what a search
finds); `convolutions`, `gathered_convolutions` and `cpu_tuning`, `group_norm`, `initialization`; `operations` (Table 1)
and `fused_operations` (many of them at once); `cells` (Figures 5 and 6), `networks` (Figure 3), `unet3d`; `packing`
(parameters as one vector), `precision`, `flops`, `released_weights` (those of the authors' program).
"""
