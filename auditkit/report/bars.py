"""A requirement at a glance: the found interval and the threshold on one line, as inline SVG."""

from __future__ import annotations

from auditkit.report.text import is_share
from auditkit.result import GateRecord
from auditkit.stats import Estimate

__all__ = ["gate_bar"]

_WIDTH, _HEIGHT, _EDGE = 200, 26, 6
_MIDDLE = _HEIGHT / 2


def gate_bar(gate: GateRecord) -> str:
    """Return the bar of a gate, in the colour of the text around it; empty where nothing was found."""
    estimate = gate.estimate
    if estimate is None:
        return ""
    start, end = _scale(estimate, gate.threshold)

    def place(value: float) -> float:
        inside = min(max((value - start) / (end - start), 0.0), 1.0)
        return round(_EDGE + inside * (_WIDTH - 2 * _EDGE), 1)

    low, value, high, threshold = (place(x) for x in (estimate.low, estimate.value, estimate.high, gate.threshold))
    allowed = (threshold, _WIDTH - _EDGE) if gate.bound in (">=", ">") else (_EDGE, threshold)
    return (
        f'<svg class="bar" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' aria-hidden="true"><rect x="{allowed[0]}" y="3" width="{allowed[1] - allowed[0]:.1f}"'
        f' height="{_HEIGHT - 6}" fill="#808890" fill-opacity="0.18"/>'
        f'<path d="M{_EDGE} {_MIDDLE}H{_WIDTH - _EDGE}" stroke="#808890" stroke-opacity="0.5"/>'
        f'<rect x="{low}" y="{_MIDDLE - 5}" width="{max(high - low, 2):.1f}" height="10" rx="2"'
        f' fill="currentColor" fill-opacity="0.4"/>'
        f'<circle cx="{value}" cy="{_MIDDLE}" r="3.5" fill="currentColor"/>'
        f'<path class="tick" d="M{threshold} 1V{_HEIGHT - 1}" stroke="#808890" stroke-width="2"/></svg>'
    )


def _scale(estimate: Estimate, threshold: float) -> tuple[float, float]:
    if is_share(estimate) and estimate.low >= 0:
        return 0.0, 1.0
    low, high = min(estimate.low, threshold), max(estimate.high, threshold)
    margin = (high - low) * 0.15 or 1.0
    return low - margin, high + margin
