"""The report of a run directory: one page with figures and tables. It alone draws.

Rooms: `build` is the way in; `run_contents` (what a run holds), `context`, `page`, `sections` and `case_sections`;
`table` and `result_tables`; `gallery` (figures on disk), `case_views` (planes of cases) and the figures by subject.
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
