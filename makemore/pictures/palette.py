"""The colors of all pictures.

Lines and points have colors from the palette of Okabe and Ito, which color-blind readers can tell apart.
Values have the color maps cividis and PuOr, which are safe for them too; cividis also prints well in shades
of gray.
"""

from __future__ import annotations

PRIMARY = "#0072B2"
"""The subject of a picture: histograms, bars, curves, the nodes that an output depends on."""

ACCENT = "#D55E00"
"""What a reader should notice: the output, the likeliest character, the bounds of a layer's outputs."""

RESIDUAL, SKIP = "#009E73", "#CC79A7"
"""Arrows for residual and skip connections."""

REFERENCE = "#000000"
"""What other lines are compared with: running statistics, a usual ratio."""

FAINT = "#BDBDBD"
"""Lines and nodes in the background."""

GRAY = "#6E6E6E"
"""Notes and other text of less importance."""

BACKGROUND = "#FFFFFF"
"""Gaps between boxes, and the inside of nodes that are only outlined."""

COLORS = (PRIMARY, ACCENT, RESIDUAL, SKIP, "#56B4E9", "#E69F00", REFERENCE)
"""Colors for lines that must be told apart, in the order of their use."""

AMOUNTS, SIGNED = "cividis", "PuOr"
"""Color maps for values from 0 up, and for values of both signs."""
