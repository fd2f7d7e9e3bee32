"""Figures, tables and the page of a run: everything that an experiment found, as files that can be passed on."""
