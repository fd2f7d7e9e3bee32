"""The version of this program, which nothing else spells."""

__version__ = "0.1.0"
