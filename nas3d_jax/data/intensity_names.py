"""Names and constants of foregrounds and normalisations, apart from what computes them: flags need not load that."""

from __future__ import annotations

from typing import Literal

Foreground = Literal["nonzero", "constant", "all"]
"""Where a modality is not zero; where it has not the value that its faces have, if they have one; everywhere."""
AskedForeground = Literal["auto", "nonzero", "constant", "all"]
"""The same, or to be found out."""
Normalization = Literal["range", "zscore", "percentile", "window", "none"]

# Equation 2: length and offset of the range that the intensities in the brain are brought to.
XI, LAM = 100.0, 0.1
