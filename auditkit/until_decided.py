"""Stopping as soon as every gate is decided: on images in random order, with intervals that hold at every look."""

from __future__ import annotations

from collections.abc import Sequence

from auditkit.assemble import assemble
from auditkit.baseline import Measured, compare_with
from auditkit.engine import Enough, Execution
from auditkit.errors import UsageError
from auditkit.gate import judge, verdict_of
from auditkit.gathering import Gathering
from auditkit.plan import Planned
from auditkit.requirements import Gate
from auditkit.result import GateRecord, NoteRecord, Result, Verdict
from auditkit.store import Store
from auditkit.workbench import Workbench

__all__ = ["IMAGES_A_LOOK", "check_decidable", "stop_when_decided", "stopped_note"]

# Between two looks at the gates: few, so that hardly any image is wasted, and enough to fill a batch.
IMAGES_A_LOOK = 32


def check_decidable(gates: Sequence[Gate], plan: Sequence[Planned]) -> None:
    """Make sure that gates can be decided image by image.

    Raises:
        UsageError: there are none, or one is on a metric that is no share of images, or on a check whose findings on
            an image are not final before all images were seen.
    """
    if not gates:
        raise UsageError('until_decided needs a gate to decide, such as --gate "noise.pgd/robust_accuracy >= 0.4"')
    for gate in gates:
        spec = next(planned.check.spec for planned in plan if planned.key == gate.check)
        metric = next(metric for metric in spec.metrics if metric.name == gate.metric.partition("@")[0])
        if metric.kind != "proportion":
            raise UsageError(f"until_decided decides shares of images one by one; {gate.name} is a {metric.kind}")
        if spec.scope == "dataset" or spec.reads:
            why = "learns from half of the images" if spec.scope == "dataset" else "reads what other checks found"
            raise UsageError(f"until_decided decides images one by one; {gate.check} {why}: run its gate without")


def stop_when_decided(
    bench: Workbench, plan: Sequence[Planned], store: Store, gates: Sequence[Gate], base: Measured | None
) -> Enough:
    """Return what tells whether all gates are decided by the images so far."""
    gathered: dict[str, Gathering] = {}
    gated = [planned for planned in plan if any(gate.check == planned.key for gate in gates)]

    def decided(execution: Execution) -> bool:
        if not any(shard.ids for shard in execution.shards):
            return False
        result, table, *_ = assemble(bench, gated, (), execution, store, (), {}, None, gathered)
        changes = compare_with(base, Measured(result, table))
        judged = judge(result, gates, changes=changes)
        return all(_is_settled(result, *pair) for pair in zip(gates, judged.gates, strict=True))

    return decided


def _is_settled(result: Result, gate: Gate, record: GateRecord) -> bool:
    """Return whether more images would change nothing: the numbers decide, or there will be none."""
    check = result.check(gate.check)
    if check is None or check.status != "done":
        return True
    # Not `record.measured`: doubt about a check does not go away with more images.
    return record.estimate is not None and verdict_of(gate, record.estimate) is not Verdict.INCONCLUSIVE


def stopped_note(used: int, there: int) -> NoteRecord:
    """Return what a reader must know of an audit that stopped early, or was ready to."""
    return NoteRecord(
        id="until-decided",
        level="info",
        text=(
            f"The images were taken in random order, and the audit stopped after {used} of {there}, as soon as every "
            "requirement was decided."
            if used < there
            else f"The audit was to stop as soon as every requirement was decided, and used all {there} images."
        ),
        remedy=(
            "Intervals of shares and of their changes hold at every look. Those of means, medians and of how well "
            "groups are told apart do not account for the early stop."
        ),
    )
