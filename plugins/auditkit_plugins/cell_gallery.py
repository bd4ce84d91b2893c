"""Pictures of images whose stickers fool one of two networks only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit import Context, Exhibit, Findings, Samples, from_16bit, image_panel

__all__ = ["cell_exhibits"]

_CELLS = ("original_only", "bounded_only")
_NETWORKS = ("the original network", "the network with bounds")


def cell_exhibits(
    columns: Mapping[str, npt.NDArray[Any]], on: Sequence[Findings], samples: Samples, ctx: Context, most: int
) -> tuple[Exhibit, ...]:
    """Return at most so many exhibits of the two cells in which the networks differ.

    `on` are the findings of the attack on the original network, and on the bounded one.
    """
    exhibits = [
        _exhibit(row, side, on[side], samples, ctx)
        for side, cell in enumerate(_CELLS)
        for row in columns[f"fooled_{cell}"].nonzero()[0].tolist()
    ]
    return tuple(sorted(exhibits, key=lambda exhibit: (-exhibit.score, exhibit.sample))[:most])


def _exhibit(row: int, side: int, findings: Findings, samples: Samples, ctx: Context) -> Exhibit:
    assert findings.attacked is not None  # noqa: S101 (every attack gives its images)
    found = findings.columns["found"]
    at = np.count_nonzero(found[:row])
    attacked = from_16bit(findings.attacked[at : at + 1], samples.images.device)[0]
    true = ctx.class_name(int(samples.labels[row]))
    taken = ctx.class_name(int(findings.columns["attacked_label"][row]))
    caption = (
        f"with stickers {_NETWORKS[side]} takes {true} for {taken}; the same search found none against "
        f"{_NETWORKS[1 - side]}"
    )
    panels = (image_panel(f"clean: {true}", samples.images[row]), image_panel(f"with stickers: {taken}", attacked))
    return Exhibit(samples.ids[row], caption, float(findings.columns["attacked_confidence"][row]), panels)
