"""The colours of maps as inline SVG: drawn once a page, used by every row of pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from auditkit.report.heat import colour_strip

__all__ = ["colour_bars"]

_WIDTH, _HEIGHT = 128, 12


def colour_bars() -> str:
    """Return the symbols `bar-heat` and `bar-overlay`, in an element that itself shows nothing."""
    symbols = _symbol("bar-heat", colour_strip(over=False)) + _symbol("bar-overlay", colour_strip(over=True))
    return f'<svg class="symbols" width="0" height="0" aria-hidden="true">{symbols}</svg>'


def _symbol(name: str, colours: npt.NDArray[np.uint8]) -> str:
    """Return a bar of colours (rows, steps, 3)."""
    height, width = _HEIGHT / colours.shape[0], _WIDTH / colours.shape[1]
    steps = "".join(
        f'<rect x="{column * width:g}" y="{row * height:g}" width="{width:g}" height="{height:g}"'
        f' fill="#{bytes(colour).hex()}"/>'
        for row, line in enumerate(colours)
        for column, colour in enumerate(line)
    )
    return f'<symbol id="{name}" viewBox="0 0 {_WIDTH} {_HEIGHT}" shape-rendering="crispEdges">{steps}</symbol>'
