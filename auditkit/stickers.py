"""A sticker detector for a pipeline, fitted as an audit fits it: `fit_stickers`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditkit.detection import FALSE_ALARMS, StickerRule
from auditkit.detection.detector import detector_file
from auditkit.errors import UsageError
from auditkit.plan import plan_checks
from auditkit.preparing import protected, set_up
from auditkit.store import write_atomically
from auditkit.workbench import Recipe

__all__ = ["CHECK", "FittedStickers", "fit_stickers"]

CHECK = "detect.stickers"


@dataclass(frozen=True)
class FittedStickers:
    """A written detector."""

    out: Path
    rule: StickerRule
    held_out: int
    """How many of the images it has not seen: those that an audit with the same seed judges it on."""

    def summary(self) -> str:
        """Return what it learned from, as lines for people."""
        clean, attacked = self.rule.fitted_on
        promises = [
            f"{share:.0%}"
            for share, threshold in zip(FALSE_ALARMS, self.rule.thresholds["combined"], strict=True)
            if threshold != float("inf")
        ]
        return "\n".join(
            (
                f"written: {self.out}",
                f"learned from {clean} clean images and {attacked} with stickers; "
                f"thresholds from {self.rule.calibrated_on} other clean images",
                f"false alarms promised on images like these: {' or '.join(promises)}",
                f"cost: {len(self.rule.windows) + 2} forward passes an image",
            )
        )


def fit_stickers(recipe: Recipe, out: Path, options: Mapping[str, Any]) -> FittedStickers:
    """Write the detector that the check `detect.stickers` judges in an audit of this model, these images and this seed.

    Args:
        recipe: the model, the images, and how to read both.
        out: a new `.npz` file.
        options: those of the check.

    Raises:
        UsageError: `out` is there or has another ending, or an option does not fit.
        ExecutionError: the model gives no scores, or there are too few images.
    """
    if out.suffix != ".npz":
        raise UsageError(f"a detector is written to a .npz file; got {out}")
    if out.exists():
        raise UsageError(f"{out} is there already; move it away, or choose another file")
    (planned,), _ = plan_checks([CHECK], {CHECK: options}, "full")
    missing = planned.check.spec.needs
    with protected(recipe):
        bench = set_up(recipe)
        lacking = sorted(capability.value for capability in missing - bench.model.capabilities)
        if lacking:
            raise UsageError(f"{bench.model.info.name} gives no {', '.join(lacking)}, which a detector needs")
        learned = next(bench.lessons(planned.check.spec.scope))
        rule = StickerRule.of(bench.learn(planned, learned, {}))
        channels, height, width = (int(size) for size in learned.images.shape[1:])
        write_atomically(out, detector_file(bench.classifier, rule, (channels, height, width)))
    return FittedStickers(out, rule, len(bench.dataset) - len(learned))
