"""Inspects a folder of cases before anything is computed: what is wrong or strange in it.

Rooms: `inspect_cases` is the way in; `examine_case` looks at one case, `compare_cases` at one among the others, `table`
shows what they found, `words` writes amounts.
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
